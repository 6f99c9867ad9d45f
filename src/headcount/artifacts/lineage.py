"""What artifacts were made of, and whether a study would make them of the same again.

A job has a key: the hash of its rule, its wildcards, its parameters (with what its code means, and
the versions of packages), and the contents of its inputs. It stands in all that the job writes. An
artifact is current if its key is the one that the study asks for and no byte of it has changed;
times, places and the memory of a run have no say. What another key replaces is kept for a while:
`Job.keep`, `Job.take_back`, `forget`.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from headcount.artifacts import hashes, storage, temporaries
from headcount.artifacts.storage import DamagedError

ASKED = "HEADCOUNT_ASKED"  # environment variable: the file for what a study asks (`tell`)
EARLIER = ".earlier"  # below the directory of artifacts: what others have replaced, by key
KEPT = 2 * 2**30  # bytes that all earlier versions in a directory may take
_seen = hashes.Memory(os.devnull)  # what was seen of artifacts


@dataclass(frozen=True)
class Job:
    """One job of the workflow, whose artifacts are filed under `directory`.

    `places` says where earlier versions of artifacts lie that the study asks for.
    """

    rule: str
    wildcards: dict[str, str]
    parameters: dict  # that decide numbers
    inputs: Sequence[str]
    outputs: Sequence[str]
    directory: str
    places: dict[str, str] = field(default_factory=dict)

    @cached_property
    def made_of(self) -> dict:
        """All that decides what the job writes, as it is now."""
        return {
            "rule": self.rule,
            "wildcards": self.wildcards,
            "parameters": json.loads(json.dumps(self.parameters)),  # as it will be read
            "inputs": {
                self.relative(path): content_of(self.places.get(path, path))
                for path in sorted(self.inputs)
                if is_artifact(path)
            },
        }

    @cached_property
    def key(self) -> str:
        return storage.hash_json(self.made_of)

    def relative(self, path: str) -> str:
        """A path below the artifacts, wherever these are."""
        return os.path.relpath(path, self.directory)

    def problem(self) -> str | None:
        """Why the outputs that are there are not those that the study asks for, or None."""
        return problem_of(self.outputs, self.key)

    # --- earlier versions ---

    def keep(self) -> None:
        """Keep the outputs that are there among the earlier versions, if they are in order."""
        try:
            keys = _keys(self.outputs)
        except (FileNotFoundError, DamagedError):
            return
        known = [key for key in keys if key is not None]
        if len(keys) != 1 or not known:
            return
        place = self._place(*known)
        kept = [str(place / self.relative(path)) for path in self.outputs]
        if problem_of(kept, *known) is None:
            return
        with storage.has_place(place), temporaries.atomic_directory(place) as beside:
            for path in self.outputs:
                _copy(path, beside / self.relative(path))
            shutil.rmtree(place, ignore_errors=True)

    def own(self) -> None:
        """Make the outputs that are there the user's own, and what they say stays.

        Snakemake gives them their permissions back when the job fails, which only an owner may do.
        """
        for path in self.outputs:
            with suppress(FileNotFoundError):
                if os.stat(path).st_uid != os.geteuid():
                    _copy(path, path)

    def earlier(self) -> dict[str, str]:
        """Where an earlier version of each output lies that the study asks for; else empty."""
        place = self._place(self.key)
        files = {path: str(place / self.relative(path)) for path in self.outputs}
        return {} if problem_of(files.values(), self.key) else files

    def take_back(self) -> None:
        """Put the earlier version that the study asks for in the place of the present one."""
        with suppress(OSError):  # of another owner
            os.utime(self._place(self.key))  # the last that would be given up for another
        self.keep()
        for path, earlier in self.earlier().items():
            _copy(earlier, path)

    def _place(self, key: str) -> Path:
        return Path(self.directory, EARLIER, self.relative(self.outputs[0]), key[:16])


def _copy(path: str | Path, to: str | Path) -> None:
    with storage.atomic(to) as temporary:
        shutil.copyfile(path, temporary)


def is_artifact(path: str | Path) -> bool:
    """Whether a file tells what it was made of."""
    return Path(path).suffix in (".parquet", ".json")


def content_of(path: str | Path) -> str | None:
    """The content of an artifact; None where there is none to be believed."""
    try:
        return _identity(path)["content"]
    except (FileNotFoundError, DamagedError):
        return None


def _identity(path: str | Path) -> dict:
    """What an artifact says it is: its `key` and `content`, and the `seals` of figures beside it.

    Raises `FileNotFoundError`, and `DamagedError` as `storage.read` does.
    """
    return _seen.recall(Path(path), "identity ", _read_identity, above=0)


def _read_identity(path: Path) -> dict:
    made = storage.provenance(path)
    return {
        "key": made.get("key"),
        "content": made.get("content"),
        "seals": made.get("files", {}),
    }


def from_directory(path: str | Path, source: str) -> bool:
    """Whether the model of the artifact at `path` was found in the directory `source`."""
    try:
        made = storage.read_json(path)
    except (FileNotFoundError, DamagedError):
        return False
    content = made.get("made_of", {}).get("parameters", {}).get("content")
    return made.get("source") == source and isinstance(content, str)  # a hub model has a revision


def problem_of(outputs: Iterable[str], key: str) -> str | None:
    """Why `outputs`, all those of a job, are not what `key` stands for; None if they are."""
    try:
        keys = _keys(outputs)
    except FileNotFoundError as error:
        return f"{error.filename} is not there"
    except DamagedError as error:
        return str(error)
    return None if keys == {key} else "made from something else"


def _keys(outputs: Iterable[str]) -> set[str | None]:
    """The keys in the outputs of a job, of which no byte has changed.

    Figures have none, the artifact beside them has their hashes.
    """
    artifacts = [_identity(path) for path in outputs if is_artifact(path)]
    sealed = {name: seal for one in artifacts for name, seal in one["seals"].items()}
    for figure in (Path(path) for path in outputs if not is_artifact(path)):
        if sealed.get(figure.name) != _seen.recall(figure, "seal ", hashes.read, above=0):
            raise DamagedError(figure, "is damaged: its bytes are not those that were written")
    return {one["key"] for one in artifacts}


def seals(figures: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of files that cannot hold it themselves, by name."""
    paths = [Path(path) for path in figures]
    return dict(zip([path.name for path in paths], hashes.file_hashes(paths), strict=True))


