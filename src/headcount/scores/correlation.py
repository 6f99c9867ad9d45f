"""Agreement of two sets of importance scores: rank correlation, overlap, and their uncertainty.

Spearman's rho (SRCC) correlates the *scores*, with average ranks for ties. The plotting code of
Bansal et al. (2023) correlates `argsort` indices instead, which is no rank correlation: entry i of
an argsort is which component has rank i, not which rank component i has.

Every rho comes with three statistics:

- Its percentile bootstrap interval (95 %) over documents. A task's documents are drawn once per
  replicate, for all shots, components and estimators, since its calibration documents are the same;
  the documents of two tasks are drawn independently. (Resampling adds noise to scores that already
  have some, so replicates correlate a little less than the scores themselves: with few documents
  rho can lie near or above the upper bound.)
- The range of rho between unrelated scores: one of the two is permuted.
- For heads, the range of rho between scores that share the layers only: heads are permuted within
  their layer.
"""

from collections.abc import Sequence
from itertools import combinations, permutations
from math import factorial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import rankdata

from headcount.artifacts import schemas, storage
from headcount.scores._resampling import ImportanceFiles, halves, resampled
from headcount.scores.rankings import aligned

AGGREGATE = "aggregate"
TOP = 0.3  # share of the components that overlap is counted among
MAX_SPLITS = 500  # into halves; the mean over more would change in its third decimal
INTERVAL = (0.025, 0.975)


class Agreement(NamedTuple):
    """Spearman's rho (None if a score vector is constant), overlap, and overlap by chance."""

    rho: float | None
    overlap: float
    chance: float


def agreement(scores_a: pl.DataFrame, scores_b: pl.DataFrame) -> Agreement:
    """Return the agreement of two tables (layer, head, score) of the same N components.

    Overlap is the share of the k = max(1, round(0.3 N)) most important components that both have in
    common, ties broken by (layer, head) as in a ranking; by chance it is k / N.

    Raises `ValueError` when the tables do not hold the same components.
    """
    a, b = (_ranked(table["score"].to_numpy()[None]) for table in aligned([scores_a, scores_b]))
    rho = _rho(a, b)[0]
    return Agreement(
        None if np.isnan(rho) else float(rho), float(_overlap(a, b)[0]), _top(len(scores_a))[1]
    )


def cross_task(importance_paths: Sequence[str | Path], resamples: int, seed: int) -> pl.DataFrame:
    """Return the agreement of tasks at the same shots: rows of the artifact `correlation`.

    Each number of shots, in rising order, has all pairs of tasks in the order of
    `importance_paths`, then every task with the aggregate (the mean of all tasks' scores, this
    task's included). A single task has no pair.

    Raises `ValueError` when files are missing, duplicate, or do not match.
    """
    files = ImportanceFiles(importance_paths)
    baseline = _Baseline(files.layers, resamples, seed)
    rows = []
    for shots in files.shots:
        scores = {
            task: resampled(files.read(task, shots), task, resamples, seed) for task in files.tasks
        }
        ranked = {task: _ranked(matrix) for task, matrix in scores.items()}
        ranked[AGGREGATE] = _ranked(sum(scores.values(), np.zeros(1)) / len(scores))
        with_aggregate = ((task, AGGREGATE) for task in files.tasks if len(files.tasks) > 1)
        rows += [
            {**files.about, "a": a, "b": b, "shots_a": shots, "shots_b": shots}
            | _compared(ranked[a], ranked[b], baseline)
            for a, b in (*combinations(files.tasks, 2), *with_aggregate)
        ]
    return _frame(rows, "correlation")


def cross_shot(importance_paths: Sequence[str | Path], resamples: int, seed: int) -> pl.DataFrame:
    """Return the agreement of each task with itself at other shots: shots_a < shots_b.

    Rows of the artifact `correlation`, tasks in the order of `importance_paths`, then the aggregate
    if there are several. Raises `ValueError` when files are missing, duplicate, or do not match.
    """
    files = ImportanceFiles(importance_paths)
    baseline = _Baseline(files.layers, resamples, seed)
    totals = dict.fromkeys(files.shots, np.zeros(1))  # sums over the tasks so far
    rows = []
    for name in (*files.tasks, *([AGGREGATE] if len(files.tasks) > 1 else [])):
        ranked = {}
        for shots in files.shots:
            if name == AGGREGATE:
                scores = totals[shots] / len(files.tasks)
            else:
                scores = resampled(files.read(name, shots), name, resamples, seed)
                totals[shots] = totals[shots] + scores
            ranked[shots] = _ranked(scores)
        rows += [
            {**files.about, "a": name, "b": name, "shots_a": a, "shots_b": b}
            | _compared(ranked[a], ranked[b], baseline)
            for a, b in combinations(ranked, 2)
        ]
    return _frame(rows, "correlation")


