"""The artifacts of one model in a study, as labelled polars frames and as figures.

    import headcount as hc

    study = hc.load("artifacts/opt-mini")
    study.importance("heads", task="mini_capital", shots=5)
    study.figures.head_importance()

Nothing is computed here: an error names the command that makes a missing artifact. Artifacts of
other studies, and outdated ones, are left out with a warning (`headcount.artifacts.present`).
"""

import re
import warnings
from collections.abc import Callable
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import TypeAlias

import altair as alt
import polars as pl

from headcount.artifacts import storage
from headcount.artifacts.present import Present, others

Chart: TypeAlias = alt.TopLevelMixin


class NotMadeError(FileNotFoundError):
    """An artifact does not exist; the message says which do, and how to make it."""


def load(directory: str | Path) -> "Study":
    """Return the study whose artifacts of one model are in `directory`: `artifacts/opt-mini`.

    If several studies share the directory, it is the one that ran last.

    Raises `NotMadeError` when there is none, with the models beside it or below it.
    """
    path = Path(directory)
    if (path / "model.json").is_file():
        return Study(path)
    there = sorted(str(file.parent) for file in path.glob("*/model.json"))
    there = there or sorted(str(file.parent) for file in path.parent.glob("*/model.json"))
    hint = f"give one of {', '.join(there)}" if there else "run the study: `headcount run`"
    raise NotMadeError(f"{path} holds no model's artifacts: {hint}")


