"""Temporary files and directories that are cleared away whatever ended their writer.

A writer holds a lock on what it writes, and the system takes the lock away when the process ends,
even by SIGKILL: what nobody holds may go. So neither clocks nor host names nor process ids, which
others are given again, have a say, and a job that still writes on another node of a cluster loses
nothing.

What is renamed to its place has the permissions that the user's new files and directories have
there: by the umask, or as a shared directory prescribes.
"""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".headcount-"


@contextmanager
def file(beside: Path) -> Iterator[Path]:
    """An empty file in the directory of `beside`, of the same suffix; it may be renamed."""
    name = f"{PREFIX}{beside.stem}-{secrets.token_hex(4)}{beside.suffix}"
    temporary = beside.with_name(name)
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _lock(handle)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


class Directory(tempfile.TemporaryDirectory):
    """A directory in `dir`, or in that of the system, for its user alone; it may be renamed."""

    def __init__(self, dir: str | Path | None = None):
        super().__init__(prefix=PREFIX, dir=dir)
        self._handle = os.open(self.name, os.O_RDONLY)
        _lock(self._handle)

    def cleanup(self) -> None:
        super().cleanup()
        os.close(self._handle)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a directory beside `target` that becomes `target` on success and goes on failure.

    On success its files are on the disk. Raises `OSError` if something is in `target` by then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    with Directory(target.parent) as name:
        directory = Path(name)
        yield directory
        _share(directory)
        for path in directory.rglob("*"):
            if path.is_file():
                flush(path)
        directory.replace(target)
        flush(target.parent)


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _share(directory: Path) -> None:
    """Give a directory, and all in it, the permissions that new ones have there."""
    new = directory / PREFIX
    new.mkdir()
    mode = stat.S_IMODE(new.stat().st_mode)
    new.rmdir()
    for path in [directory, *directory.rglob("*")]:
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks: `sweep` leaves everything there
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(directory: str | Path, below: bool = False) -> None:
    """Remove what writers that are no more left in `directory`, and in all `below` it.

    Where others may write, as in the system's, what lies there under such a name may be a trap: no
    link is followed, and no pipe waited for.
    """
    for path in list(Path(directory).glob(f"{'**/' if below else ''}{PREFIX}*")):
        with suppress(OSError):  # it is held, another user's, or gone by now
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)
