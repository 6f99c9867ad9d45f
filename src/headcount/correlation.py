"""How alike two sets of importance scores are: rank correlation, overlap, and their uncertainty.

Spearman's rho (SRCC) correlates the *scores*, with average ranks for ties. The plotting code of
Bansal et al. (2023) correlates `argsort` indices instead, which is no rank correlation: entry i of
an argsort is which component has rank i, not which rank component i has.

Confidence intervals are percentile bootstrap intervals (95 %) over documents. The documents of a
task are drawn once a replicate, whatever the shots and the component, since its calibration
documents are the same at all shots; those of two tasks are drawn independently. Drawing documents
again adds noise to scores that already have some, so replicates correlate a little less than the
scores themselves: with few documents rho can lie near or above the upper bound.
"""

import zlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import rankdata

from headcount import artifacts
from headcount.rankings import COMPONENT, aligned

AGGREGATE = "aggregate"
TOP = 0.3  # share of the components whose overlap is counted


class Agreement(NamedTuple):
    """Spearman's rho (None if a score vector is constant), overlap, and the overlap of chance."""

    rho: float | None
    overlap: float
    chance: float


def agreement(scores_a: pl.DataFrame, scores_b: pl.DataFrame) -> Agreement:
    """Agreement of two tables (layer, head, score) of the same N components.

    The overlap is the share of their k = max(1, round(0.3 N)) most important components that both
    have in common, ties broken as in a ranking, by (layer, head); chance gives k / N.

    Raises `ValueError` when the tables do not hold the same components.
    """
    a, b = (_ranked(table["score"].to_numpy()[None]) for table in aligned([scores_a, scores_b]))
    rho = _rho(a, b)[0]
    return Agreement(
        None if np.isnan(rho) else float(rho), float(_overlap(a, b)[0]), _top(len(scores_a))[1]
    )


def cross_task(importance_paths: Sequence[str | Path], resamples: int, seed: int) -> pl.DataFrame:
    """Agreement of tasks at the same shots: rows of the artifact `correlation`.

    For every shots, in rising order: all pairs of tasks, in the order of `importance_paths`, then
    every task with the aggregate (the mean of all tasks' scores, this task's included).

    Raises `ValueError` when files are missing, double, or do not match.
    """
    files = _Files(importance_paths)
    rows = []
    for shots in files.shots:
        scores = {task: files.scores(task, shots, resamples, seed) for task in files.tasks}
        ranked = {task: _ranked(matrix) for task, matrix in scores.items()}
        ranked[AGGREGATE] = _ranked(sum(scores.values()) / len(scores))
        pairs = [*combinations(files.tasks, 2), *((task, AGGREGATE) for task in files.tasks)]
        rows += [_row(a, b, shots, shots, ranked[a], ranked[b]) for a, b in pairs]
    return _frame(rows)


def cross_shot(importance_paths: Sequence[str | Path], resamples: int, seed: int) -> pl.DataFrame:
    """Agreement of a task, or of the aggregate, with itself at other shots: shots_a < shots_b.

    Rows of the artifact `correlation`, tasks in the order of `importance_paths`, the aggregate
    last. Raises `ValueError` when files are missing, double, or do not match.
    """
    files = _Files(importance_paths)
    totals = dict.fromkeys(files.shots, 0.0)  # sums over the tasks so far
    rows = []
    for name in (*files.tasks, AGGREGATE):
        ranked = {}
        for shots in files.shots:
            if name == AGGREGATE:
                scores = totals[shots] / len(files.tasks)
            else:
                scores = files.scores(name, shots, resamples, seed)
                totals[shots] = totals[shots] + scores
            ranked[shots] = _ranked(scores)
        rows += [_row(name, name, a, b, ranked[a], ranked[b]) for a, b in combinations(ranked, 2)]
    return _frame(rows)