def cross_estimator(
    estimator_paths: Sequence[str | Path], resamples: int, seed: int
) -> pl.DataFrame:
    """Return the agreement of estimators on the same documents, from artifacts `estimators`.

    Each file gives all pairs of its estimators, then each with itself (a == b): see `diagonal`.

    Columns: model, component, task, shots, a, b, and those of the artifact `correlation` from rho
    on.
    """
    labels = {"model": pl.String, "component": pl.String, "task": pl.String, "shots": pl.Int32}
    rows = []
    for path in estimator_paths:
        table = storage.frame(path)
        about = table.select(list(labels)).row(0, named=True)
        scores = {
            name: aligned([table.filter(estimator=name)])[0]
            for name in table["estimator"].unique(maintain_order=True)
        }
        baseline = _Baseline(next(iter(scores.values()))["layer"].to_numpy(), resamples, seed)
        ranked = {
            name: _ranked(resampled(of_one, about["task"], resamples, seed))
            for name, of_one in scores.items()
        }
        for a, b in combinations(ranked, 2):
            rows.append({**about, "a": a, "b": b, **_compared(ranked[a], ranked[b], baseline)})
        for name, of_one in scores.items():
            both = halves(of_one, about["task"], min(resamples, MAX_SPLITS), seed)
            rows.append({**about, "a": name, "b": name, **_stepped_up(_split_half(*both))})
    columns = labels | pl.Schema(schemas.SCHEMAS["correlation"])
    del columns["shots_a"], columns["shots_b"]
    return pl.DataFrame(rows, schema=columns)


def transfers(importance: Sequence[str | Path], task: str) -> dict[str, str]:
    """Return the tasks whose artifacts `importance` correlate most and least with a task's own."""
    scores = {storage.provenance(path)["task"]: storage.frame(path) for path in importance}
    return dict(zip(("closest", "farthest"), closest_and_farthest(scores, task), strict=True))


def closest_and_farthest(scores: dict[str, pl.DataFrame], task: str) -> tuple[str, str]:
    """Return the tasks whose scores correlate most and least with those of `task`.

    `scores` has the table (layer, head, score) of each task. Ties go to the first by name; an
    undefined rho counts as the lowest.

    Raises `ValueError` when there is no other task to compare with.
    """
    names = sorted(set(scores) - {task})
    if not names:
        raise ValueError(
            f"task {task!r} has no other task to be compared with: a closest and a farthest task "
            "need a study of at least two tasks"
        )

    def rho(name: str) -> float:
        found = agreement(scores[task], scores[name]).rho
        return -np.inf if found is None else found

    return max(names, key=rho), min(names, key=rho)


# --- agreement of a ranking with itself ---


def reliability(importance_paths: Sequence[str | Path], resamples: int, seed: int) -> pl.DataFrame:
    """Return the split-half reliability of every task's scores, and of the aggregate.

    Rows of the artifact `reliability`.

    The documents are split at random into halves, min(`resamples`, `MAX_SPLITS`) times, and the
    scores of the halves correlated. rho is the mean over splits, its interval contains 95 % of
    them. A split counts 0 if the scores of one half are all equal, and is left out if those of both
    are. Scores from all documents are more reliable than scores from half of them: spearman_brown
    estimates rho between the former and scores from as many other documents, 2 rho / (1 + rho)
    (Spearman 1910, Correlation calculated from faulty data; Brown 1910, Some experimental results
    in the correlation of mental abilities; both British Journal of Psychology 3). There a negative
    rho counts as 0.

    Raises `ValueError` when files are missing, duplicate, or do not match.
    """
    files = ImportanceFiles(importance_paths)
    splits = min(resamples, MAX_SPLITS)
    rows = []
    for shots in files.shots:
        scores = {task: halves(files.read(task, shots), task, splits, seed) for task in files.tasks}
        documents = dict(files.documents)
        if len(files.tasks) > 1:
            scores[AGGREGATE] = tuple(
                np.mean(half, axis=0) for half in zip(*scores.values(), strict=True)
            )
            documents[AGGREGATE] = sum(documents.values())
        rows += [
            {**files.about, "task": name, "shots": shots, "n": documents[name], "splits": splits}
            | _split_half(first, second)
            for name, (first, second) in scores.items()
        ]
    return _frame(rows, "reliability")


def diagonal(reliability: pl.DataFrame) -> pl.DataFrame:
    """Return rows of `reliability` as rows of `correlation`, of a ranking with itself.

    Their rho is the stepped-up reliability (spearman_brown), their overlap that of the halves; they
    have no permutation.
    """
    rows = [
        {"model": row["model"], "component": row["component"]}
        | {"a": row["task"], "b": row["task"], "shots_a": row["shots"], "shots_b": row["shots"]}
        | _stepped_up(row)
        for row in reliability.iter_rows(named=True)
    ]
    return _frame(rows, "correlation")


