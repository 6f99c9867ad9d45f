"""What a writer that was killed left behind goes; what another still writes stays."""

import os
import signal
import subprocess
import sys

import pytest

from headcount import artifacts, temporaries

WRITER = """
import sys, time
from pathlib import Path
from headcount import artifacts, temporaries

with artifacts.atomic(sys.argv[1]) as path, temporaries.Directory(sys.argv[2]) as scratch:
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
    with artifacts.atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
        temporaries.sweep(tmp_path)
    assert left(tmp_path) == ["a.json"]
