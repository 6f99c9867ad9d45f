"""Temporary files and directories that are cleared away whatever ended their writer.

A writer holds a lock on what it writes, and the system takes the lock away when the process ends,
even by SIGKILL: what nobody holds may go. So neither clocks nor host names nor process ids, which
others are given again, have a say, and a job that still writes on another node of a cluster loses
nothing.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".headcount-"


@contextmanager
def file(beside: Path) -> Iterator[Path]:
    """An empty file in the directory of `beside`, of the same suffix; it may be renamed."""
    name = f"{PREFIX}{beside.stem}-"
    handle, temporary = tempfile.mkstemp(dir=beside.parent, prefix=name, suffix=beside.suffix)
    try:
        _lock(handle)
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)
        os.close(handle)


class Directory(tempfile.TemporaryDirectory):
    """A directory in `dir`, or in that of the system; it may be renamed."""

    def __init__(self, dir: str | Path | None = None):
        super().__init__(prefix=PREFIX, dir=dir)
        self._handle = os.open(self.name, os.O_RDONLY)
        _lock(self._handle)

    def cleanup(self) -> None:
        super().cleanup()
        os.close(self._handle)


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks: `sweep` leaves everything there
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(directory: str | Path, below: bool = False) -> None:
    """Remove what writers that are no more left in `directory`, and in all `below` it."""
    for path in list(Path(directory).glob(f"{'**/' if below else ''}{PREFIX}*")):
        with suppress(OSError):  # it is held, another user's, or gone by now
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)