def _split_half(first: np.ndarray, second: np.ndarray) -> dict:
    """Return statistics of the artifact `reliability` from scores [splits, N] of both halves."""
    x, y = _ranked(first), _ranked(second)
    rho = _rho(x, y)
    flat_x, flat_y = (np.isnan(half.ranks[:, 0]) for half in (x, y))
    rho[flat_x != flat_y] = 0  # a half whose scores are all equal agrees with no ranking
    found: dict[str, float | None] = {"overlap_chance": _top(first.shape[1])[1]}
    for name, values in (("rho", rho), ("overlap", _overlap(x, y))):
        defined = values[~np.isnan(values)]
        found[name] = defined.mean() if len(defined) else None
        found |= _interval(name, defined)
    for bound in ("", "_low", "_high"):
        half = found[f"rho{bound}"]
        stepped_up = None if half is None else 2 * max(half, 0.0) / (1 + max(half, 0.0))
        found[f"spearman_brown{bound}"] = stepped_up
    return found


def _stepped_up(row: dict) -> dict:
    names = [f"{name}{bound}" for name in ("rho", "overlap") for bound in ("", "_low", "_high")]
    found = {name: row[name.replace("rho", "spearman_brown")] for name in names}
    return found | {"overlap_chance": row["overlap_chance"]}


# --- statistics of many score vectors at once ---


class _Ranked(NamedTuple):
    ranks: np.ndarray  # [S, N] average ranks, centred, of length 1; nan where scores are constant
    top: np.ndarray  # [S, N] whether a component is among the k most important


def _top(total: int) -> tuple[int, float]:
    """Return the number k of components that count as most important, and overlap by chance."""
    k = max(1, round(TOP * total))
    return k, k / total


def _ranked(scores: np.ndarray) -> _Ranked:
    """Return ranks of the score vectors [S, N], components in the order (layer, head)."""
    ranks = rankdata(scores, axis=1) - (scores.shape[1] + 1) / 2
    length = np.sqrt((ranks**2).sum(1, keepdims=True))
    ranks /= np.where(length > 0, length, np.nan)
    k, _ = _top(scores.shape[1])
    most = np.argsort(scores, axis=1, kind="stable")[:, -k:]  # stable: ties by (layer, head)
    top = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(top, most, True, axis=1)
    return _Ranked(ranks, top)


def _rho(a: _Ranked, b: _Ranked) -> np.ndarray:
    """Return Spearman's rho [S]: Pearson's correlation of the ranks."""
    return np.clip(np.einsum("sn,sn->s", a.ranks, b.ranks), -1, 1)


def _overlap(a: _Ranked, b: _Ranked) -> np.ndarray:
    return (a.top & b.top).sum(1) / a.top.sum(1)  # [S]


class _Baseline:
    """Permutations of N components, which every rho of a table is compared with."""

    def __init__(self, layers: np.ndarray, count: int, seed: int):
        """`layers` [N] in rising order; `count` random permutations."""
        self.orders = {"permuted": _permutations(np.zeros_like(layers), count, seed)}
        if len(np.unique(layers)) < len(layers):  # an FFN is alone in its layer
            self.orders["within_layers"] = _permutations(layers, count, seed)

    def compare(self, x: np.ndarray, y: np.ndarray) -> dict:
        """Return the range of rho and its two-sided p-value, for scores with the ranks x, y [N]."""
        found = {}
        for name, orders in self.orders.items():
            rho = y[orders] @ x  # [P]; the first is the measured one
            # At least as far from 0 as measured, up to rounding; the measured one is included.
            found[f"p_{name}"] = (np.abs(rho) >= np.abs(rho[0]) - 1e-12).mean()
            found |= _interval(name, rho)
        return found


def _permutations(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return orders [P, N] of N components that stay within their groups, the identity first.

    These are `count` random orders, or all orders of a single group if there are no more.
    """
    total = len(groups)
    if groups[0] == groups[-1] and factorial(min(total, 20)) <= count:
        return np.array(list(permutations(range(total))))
    keys = groups + np.random.default_rng([seed, total]).random((count, total))
    return np.vstack([np.arange(total), np.argsort(keys, axis=1)])


def _compared(x: _Ranked, y: _Ranked, baseline: _Baseline) -> dict:
    """Return statistics of the artifact `correlation`; row 0 is measured, others are resamples."""
    found = {"overlap_chance": _top(x.top.shape[1])[1]}
    for name, values in (("rho", _rho(x, y)), ("overlap", _overlap(x, y))):
        if not np.isnan(values[0]):
            defined = values[1:][~np.isnan(values[1:])]  # a constant resample has no rho
            found |= {name: values[0]} | _interval(name, defined)
    return found | (baseline.compare(x.ranks[0], y.ranks[0]) if "rho" in found else {})


def _interval(name: str, values: np.ndarray) -> dict:
    low, high = np.quantile(values, INTERVAL) if len(values) else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _frame(rows: list[dict], schema: str) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=pl.Schema(schemas.SCHEMAS[schema]))
