"""One run, and one process an output, at a time; GPUs for one job each."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys

import pytest

from headcount.artifacts import gpus, locks

HOLD = """
import sys, time
from headcount.artifacts import locks
directory, output = sys.argv[1:]
print(locks.take_output(directory, output) if output else locks.take(directory), flush=True)
time.sleep(600)
"""
TAKE = """
import json, os, sys, time
from headcount.artifacts import gpus
gpus.take(int(sys.argv[1]))
begin = time.monotonic()
time.sleep(1)
print(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], begin, time.monotonic()]))
"""


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that takes the lock of a run, or of an output, and keeps it."""
    started = []

    def hold(output: str = "") -> subprocess.Popen:
        started.append(start(HOLD, str(tmp_path), output))
        assert started[-1].stdout.readline() == "None\n"
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_second_run_is_told_of_the_first_until_that_ends(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "MOMENT", 0.5)
    first = holder()
    assert f"process {first.pid} on " in locks.take(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert locks.take(tmp_path) is None
    assert locks.take(tmp_path) is None  # it is ours


def test_an_output_is_waited_for_and_others_are_not(holder, tmp_path):
    first = holder("a/b.parquet")
    second = holder("a/c.parquet")
    third = start(HOLD, str(tmp_path), "a/b.parquet")
    try:
        assert not select.select([third.stdout], [], [], 2)[0]  # it says nothing yet
        first.send_signal(signal.SIGKILL)
        assert third.stdout.readline() == "None\n"
        assert second.poll() is None
    finally:
        third.kill()
        third.wait()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give a file away"
)
@pytest.mark.parametrize("output", ["", "a/b.parquet"])
def test_a_lock_that_another_user_has_closed_is_told(tmp_path, output):
    """As a umask of 022 does: a folder that can be written is no use without its lock."""
    (tmp_path / ".lock").touch(0o600)
    for path in (tmp_path, tmp_path / ".lock"):
        os.chown(path, 65534, 65534)
    tmp_path.chmod(0o777)
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", HOLD]
    told = subprocess.run([*command, tmp_path, output], capture_output=True, text=True)
    sentence = rf"\.lock is another user's, .* let that user run `chmod g\+rw {tmp_path}/\.lock`"
    assert told.returncode and re.search(sentence, told.stderr), told.stderr


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path):
    (tmp_path / "file").touch()
    assert locks.take(tmp_path / "file" / "artifacts") is None


def turns(count: int, devices: str, temporary) -> list[list]:
    """Three jobs that take `count` GPUs at once: the devices of each, its begin and end."""
    environment = {"CUDA_VISIBLE_DEVICES": devices, "TMPDIR": str(temporary)}
    jobs = [start(TAKE, str(count), **environment) for _ in range(3)]
    return [json.loads(job.communicate(timeout=120)[0]) for job in jobs]


@pytest.mark.parametrize("count,devices,together", [(1, "0", 1), (1, "0,1", 2), (2, "0,3,5", 1)])
def test_no_two_jobs_have_a_gpu_at_the_same_time(tmp_path, monkeypatch, count, devices, together):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    found = turns(count, devices, tmp_path)
    for names, begin, end in found:
        assert len(names.split(",")) == count and {*names.split(",")} <= {*devices.split(",")}
        others = [job for job in found if job[1] < end and begin < job[2] and job[1] != begin]
        assert not {*names.split(",")} & {name for job in others for name in job[0].split(",")}
        assert len(others) < 2 * together


def test_two_jobs_that_want_all_gpus_have_them_in_turn(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slowly = "gpus._lock = lambda *which, lock=gpus._lock: lock(*which) and not time.sleep(1)\n"
    code = TAKE.replace("gpus.take", f"{slowly}gpus.take", 1)
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)}
    jobs = [start(code, "2", **environment) for _ in range(2)]
    try:
        found = [json.loads(job.communicate(timeout=30)[0]) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [{*names.split(",")} for names, _, _ in found] == [{"0", "1"}] * 2


LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-1)
  MIG 1g.18gb     Device  0: (UUID: MIG-2)
GPU 1: NVIDIA H200 (UUID: GPU-3)
"""


@pytest.mark.parametrize(
    "text,found",
    [
        (f"#!/bin/sh\ncat <<EOF\n{LISTED}EOF\n", ["0", "1"]),
        ("#!/bin/sh\necho 'NVIDIA-SMI has failed: no driver is running.'\nexit 9\n", []),
        ("\x7fELF of another machine", []),
        (None, []),
    ],
)
def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch, text, found):
    """None where its command fails, cannot run here, or lies in what is no directory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if text:
        (tmp_path / "nvidia-smi").write_text(text)
        (tmp_path / "nvidia-smi").chmod(0o755)
    else:
        (tmp_path / "bin").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin' if text is None else tmp_path}:/usr/bin:/bin")
    assert gpus.visible() == found


def test_a_program_in_a_directory_that_is_not_ours_to_read_is_no_gpu(monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied: 'nvidia-smi'")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus.subprocess, "run", denied)
    assert gpus.visible() == []


@pytest.mark.parametrize("trap", ["link", "directory", "of another user"])
def test_the_locks_of_gpus_are_not_taken_from_others(tmp_path, monkeypatch, trap):
    """Everybody may write in the temporary directory: what lies there may be a trap."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / f"headcount-gpus-{os.getuid()}"
    if trap == "link":
        place.symlink_to(tmp_path / "precious")
    elif trap == "directory":
        place.mkdir()
    elif os.getuid():
        pytest.skip("only root can give a file away")
    else:
        place.touch()
        os.chown(place, 65534, 65534)
    with pytest.raises(OSError, match=r"headcount-gpus-\d+, by which .* set TMPDIR to a directory"):
        gpus._file()
    assert not (tmp_path / "precious").exists()


def test_the_locks_of_gpus_are_for_their_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / f"headcount-gpus-{os.getuid()}"
    place.touch()
    place.chmod(0o755)  # as an earlier version has made it
    os.close(gpus._file())
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_scheduler_has_chosen(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    gpus.take(1)
    assert gpus.visible() == ["2", "3"]
