"""SHA-256 of files, and what else is remembered of them, so that no start reads them again.

What is found of a file is remembered under `$XDG_CACHE_HOME/headcount` or `~/.cache/headcount`,
with its place, size, inode and times; of these the time of the last change of any kind (ctime)
cannot be set, so that a file with another content is read again. Hashes are remembered of files
over 64 MB. The names of files say nothing: what the Hugging Face hub's cache stores under its hash
may have been edited there since.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from headcount.artifacts import temporaries

LARGE = 64 * 2**20  # bytes
SETTLED = 2  # seconds: file systems count time in ticks, some of them in seconds


def memory() -> Path:
    """The directory in which headcount remembers what takes long to find out."""
    try:
        home = Path.home()
    except RuntimeError:  # a user whom the system does not know: nothing can be written there
        home = Path(os.devnull)
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache", "headcount")


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of the content of each file."""
    memory = Memory()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        hashes = list(threads.map(lambda path: memory.recall(path, "", read), paths))
    memory.save()
    return hashes


class Memory:
    """What was found of files, by place, for as long as the system says that each is as it was.

    It is kept in a file, the user's own by default, which is written atomically.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path or memory() / "hashes.json")
        self.is_new = False
        self.known: dict[str, tuple[str, Any]] = {}  # by `what` and place: state, what was found
        with suppress(OSError, ValueError, AttributeError):
            known = json.loads(self.path.read_text())
            self.known = {place: (state, found) for place, (state, found) in known.items()}

    def recall(self, path: Path, what: str, find: Callable[[Path], Any], above: int = LARGE) -> Any:
        """What `find` makes of a file, under the name `what`; once, if it has more bytes.

        Of a file that has changed within the last `SETTLED` seconds nothing is remembered: what is
        written to it next might leave the same times.
        """
        now, state = time.time(), path.stat()
        if state.st_size <= above:
            return find(path)
        times = f"{state.st_mtime_ns} {state.st_ctime_ns}"
        is_now = f"{state.st_size} {state.st_dev} {state.st_ino} {times}"
        place = what + os.path.abspath(path)
        if (found := self.get(place, is_now)) is None:
            found = find(path)
            if state.st_ctime <= now - SETTLED:
                self.put(place, is_now, found)
        return found

    def get(self, place: str, state: str) -> Any:
        """What was found at a place that is in this state; None if nothing is known of it."""
        before, found = self.known.get(place, (None, None))
        return found if before == state else None

    def put(self, place: str, state: str, found: Any) -> None:
        """Remember what was found at a place in the state that it is in, whatever was before."""
        self.known[place] = state, found
        self.is_new = True

    def save(self) -> None:
        """Add what was found; where nothing can be written, it is found again the next time."""
        if not self.is_new:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporaries.file(self.path) as temporary:
                temporary.write_text(json.dumps(self.known))
                temporary.replace(self.path)
        except OSError:
            return


def read(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