# --- at the start ---


@dataclass(frozen=True)
class Stale:
    """Outputs that are there and are not what the study asks for."""

    job: Job
    problem: str

    @property
    def damage(self) -> str | None:
        """What is wrong with a file that cannot be believed; None if it is of something else."""
        if not self.problem.endswith(DamagedError.REMEDY):
            return None
        return self.problem.removesuffix(DamagedError.REMEDY)


@dataclass(frozen=True)
class State:
    """What is there of the artifacts that a study asks for."""

    stale: list[Stale]  # beside what follows from it, and from what is missing
    replaced: list[Job]  # jobs of whose outputs an earlier version is what the study asks for
    missing: list[Job]  # jobs none of whose outputs is there


def examine(jobs: Iterable[Job], memory: str | Path = os.devnull) -> State:
    """Return what is stale of the outputs of `jobs`, which follow those that make their inputs.

    Earlier versions that the study asks for count as if they were in their places. Nothing is
    written but `memory`, a file, in which the next start finds what this one has seen of artifacts.
    """
    global _seen
    state, _seen = State([], [], []), hashes.Memory(memory)
    for job in jobs:
        if not any(map(os.path.lexists, job.outputs)):
            state.missing.append(job)
        elif not (problem := job.problem()):
            continue
        elif earlier := job.earlier():
            job.places.update(earlier)
            state.replaced.append(job)
        else:
            state.stale.append(Stale(job, problem))
    _seen.save()
    return state


def following(jobs: Iterable[Job], remade: Iterable[Job]) -> list[Job]:
    """Return the jobs that are among `remade`, or need what those or others of them make.

    `jobs` follow those that make their inputs.
    """
    first = {job.outputs[0] for job in remade}
    made: set[str] = set()
    found = []
    for job in jobs:
        if job.outputs[0] in first or not made.isdisjoint(job.inputs):
            made.update(job.outputs)
            found.append(job)
    return found


def forget(directory: str | Path, most: int = KEPT) -> None:
    """Remove earlier versions from a directory of artifacts until they take at most `most` bytes.

    Those go first that were replaced, or taken back, longest ago.
    """
    home = Path(directory, EARLIER)
    sizes: Counter[Path] = Counter()  # of each version, the directory `Job._place`
    for path in home.rglob("*"):
        if path.is_file() and (place := _version(path, home)):
            sizes[place] += path.stat().st_size
    total = sizes.total()
    for place in sorted(sizes, key=os.path.getmtime):
        if total <= most:
            return
        shutil.rmtree(place, ignore_errors=True)
        total -= sizes[place]


def _version(path: Path, home: Path) -> Path | None:
    """Return the directory of the earlier version that a file below `home` belongs to."""
    of_key = (place for place in path.parents if re.fullmatch("[0-9a-f]{16}", place.name))
    return next((place for place in of_key if place.is_relative_to(home)), None)


# --- why ---


def tell(stale: Iterable[Stale], directory: str | Path, file: str | Path) -> None:
    """Write to `file`, for `why`, what a study asks of the stale artifacts in `directory`."""
    asked = {
        one.job.relative(path): {"problem": one.problem, "made_of": one.job.made_of}
        for one in stale
        for path in one.job.outputs
    }
    told = {"directory": str(Path(directory).resolve()), "stale": asked}
    Path(file).write_text(json.dumps(told), encoding="utf-8")


def why(path: str | Path, file: str | Path) -> tuple[dict, str, dict]:
    """What an artifact was made of; what is wrong with it; and all that is asked for otherwise.

    The last maps a name, such as `parameters.seed`, to its value in the artifact and the one that
    the study asks for, None where there is none. `file` has what the study asks for (`tell`).

    Raises `FileNotFoundError` when there is no such artifact, and `ValueError` when it is in
    another directory than the study's.
    """
    told = json.loads(Path(file).read_text(encoding="utf-8"))
    directory = Path(told["directory"])
    place = Path(path).resolve().relative_to(directory)
    asked = told["stale"].get(str(place))
    try:
        made = storage.provenance(_artifact_of(directory / place, directory))["made_of"]
    except DamagedError as error:
        return {}, str(error), {}
    if asked is None:
        return made, "current: this is what the study asks for", {}
    old, new = flat(made), flat(asked["made_of"])
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return made, f"stale: {asked['problem']}", {n: (old.get(n), new.get(n)) for n in names}


def _artifact_of(path: Path, directory: Path) -> Path:
    """The artifact itself, or what stands beside it: of a figure, the table that it shows."""
    if is_artifact(path):
        return path
    if (beside := path.with_suffix(".json")).exists():
        return beside
    model = path.relative_to(directory).parts[0]
    return directory / model / "tables" / f"{path.stem}.parquet"


def flat(value: Any, name: str = "") -> dict:
    """Nested dictionaries as one: names joined by dots -> values."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    inner = [flat(value[key], f"{name}.{key}".removeprefix(".")) for key in value]
    return {key: of_one[key] for of_one in inner for key in of_one}
