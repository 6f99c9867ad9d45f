"""The command `headcount cache`: lists and removes results of earlier computations.

These are the part files of `headcount.scores.evaluation_store`, converted checkpoints and, below
`lineage.EARLIER`, earlier versions of artifacts. A part file is unused if no study can read it any
more: the model's checkpoint, the code that computes or a package has changed, or the file is
damaged. A converted checkpoint is unused if the model has been resolved to another one since.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from headcount.artifacts import lineage, storage
from headcount.artifacts.storage import DamagedError
from headcount.models.fingerprint import CONVERTED
from headcount.scores import evaluation_store

MODELS = "*/evaluations/*/*-shot"  # below the directory of artifacts
UNUSED, ALL = "unused", "all"  # choices of what to remove


class NoCacheError(RuntimeError):
    """The directory does not exist."""


@dataclass(frozen=True)
class PartFile:
    """A file of evaluations or gradients of one model."""

    path: Path
    model: str
    size: int  # bytes
    rows: int  # 0 if damaged
    used: bool


def show(directory: Path, remove: str | None = None, console: Console | None = None) -> None:
    """Print the cache below `directory`, after removing its `UNUSED` files, or `ALL`.

    Earlier versions of artifacts are removed with `ALL` only, a converted checkpoint in use never:
    the study computes from it.

    Raises `NoCacheError` when the directory does not exist.
    """
    if not directory.is_dir():
        raise NoCacheError(f"{directory} is not there: give the directory of a study's artifacts")
    console = console or Console()
    gone = [part for part in parts(directory) if remove == ALL or (remove and not part.used)]
    for part in gone:
        part.path.unlink(missing_ok=True)
    freed = sum(part.size for part in gone)
    for path in [path for path, used in conversions(directory) if remove and not used]:
        freed += _size(path)
        shutil.rmtree(path, ignore_errors=True)
    if remove == ALL:
        freed += _size(directory / lineage.EARLIER)
        shutil.rmtree(directory / lineage.EARLIER, ignore_errors=True)
    if remove:
        console.print(f"{_mb(freed)} MB removed")
    console.print(_table(directory))


def parts(directory: Path) -> Iterator[PartFile]:
    """Yield the part files below a directory of artifacts, model by model."""
    for path in sorted(directory.glob(f"{MODELS}/*.parquet")):
        model = path.relative_to(directory).parts[0]
        size = path.stat().st_size
        try:
            made = storage.provenance(path)["evaluations"]
        except DamagedError:
            yield PartFile(path, model, size, 0, used=False)
            continue
        code = _code(path.name.split("-")[0])
        used = made == {**made, **code, "fingerprint": _fact("fingerprint", directory / model)}
        yield PartFile(path, model, size, pq.read_metadata(path).num_rows, used)


def conversions(directory: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the converted checkpoints below a directory of artifacts, and whether each is used."""
    for path in sorted(directory.glob(f"*/{CONVERTED}*")):
        yield path, path.name == _fact("path", path.parent)


_code = cache(evaluation_store.code)


def _fact(name: str, model: Path) -> str | None:
    """Return a fact about the model of a directory of artifacts, if known."""
    try:
        return storage.read_json(model / "model.json").get(name)
    except (FileNotFoundError, DamagedError):
        return None


def _table(directory: Path) -> Table:
    table = Table("kept", "files", "rows", "MB", "unused MB")
    for column in table.columns[1:]:
        column.justify = "right"
    there = list(parts(directory))
    for model in dict.fromkeys(part.model for part in there):
        own = [part for part in there if part.model == model]
        table.add_row(
            f"evaluations of {model}",
            str(len(own)),
            f"{sum(part.rows for part in own):,}",
            _mb(sum(part.size for part in own)),
            _mb(sum(part.size for part in own if not part.used)),
        )
    converted = list(conversions(directory))
    for model in dict.fromkeys(path.parent.name for path, _ in converted):
        those = [(path, used) for path, used in converted if path.parent.name == model]
        table.add_row(
            f"converted checkpoints of {model}",
            str(sum(len(_files(path)) for path, _ in those)),
            "",
            _mb(sum(_size(path) for path, _ in those)),
            _mb(sum(_size(path) for path, used in those if not used)),
        )
    earlier = directory / lineage.EARLIER
    table.add_row("earlier versions", str(len(_files(earlier))), "", _mb(_size(earlier)), "")
    return table


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in _files(directory))


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f}"
