"""Pruning curves: a metric at every level of removal, with bootstrap replicates over documents.

Two numbers sum a curve up. Its `area` is the mean, over the share of components removed, of the
metric as a share of the unpruned model's: 1 is a curve that never falls. It is the integrated
circuit performance ratio (CPR) of MIB (Mueller et al. 2025) with 0 in place of the metric of an
empty circuit, which not every task defines. What is `removable` is the largest level such that it
and every smaller one lose at most `TOLERANCE`.
"""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headcount.artifacts import storage

MEAN = "mean over tasks"
TOLERANCE = 0.05  # of the mean metric: the five points that the summary allows
ROUNDING = 1e-9  # a drop of exactly five points may be stored as a little more
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


@dataclass
class Curve:
    """A task, or the mean over tasks, under one ranking at P levels.

    `levels` [P, 2] are percentages of heads and FFNs asked for, `values` [P] the metric,
    `replicates` [P, B] its bootstrap replicates. The first level removes nothing.
    """

    levels: np.ndarray
    values: np.ndarray
    replicates: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """The metric as measured, then its replicates [P, 1 + B]."""
        return np.column_stack([self.values, self.replicates])


def read(files: Sequence[str], resamples: int, seed: int) -> tuple[dict, dict]:
    """Curves by (shots, task, order, ranking), and provenance by (shots, task).

    A task's documents are resampled once, the same at all levels and by all rankings, so that
    differences between them are paired. The provenance gets `documents`, their number.
    """
    drawn: dict[tuple, list[Curve]] = defaultdict(list)
    facts: dict[tuple, dict] = {}
    for path in files:
        made = storage.provenance(path)
        task, shots = made["task"], made["shots"]
        columns = ["order", "ranking", "heads_level", "ffns_level", "doc_id", "metric"]
        frame = storage.frame(path, columns=columns).sort("heads_level", "ffns_level", "doc_id")
        order = frame["order"][0]
        levels = frame.select("heads_level", "ffns_level").unique(maintain_order=True).to_numpy()
        metric = frame["metric"].to_numpy().reshape(len(levels), -1)  # [P, documents]
        documents = metric.shape[1]
        facts[shots, task] = {**made, "documents": documents}
        generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
        counts = generator.multinomial(documents, [1 / documents] * documents, size=resamples)
        ranking = "random" if order == "random" else frame["ranking"][0]
        curve = Curve(levels, metric.mean(1), metric @ counts.T / documents)
        drawn[shots, task, order, ranking].append(curve)
    return {key: _mean_of_orders(curves, seed) for key, curves in drawn.items()}, facts


def _mean_of_orders(curves: list[Curve], seed: int) -> Curve:
    """The mean over random rankings, which are resampled like documents; a single one as it is."""
    if len(curves) == 1:
        return curves[0]
    replicates = np.array([curve.replicates for curve in curves])  # [rankings, P, B]
    rankings, P, B = replicates.shape
    chosen = np.random.default_rng([seed, rankings]).integers(rankings, size=(rankings, B))
    chosen = np.broadcast_to(chosen[:, None], (rankings, P, B))
    return Curve(
        curves[0].levels,
        np.mean([curve.values for curve in curves], axis=0),
        np.take_along_axis(replicates, chosen, axis=0).mean(0),
    )


def mean_over_tasks(curves: dict, name: str = MEAN) -> dict:
    """The mean of curves over tasks, which are resampled independently, as the task `name`."""
    by_order = defaultdict(list)
    for (shots, _, order, _), curve in curves.items():
        by_order[shots, name, order, order].append(curve)
    return {
        key: Curve(
            of_tasks[0].levels,
            np.mean([curve.values for curve in of_tasks], axis=0),
            np.mean([curve.replicates for curve in of_tasks], axis=0),
        )
        for key, of_tasks in by_order.items()
    }


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of replicates [B]."""
    low, high = np.percentile(replicates, INTERVAL)
    return float(low), float(high)


def area(curve: Curve, removed: np.ndarray) -> dict[str, float | None]:
    """`area` and its interval; null where it is not defined.

    `removed` [P, 2] are the shares of heads and FFNs that the levels remove. There is no area where
    both kinds are removed, where nothing is, or where the unpruned metric is 0.
    """
    nothing: dict[str, float | None]
    nothing = {"area": None, "area_low": None, "area_high": None}
    kinds = np.flatnonzero(removed.max(0))
    if len(kinds) != 1 or curve.values[0] <= 0:
        return nothing
    across = removed[:, kinds[0]]
    areas = np.trapezoid(curve.all, across, axis=0) / across.max()
    ratios = np.divide(areas, curve.all[0], out=np.ones_like(areas), where=curve.all[0] > 0)
    low, high = interval(ratios[1:])
    return {"area": float(ratios[0]), "area_low": low, "area_high": high}


def max_removable(curve: Curve, removed: np.ndarray) -> dict[str, float]:
    """What can be removed of heads and of FFNs, in percent, as an interval.

    `removed` [P, 2] as for `area`. Of both kinds, it is the point that removes most of them added
    up. The interval is over the documents, not over the levels between those that were tried.
    """
    drops = curve.all[0] - curve.all
    best = removed[best_level(curve.levels, removed.sum(1), drops)]  # [1 + B, 2]
    found = {}
    for kind, shares in zip(("heads", "ffns"), best[1:].T, strict=True):
        found[f"{kind}_removable_low"], found[f"{kind}_removable_high"] = interval(shares)
    return found


def best_level(levels: np.ndarray, removes: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """The index [B] of the level that removes most while it and none below loses too much.

    `levels` [P, 2] and `removes` [P] percent, `drops` [P, B] of the metric. A level is below
    another if it asks for no more of either kind. Of equals, the one with more heads.
    """
    below = (levels[None] <= levels[:, None]).all(2)  # [P, P]: the second below the first
    too_much = drops > TOLERANCE + ROUNDING
    within = below.astype(np.float32) @ too_much.astype(np.float32) == 0
    order = np.lexsort((levels[:, 1], levels[:, 0], removes))
    last = len(order) - 1 - np.argmax(within[order][::-1], axis=0)
    return order[last]


def best_levels(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table of pruning at what can be removed, one for each curve."""
    rows = []
    for _, points in table.group_by("shots", "task", "order", maintain_order=True):
        removes = (points["heads_removed"] + points["ffns_removed"]).to_numpy()
        levels = points.select("heads_level", "ffns_level").to_numpy()
        at = best_level(levels, removes, points["drop"].to_numpy()[:, None])[0]
        rows.append(points[int(at)])
    return pl.concat(rows) if rows else table.clear()
