"""GPUs of this machine, each for one job at a time."""

import errno
import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
COLLECTS = 0  # the byte that a job locks while it collects its GPUs; theirs are others


def visible() -> list[str]:
    """The GPUs that programs may use here, as `CUDA_VISIBLE_DEVICES` names them."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name]
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # it is not there, or may not or does not run
        return []
    listed = [line for line in asked.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i, _ in enumerate(listed)]


def take(count: int) -> None:
    """Keep `count` GPUs that no other job has until this process ends; others it does not see.

    Waits until there are so many. Where a scheduler such as SLURM has given the job its GPUs, or
    where none is found, nothing is done.
    """
    names = visible()
    if not count or "SLURM_JOB_ID" in os.environ or len(names) < count:
        return
    file = _file()
    # One job collects at a time: two with half of their GPUs would wait for each other for ever.
    fcntl.lockf(file, fcntl.LOCK_EX, 1, COLLECTS)
    taken: list[str] = []
    while len(taken) < count:
        for name in names:
            if len(taken) < count and name not in taken and _lock(file, name):
                taken.append(name)
        time.sleep(0 if len(taken) == count else 0.5)
    fcntl.lockf(file, fcntl.LOCK_UN, 1, COLLECTS)
    os.environ[VISIBLE] = ",".join(taken)


def _file() -> int:
    """The file of this user's locks, which nobody else can lock; everybody may write beside it."""
    path = Path(tempfile.gettempdir(), f"headcount-gpus-{os.getuid()}")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if os.fstat(file).st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "it is another user's")
        os.fchmod(file, 0o600)
    except OSError as error:
        raise OSError(
            f"{path}, by which the jobs of a user share GPUs, cannot be used: {error.strerror}. "
            "Remove it, or set TMPDIR to a directory of your own"
        ) from error
    return file


def _lock(file: int, name: str) -> bool:
    """Lock the byte of a GPU; the system gives it back when the process ends."""
    try:
        fcntl.lockf(
            file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(name.encode()[-7:], "big")
        )
    except (BlockingIOError, PermissionError):
        return False
    return True
