"""Importance scores under resamples, and under halves, of their documents.

A table of importance has a contribution and a weight of each of n documents to every component.
Document i, counted times[i] times, gives score = sum(times * contributions) / sum(times * weights).
A task's documents are drawn with the seed and the task's name: the same for all shots, components
and estimators, whatever other tasks the study has.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from headcount.artifacts import storage
from headcount.scores.rankings import COMPONENT, aligned


def resampled(table: pl.DataFrame, task: str, resamples: int, seed: int) -> np.ndarray:
    """Return scores [1 + resamples, N]: as measured, then under each bootstrap resample.

    A resample draws n documents with replacement.
    """
    n = table["n"][0]
    times = _generator(task, seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # [R, n]
    return np.vstack([table["score"].to_numpy(), _scores(table, times)])


def halves(table: pl.DataFrame, task: str, splits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [splits, N] of the first and of the second halves of the documents.

    Each row is a random split. If the number of documents is odd, the second half has one more.
    """
    n = table["n"][0]
    shuffled = _generator(task, seed).permuted(np.tile(np.arange(n), (splits, 1)), axis=1)
    first = shuffled < n // 2  # [splits, n]
    return _scores(table, first), _scores(table, ~first)


def _generator(task: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(task.encode())])


def _scores(table: pl.DataFrame, times: np.ndarray) -> np.ndarray:
    """Return scores [R, N] when document i counts times[r, i] times; times: [R, n]."""
    contributions, weights = (
        table[column].list.to_array(times.shape[1]).to_numpy()  # [N, n]
        for column in ("contributions", "weights")
    )
    times = times.astype(float)
    return (times @ contributions.T) / (times @ weights.T)


class ImportanceFiles:
    """Importance artifacts of one component of one model, by (task, shots) from their labels.

    Raises `ValueError` when a task lacks some number of shots, or has it twice.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths: dict[tuple[str, int], str | Path] = {}
        self.about: dict[str, str] = {}
        for path in paths:
            labels = storage.frame(path, ["model", "component", "task", "shots"])
            key = labels.select("task", "shots").row(0)
            about = labels.select("model", "component").row(0, named=True)
            self.about = self.about or about
            if about != self.about:
                raise ValueError(f"{path} belongs to {about}, the files before it to {self.about}")
            if key in self.paths:
                raise ValueError(
                    f"{self.paths[key]} and {path} are both {key[0]} at {key[1]} shots"
                )
            self.paths[key] = path
        self.tasks = list(dict.fromkeys(task for task, _ in self.paths))
        self.shots = sorted({shots for _, shots in self.paths})
        for task in self.tasks:
            for shots in self.shots:
                if (task, shots) not in self.paths:
                    raise ValueError(f"the importance of task {task} at {shots} shots is missing")
        self.components: list[tuple] | None = None  # the same in all files
        self.documents: dict[str, int] = {}  # their number, by task

    def read(self, task: str, shots: int) -> pl.DataFrame:
        """Return the table of importance, sorted by (layer, head).

        Raises `ValueError` when it does not match the tables read before.
        """
        path = self.paths[task, shots]
        [table] = aligned([storage.frame(path)])
        n, components = table["n"][0], table.select(COMPONENT).rows()
        self.components = self.components or components
        if components != self.components:
            raise ValueError(f"{path} does not hold the same components as the files before it")
        if n != self.documents.setdefault(task, n):
            raise ValueError(f"{path}: {n} documents, but {self.documents[task]} at other shots")
        return table

    @property
    def layers(self) -> np.ndarray:
        """The layer [N] of each component."""
        first = aligned([storage.frame(self.paths[self.tasks[0], self.shots[0]])])[0]
        return first["layer"].to_numpy()
