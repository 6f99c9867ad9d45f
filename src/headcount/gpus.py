"""GPUs of this machine, each for one job at a time."""

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
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return []
    return [str(i) for i, _ in enumerate(filter(None, listed.splitlines()))]


def take(count: int) -> None:
    """Keep `count` GPUs that no other job has until this process ends; others it does not see.

    Waits until there are so many. Where a scheduler such as SLURM has given the job its GPUs, or
    where none is found, nothing is done.
    """
    names = visible()
    if not count or "SLURM_JOB_ID" in os.environ or len(names) < count:
        return
    file = os.open(
        Path(tempfile.gettempdir(), f"headcount-gpus-{os.getuid()}"), os.O_RDWR | os.O_CREAT
    )
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


def _lock(file: int, name: str) -> bool:
    """Lock the byte of a GPU; the system gives it back when the process ends."""
    try:
        fcntl.lockf(
            file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(name.encode()[-7:], "big")
        )
    except (BlockingIOError, PermissionError):
        return False
    return True
