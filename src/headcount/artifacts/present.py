"""Which of the artifacts in a directory are those of the present study.

Several studies may have written there, and a run may have broken off. The study that ran last notes
what it asks for (`note`). An artifact belongs to it if it was made by that, from the contents of
its inputs as they lie there now, and if these belong to it as well.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from headcount.artifacts import lineage, storage
from headcount.artifacts.storage import DamagedError

NOTED = ".study.json"  # in the directory of artifacts


def note(jobs: Iterable[lineage.Job], directory: str | Path) -> None:
    """Note what a study asks for: of each artifact of its `jobs` what decides it beside inputs."""
    asked = {
        job.relative(path): _decided(job.made_of)
        for job in jobs
        for path in job.outputs
        if lineage.is_artifact(path)
    }
    storage.write_json(Path(directory, NOTED), {"artifacts": asked})


def _decided(made_of: dict) -> str:
    """What decides an artifact, beside the contents of its inputs: their names do."""
    return storage.hash_json({**made_of, "inputs": sorted(made_of["inputs"])})


@cache
def _made(path: Path, *_: int) -> tuple[str | None, str, dict[str, str]]:
    """The content of the artifact at `path`, what decided it, and the contents of its inputs.

    Told once for a state of the file, its time of change among it.
    """
    made = storage.provenance(path)
    of = made.get("made_of", {"inputs": {}})
    return made.get("content"), _decided(of), of["inputs"]


class Present:
    """The present study among the artifacts in `directory`, as they lie there at this moment.

    Where no study has noted what it asks for, all that lies there is taken for it.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self._asked: dict[str, str] | None = None
        self._known: dict[str, bool] = {}
        with suppress(FileNotFoundError, DamagedError):
            self._asked = storage.read_json(self.directory / NOTED)["artifacts"]

    def has(self, path: str | Path) -> bool:
        """Whether the artifact at `path` belongs to it.

        Raises `storage.DamagedError` when it, or what it was made of, is not what was written.
        """
        return self._asked is None or self._has(os.path.relpath(path, self.directory))

    def split(self, paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
        """Return the artifacts at `paths` that belong to it, and the others."""
        found = {Path(path): self.has(path) for path in paths}
        return [path for path in found if found[path]], [path for path in found if not found[path]]

    def _has(self, name: str) -> bool:
        if name not in self._known:
            _, decided, inputs = self._read(name)
            self._known[name] = self._asked.get(name) == decided and all(
                self._is(name, content) for name, content in inputs.items()
            )
        return self._known[name]

    def _is(self, name: str, content: str | None) -> bool:
        """Whether an input belongs to it and is what something was made of."""
        return (
            (self.directory / name).exists() and self._read(name)[0] == content and self._has(name)
        )

    def _read(self, name: str) -> tuple[str | None, str, dict[str, str]]:
        path = self.directory / name
        state = path.stat()
        return _made(path, state.st_ino, state.st_size, state.st_ctime_ns)


def others(paths: Sequence[Path], at_most: int = 3) -> str:
    """For a message: artifacts that do not belong to the present study, and what to do."""
    shown = ", ".join(map(str, paths[:at_most])) + (", ..." if len(paths) > at_most else "")
    few = f"{shown} is" if len(paths) == 1 else f"{len(paths)} files ({shown}) are"
    return f"{few} of another study, or out of date, and left out"
