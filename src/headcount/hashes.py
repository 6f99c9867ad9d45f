"""SHA-256 of files that may be large, each byte read once and not again at every start.

A file of the Hugging Face hub's cache is known by its hash already: what it stores as a large file
lies there under its SHA-256. Others are read, several at a time. What is found of a file over
64 MB is remembered, under `$XDG_CACHE_HOME/headcount` or `~/.cache/headcount`, with its place,
size, inode and times; of these the time of the last change of any kind (ctime) cannot be set, so
that a file with another content has another entry.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headcount import temporaries

LARGE = 64 * 2**20  # bytes
HUB_NAME = re.compile("[0-9a-f]{64}")


def memory() -> Path:
    """The directory in which headcount remembers what takes long to find out."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "headcount")


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of the content of each file."""
    memory = _Memory()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        hashes = list(threads.map(memory.hash, paths))
    memory.save()
    return hashes


class _Memory:
    """Hashes of large files by what the system says of each; a file that is written atomically."""

    def __init__(self) -> None:
        self.path = memory() / "hashes.json"
        self.found: dict[str, str] = {}
        try:
            self.known = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.known = {}

    def hash(self, path: Path) -> str:
        path = path.resolve()
        if path.parent.name == "blobs" and HUB_NAME.fullmatch(path.name):
            return path.name
        state = path.stat()
        if state.st_size <= LARGE:
            return _read(path)
        times = f"{state.st_mtime_ns} {state.st_ctime_ns}"
        key = f"{path} {state.st_size} {state.st_dev} {state.st_ino} {times}"
        if key not in self.known:
            self.found[key] = _read(path)
        return self.known.get(key) or self.found[key]

    def save(self) -> None:
        """Add what was found; where nothing can be written, it is found again the next time."""
        if not self.found:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporaries.file(self.path) as temporary:
                temporary.write_text(json.dumps(self.known | self.found, indent=1))
                temporary.replace(self.path)
        except OSError:
            return


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
