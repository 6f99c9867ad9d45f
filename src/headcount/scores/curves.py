"""Pruning curves: a metric at every level of removal, with bootstrap replicates over documents.

Two numbers sum a curve up. `area` is the mean, over the share of components removed, of the metric
as a share of the unpruned model's: 1 for a curve that never falls. It is the integrated circuit
performance ratio (CPR) of MIB (Mueller et al. 2025) with 0 in place of the metric of an empty
circuit, which not every task defines. `max_removable` is the largest level such that it and every
smaller level lose at most `TOLERANCE`.
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
    """The metric of a task, or the mean over tasks, under one ranking at P levels.

    `levels` [P, 2] are the nominal percentages of heads and FFNs, `values` [P] the metric,
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
    """Return curves by (shots, task, order, ranking), and provenance by (shots, task).

    A task's documents are resampled once for all levels and rankings, so that differences are
    paired. The provenance gains `documents`, their number.
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
    """Return the mean over random rankings, which are resampled like documents."""
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
    """Return the mean of curves over tasks, resampled independently, as the task `name`."""
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
    """Return the 95 % bootstrap interval of replicates [B]."""
    low, high = np.percentile(replicates, INTERVAL)
    return float(low), float(high)


def area(curve: Curve, removed: np.ndarray) -> dict[str, float | None]:
    """Return `area` and its interval; None if it is not defined.

    `removed` [P, 2] are the shares of heads and FFNs that the levels remove. The area is not
    defined if both components are removed, if none is, or if the unpruned metric is 0.
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
    """Return the intervals of the percentages of heads and of FFNs that can be removed.

    `removed` [P, 2] as for `area`. If both components are removed, the best level has the largest
    sum of the two. The interval is over documents, not over levels between those of the study.
    """
    drops = curve.all[0] - curve.all
    best = removed[best_level(curve.levels, removed.sum(1), drops)]  # [1 + B, 2]
    found = {}
    for kind, shares in zip(("heads", "ffns"), best[1:].T, strict=True):
        found[f"{kind}_removable_low"], found[f"{kind}_removable_high"] = interval(shares)
    return found


def best_level(levels: np.ndarray, removes: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """Return the index [B] of the level that removes most while neither it nor one below fails.

    `levels` [P, 2] and `removes` [P] are in percent, `drops` [P, B] in units of the metric. A level
    fails if its drop exceeds `TOLERANCE`. A level is below another if it asks for no more of either
    component. Ties go to the level with more heads.
    """
    below = (levels[None] <= levels[:, None]).all(2)  # [P, P]: the second below the first
    too_much = drops > TOLERANCE + ROUNDING
    within = below.astype(np.float32) @ too_much.astype(np.float32) == 0
    order = np.lexsort((levels[:, 1], levels[:, 0], removes))
    last = len(order) - 1 - np.argmax(within[order][::-1], axis=0)
    return order[last]


def best_levels(table: pl.DataFrame) -> pl.DataFrame:
    """Return, for each curve of a pruning table, the row of its best level."""
    rows = []
    for _, points in table.group_by("shots", "task", "order", maintain_order=True):
        removes = (points["heads_removed"] + points["ffns_removed"]).to_numpy()
        levels = points.select("heads_level", "ffns_level").to_numpy()
        at = best_level(levels, removes, points["drop"].to_numpy()[:, None])[0]
        rows.append(points[int(at)])
    return pl.concat(rows) if rows else table.clear()
