"""Who writes below a directory of artifacts: one run, and one process each output.

Locks are bytes of one file, `.lock`: the first is the run's, of the others each belongs to an
output. The system gives a lock back when its process ends, however that ends, and where the file
system is shared it holds between machines. Where files cannot be locked, nobody is kept waiting.
"""

import fcntl
import hashlib
import json
import logging
import os
import socket
import stat
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

logger = logging.getLogger(__name__)
NAME = ".lock"
MOMENT = 5  # seconds that a dry run takes to look at the artifacts
# The file of each directory that this process has locks in: closing it would give them back.
_files: dict[str, int] = {}


class ClosedError(OSError):
    """The file of the locks is another user's, who lets nobody else write it."""

    def __init__(self, path: Path):
        super().__init__(
            f"{path} is another user's, who lets nobody else write it: let that user run "
            f"`chmod g+rw {path}`, and `umask 002` before the next study, or let `artifacts` "
            "name another folder"
        )


def take(directory: str | Path) -> str | None:
    """Become the one run that writes in `directory`; else who is, in words.

    Whoever only looks is waited for a moment. The lock is kept until the process ends. Where
    nothing can be written nobody needs one.

    Raises `ClosedError` where all can be written but the lock.
    """
    try:
        file = _file(directory)
    except ClosedError:
        raise
    except OSError:
        return None
    until = time.monotonic() + MOMENT
    while not _lock(file, 0, wait=False):
        if time.monotonic() > until:
            return _holder(file)
        time.sleep(0.2)
    since = datetime.now().isoformat(" ", "minutes")
    held = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(held).encode(), 0)
    return None


def take_output(directory: str | Path, output: str) -> None:
    """Become the one process that writes `output`, once another that does so has ended.

    Another one is there if a run was killed on a cluster, while its jobs went on.
    """
    file = _file(directory)
    name = os.path.relpath(output, directory).encode()
    byte = 1 + int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
    if not _lock(file, byte, wait=False):
        logger.warning("%s is being made by another process; waiting for it", output)
        _lock(file, byte, wait=True)


def _file(directory: str | Path) -> int:
    path = Path(directory).resolve() / NAME
    if str(path) not in _files:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _files[str(path)] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError as error:
            if os.access(path.parent, os.W_OK):
                raise ClosedError(path) from error
            raise
        _hide(_files[str(path)])
    return _files[str(path)]


def _hide(file: int) -> None:
    """Who may not write a file may not read it either: to read is enough to lock out a writer."""
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    writers = mode & 0o222
    if mode != writers | writers << 1:
        with suppress(PermissionError):  # it is another user's
            os.fchmod(file, writers | writers << 1)


def _lock(file: int, byte: int, wait: bool) -> bool:
    """Whether this process has the lock; also where the file system knows no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning(
            "files cannot be locked here (%s): make sure that only one run is under way", error
        )
    return True


def _holder(file: int) -> str:
    try:
        held = json.loads(os.pread(file, 1000, 0))
    except ValueError:
        return "another process"
    return "process {process} on {host}, since {since}".format(**held)
