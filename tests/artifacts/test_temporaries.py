"""What a writer that was killed left behind goes; what another still writes stays."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from headcount.artifacts import locks, storage, temporaries

WRITER = """
import sys, time
from pathlib import Path
from headcount.artifacts import storage, locks, temporaries
from headcount.models import conversion

with storage.atomic(sys.argv[1]) as path, temporaries.Directory(sys.argv[2]) as scratch:
    path.write_text("half")
    Path(scratch, "0").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes an artifact and holds a temporary directory."""
    command = [sys.executable, "-c", WRITER, tmp_path / "deep" / "a.parquet", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def left(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_left_goes_and_what_is_written_stays(writer, tmp_path, end):
    before = left(tmp_path)
    temporaries.sweep(tmp_path, below=True)
    assert left(tmp_path) == before and len(before) == 4
    os.kill(writer.pid, end)
    writer.wait()
    temporaries.sweep(tmp_path, below=True)
    assert left(tmp_path) == ["deep"]


def test_only_what_is_ours_goes(tmp_path):
    others = [tmp_path / name for name in ("a.parquet", ".asked.json", "headcount-a", ".other-a")]
    for path in others:
        path.touch()
    temporaries.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_an_interrupted_rename_loses_nothing(tmp_path):
    with storage.atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
        temporaries.sweep(tmp_path)
    assert left(tmp_path) == ["a.json"]


@pytest.mark.parametrize("trap", ["pipe", "link to a file", "link to a directory"])
def test_what_others_lay_under_our_names_is_no_trap(tmp_path, trap):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    laid = tmp_path / "tmp" / ".headcount-a"
    laid.parent.mkdir()
    if trap == "pipe":
        os.mkfifo(laid)
    else:
        laid.symlink_to(precious / "file" if trap.endswith("file") else precious)
    sweeping = threading.Thread(target=temporaries.sweep, args=[laid.parent], daemon=True)
    sweeping.start()
    sweeping.join(10)
    assert not sweeping.is_alive()
    assert (precious / "file").read_text() == "precious"


# --- permissions ---


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_written_has_the_permissions_of_the_users_new_files(umask, opt, tmp_path):
    """Also in a directory whose new directories are of its group."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o2775)
    storage.write_json(home / "tiny" / "model.json", {})
    with storage.atomic(home / "tiny" / "figures" / "a.svg") as path:
        path.write_text("<svg/>")
    with temporaries.atomic_directory(home / "tiny" / "checkpoint") as directory:
        opt.hf.save_pretrained(directory)  # safetensors writes for its owner alone
        opt.tokenizer.save_pretrained(directory)
    paths = [*home.rglob("*")]
    assert len(paths) > 6 and home / "tiny/checkpoint/model.safetensors" in paths
    for path in paths:
        wanted = 0o2777 & ~umask if path.is_dir() else 0o666 & ~umask
        assert path.stat().st_mode & 0o7777 == wanted, path


@pytest.mark.parametrize("there", [False, True])
def test_only_who_may_write_may_lock_the_artifacts(umask, tmp_path, there):
    if there:  # as an earlier version has left it
        (tmp_path / locks.NAME).touch()
        (tmp_path / locks.NAME).chmod(0o644)
    assert locks.take(tmp_path) is None
    mode = (tmp_path / locks.NAME).stat().st_mode & 0o777
    assert mode == (0o660 if umask == 0o002 and not there else 0o600)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), temporaries.atomic_directory(tmp_path / "a" / "b") as directory:
        (directory / "half").touch()
        raise KeyError
    assert left(tmp_path) == ["a"]
    with temporaries.atomic_directory(tmp_path / "a" / "b") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "whole").touch()
    assert left(tmp_path) == ["a", "a/b", "a/b/sub", "a/b/sub/whole"]
