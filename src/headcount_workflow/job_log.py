"""What a job's log says to those who watch the run; the same for a job of a cluster."""

import re
from pathlib import Path

FAILED = "FAILED: "  # begins what a failed job says last: why, in the words of its exception
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_ENTRY = re.compile(rf"^(?:{'|'.join(_LEVELS)}) ([\w.]+): |^{FAILED}|^Traceback ", re.MULTILINE)


def reason(error: BaseException) -> str:
    """Why a job failed; a message that is no sentence needs the name of its exception."""
    text = str(error).strip()
    return text if " " in text else f"{type(error).__name__}: {text}".removesuffix(": ")


class JobLog:
    """The log of a job, read as it grows from the moment that the job is given to Snakemake."""

    def __init__(self, path: Path):
        self.path = path
        self._earlier = self._stamp()  # of the log that an earlier run has left
        self._read = 0  # bytes
        self.begun = False
        self.progress: str | None = None  # how far it is, in the words of `headcount.progress`
        self.failure: str | None = None

    def follow(self) -> list[str]:
        """Read what is new; the warnings in it."""
        stamp = self._stamp()
        if not self.begun and stamp == self._earlier:
            return []
        self.begun = True
        if stamp is None or stamp[1] == self._read:
            return []
        if stamp[1] < self._read:  # a job that was killed has begun again
            self._read = 0
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        return self._understand(new.decode("utf-8", errors="replace"))

    @property
    def changed(self) -> int:
        """When it was written to last, in nanoseconds."""
        return (self._stamp() or (0, 0))[0]

    def _stamp(self) -> tuple[int, int] | None:
        """Time of the last change, and bytes."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _understand(self, text: str) -> list[str]:
        warnings = []
        entries = [*_ENTRY.finditer(text)]
        ends = [*(entry.start() for entry in entries[1:]), len(text)]
        for entry, end in zip(entries, ends, strict=False):  # none, or as many
            said = text[entry.end() : end].strip()
            if entry[0] == FAILED:
                self.failure = said
            elif entry[1] == "headcount.progress":
                self.progress = said
            elif entry[0].startswith("WARNING headcount"):
                warnings.append(said)
        return warnings