def closest_and_farthest(cross_task: pl.DataFrame, task: str, shots: int) -> tuple[str, str]:
    """The tasks whose scores correlate most and least with those of `task` at `shots`.

    Ties go to the first by name; a rho that is not defined counts as the lowest.

    Raises `ValueError` when the table has no other task to compare with.
    """
    same_shots = (pl.col("shots_a") == shots) & (pl.col("shots_b") == shots)
    rhos = {}
    for a, b, rho in cross_task.filter(same_shots).select("a", "b", "rho").iter_rows():
        if task in (a, b) and AGGREGATE not in (a, b):
            rhos[b if a == task else a] = -np.inf if rho is None else rho
    if not rhos:
        raise ValueError(
            f"task {task!r} has no other task to be compared with at {shots} shots: "
            "its closest and farthest task need a study of at least two tasks"
        )
    names = sorted(rhos)
    return max(names, key=rhos.get), min(names, key=rhos.get)


# --- scores under resamples of the documents ---


class _Files:
    """Importance artifacts of one component by (task, shots), as their provenance says."""

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = {}
        for path in paths:
            made_by = artifacts.provenance(path)
            key = made_by["task"], made_by["shots"]
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
                    raise ValueError(f"no importance of task {task} at {shots} shots was given")
        self.components, self.documents = None, {}  # of all files; of each task

    def scores(self, task: str, shots: int, resamples: int, seed: int) -> np.ndarray:
        """Scores [1 + resamples, N]: as measured, then under each resample of the n documents.

        A resample weighs document i with the number of times w_i that it was drawn:
        score = sum(w * contributions) / sum(w * weights).
        """
        path = self.paths[task, shots]
        [table] = aligned([pl.read_parquet(path)])
        n = table["n"][0]
        components = table.select(COMPONENT).rows()
        self.components = self.components or components
        if components != self.components:
            raise ValueError(f"{path} does not hold the same components as the files before it")
        if n != self.documents.setdefault(task, n):
            raise ValueError(f"{path}: {n} documents, but {self.documents[task]} at other shots")
        # The task's name seeds the draw: it stays the same when other tasks come or go.
        generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
        times = generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)  # [R, n]
        contributions, weights = (
            table[column].list.to_array(n).to_numpy()  # [N, n]
            for column in ("contributions", "weights")
        )
        resampled = (times @ contributions.T) / (times @ weights.T)  # [R, N]
        return np.vstack([table["score"].to_numpy(), resampled])


# --- statistics of many score vectors at once ---


class _Ranked(NamedTuple):
    ranks: np.ndarray  # [S, N] average ranks, centred, of length 1; nan where scores are constant
    top: np.ndarray  # [S, N] whether a component is among the k most important


def _top(total: int) -> tuple[int, float]:
    """Number k of components that count as most important, and the overlap that chance gives."""
    k = max(1, round(TOP * total))
    return k, k / total


def _ranked(scores: np.ndarray) -> _Ranked:
    """Ranks of the score vectors [S, N], components in the order (layer, head)."""
    ranks = rankdata(scores, axis=1) - (scores.shape[1] + 1) / 2
    length = np.sqrt((ranks**2).sum(1, keepdims=True))
    ranks /= np.where(length > 0, length, np.nan)
    k, _ = _top(scores.shape[1])
    most = np.argsort(scores, axis=1, kind="stable")[:, -k:]  # stable: ties by (layer, head)
    top = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(top, most, True, axis=1)
    return _Ranked(ranks, top)


def _rho(a: _Ranked, b: _Ranked) -> np.ndarray:
    """Spearman's rho [S]: Pearson's correlation of the ranks."""
    return np.clip(np.einsum("sn,sn->s", a.ranks, b.ranks), -1, 1)


def _overlap(a: _Ranked, b: _Ranked) -> np.ndarray:
    return (a.top & b.top).sum(1) / a.top.sum(1)  # [S]


def _row(a: str, b: str, shots_a: int, shots_b: int, x: _Ranked, y: _Ranked) -> dict:
    row = {"a": a, "b": b, "shots_a": shots_a, "shots_b": shots_b}
    for name, values in (("rho", _rho(x, y)), ("overlap", _overlap(x, y))):
        row[name] = None if np.isnan(values[0]) else values[0]
        replicates = values[1:][~np.isnan(values[1:])]  # of rho, those in which it is defined
        defined = row[name] is not None and len(replicates) > 0
        low, high = np.quantile(replicates, [0.025, 0.975]) if defined else (None, None)
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row | {"overlap_chance": _top(x.top.shape[1])[1]}


def _frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=pl.Schema(artifacts.SCHEMAS["correlation"]))