class Study:
    """Frames of the artifacts in `directory`.

    Columns are those of `headcount.artifacts.schemas.SCHEMAS`, labels first (model, task, shots,
    component, ranking), so that frames can be concatenated and joined. An omitted argument means
    everything that the study has made. Files of other studies, and outdated ones, are left out with
    a warning; `others` lists them. Every method raises `NotMadeError` when there is nothing, and
    `storage.DamagedError` when a file is damaged.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)

    def __repr__(self) -> str:
        return f"Study({str(self.directory)!r})"

    @property
    def others(self) -> list[Path]:
        """The artifacts in the directory that belong to another study or are outdated.

        `headcount.artifacts.storage.frame(path)` reads one.
        """
        below = (
            self.directory.rglob("*.parquet"),
            self.directory.parent.glob("tasks/**/*.parquet"),
        )
        kept = self.directory / "evaluations"  # these belong to every study
        files = (path for paths in below for path in paths if not path.is_relative_to(kept))
        return Present(self.directory.parent).split(sorted(files))[1]

    @property
    def figures(self) -> "Figures":
        """The figures, as methods: `study.figures.head_pruning()`."""
        return Figures(self)

    def prompts(
        self, task: str | None = None, shots: int | None = None, split: str | None = None
    ) -> pl.DataFrame:
        """Return the artifact `tasks`: a row is a choice of a document, with its context and gold.

        `split` is "calibration" or "evaluation".
        """
        place = "../tasks/{task}/{shots}-shot/{split}.parquet"
        return self._read(place, task=task, shots=shots, split=split)

    def importance(
        self, component: str | None = None, task: str | None = None, shots: int | None = None
    ) -> pl.DataFrame:
        """Return the importance of the components "heads" or "ffns": a row is a head or an FFN.

        `score` is in nats per token for gradients, in the unit of the metric for oracles; further
        columns are its standard error over n documents and the estimator. The contributions of
        documents stay in the files: `headcount.artifacts.storage.frame(path)`.
        """
        frame = self._read(
            "importance/{task}/{shots}-shot/{component}.parquet",
            task=task,
            shots=shots,
            component=component,
        )
        return frame.drop("contributions", "weights")

    def rankings(
        self, component: str | None = None, ranking: str | None = None, shots: int | None = None
    ) -> pl.DataFrame:
        """Return the orders of removal: rank 0 is removed first.

        `ranking` is a task, "aggregate", or a control: "depth", "random-0", ...
        """
        return self._read(
            "rankings/{ranking}/{shots}-shot/{component}.parquet",
            ranking=ranking,
            shots=shots,
            component=component,
        )

    def pruning(
        self, component: str | None = None, task: str | None = None, shots: int | None = None
    ) -> pl.DataFrame:
        """Return documents at pruning levels: a row is one document under one ranking and level.

        `component` is "heads", "ffns" or "combined". Levels are in percent, log-likelihoods of the
        choices in nats; the mean of `metric` over documents is reported. `order` relates the
        `ranking` to the task: own, aggregate, closest, farthest, depth or random. Curves with
        intervals are in `table("head_pruning")`.
        """
        return self._read(
            "pruning/{task}/{shots}-shot/{component}/by-{ranking}.parquet",
            task=task,
            shots=shots,
            component=component,
            ranking=None,
        )

    def correlation(self, component: str | None = None, across: str = "cross_task") -> pl.DataFrame:
        """Return Spearman's rho and overlap of pairs of rankings, with intervals of 95 %.

        `across` is "cross_task", "cross_shot", or "reliability": the two halves of the documents.
        """
        place = "correlation/{across}/{component}.parquet"
        return self._read(place, across=across, component=component)

    def induction(self, kind: str | None = None) -> pl.DataFrame:
        """Return induction scores of heads, 0 to 1; `kind`: "prefix_matching" or "copying"."""
        return self._read("induction/{kind}.parquet", kind=kind)

    def table(self, figure: str) -> pl.DataFrame:
        """Return the table of a figure; its function in `report.tables` lists the columns."""
        return self._read("tables/{figure}.parquet", figure=figure)

    def summary(self) -> pl.DataFrame:
        """Return how many heads, FFNs and both can be removed for five points of the mean metric.

        A row is an order at a number of shots; columns: `headcount.report.tables.summary`.
        """
        return self.table("summary")

    def _read(self, place: str, **chosen: str | int | None) -> pl.DataFrame:
        """Return rows of the study's files at `place`, a path with the names of `chosen` in braces.

        A name that is None matches everything.
        """
        directory = self.directory
        if place.startswith("../"):
            directory, place = directory.parent, place.removeprefix("../")
        place = f"{directory}/{place}"
        there = _in_order(place, _named(chosen))
        found, left_out = Present(self.directory.parent).split(there)
        if not found:
            remark = f"{others(left_out)}. " if left_out else ""
            raise NotMadeError(remark + self._missing(place, chosen))
        if left_out:
            warnings.warn(others(left_out), stacklevel=3)
        return pl.concat(storage.frame(path) for path in found)

    def _missing(self, place: str, chosen: dict[str, str | int | None]) -> str:
        """Return the message about missing files."""
        every = _in_order(place, dict.fromkeys(chosen, "*"))
        found, _ = Present(self.directory.parent).split(every)
        values = [every[str(path)] for path in found]
        there = [
            f"{name} {', '.join(sorted(set(of_name), key=lambda value: _order((value,))))}"
            for name, of_name in zip(chosen, zip(*values, strict=True), strict=False)
        ]
        asked = " ".join(f"{name}={value!r}" for name, value in chosen.items() if value is not None)
        target = "" if None in chosen.values() else f" config.yaml {place.format(**chosen)}"
        return (
            f"there is no artifact {place} with {asked or 'any name'}: there are "
            f"{'; '.join(there) or 'none'}. Make it, if the configuration asks for it: `headcount "
            f"run{target}`"
        )


def _named(chosen: dict[str, str | int | None]) -> dict[str, str]:
    """Return the pattern of each of `chosen` in a path."""
    return {name: "*" if value is None else escape(str(value)) for name, value in chosen.items()}


def _in_order(place: str, named: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the files at `place` with the value of every name; numbers in rising order."""
    pattern = re.compile(re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(place)))
    files = (pattern.fullmatch(path) for path in glob(place.format(**named)))
    found = {match[0]: match.groups() for match in files if match}
    return {path: found[path] for path in sorted(found, key=lambda path: _order(found[path]))}


def _order(values: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return the sort key of values of names: numbers by size."""
    return [(int(value) if value.isdigit() else 0, value) for value in values]


class Figures:
    """The figures of a study as Altair charts, drawn from its tables by `headcount.report.figures`.

    A figure without a table in the study raises `NotMadeError`, any other name `AttributeError`.
    """

    def __init__(self, study: Study):
        self._study = study

    def __dir__(self) -> list[str]:
        from headcount.report import figures

        return [name for name in figures.__all__ if name != "save"]

    def __getattr__(self, name: str) -> Callable[[], Chart]:
        from headcount.report import figures

        if name not in dir(self):
            raise AttributeError(f"no figure is named {name!r}: {', '.join(dir(self))}")
        return partial(self._draw, getattr(figures, name), name)

    def _draw(self, draw: Callable[[pl.DataFrame], Chart], name: str) -> Chart:
        return draw(self._study.table(name))
