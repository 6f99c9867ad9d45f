"""A finding of the paper beside what a study has, and the intervals that decide between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import t

from headcount.scores.curves import ROUNDING

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not enough data"


@dataclass
class Finding:
    """What the paper found, what the study has, and whether the one is true of the other."""

    section: str  # of the paper
    claim: str
    study: str
    verdict: str = UNDECIDED


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, scale: float = 1) -> str:
        value, low, high = (round(scale * number, digits) + 0.0 for number in self)  # no "-0.0"
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    @property
    def points(self) -> str:
        """Of a share of 1, in points."""
        return self.text(1, 100).replace(" ", " points ", 1)

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low)


def at_most(intervals: Sequence[Interval], bound: float) -> str:
    """Whether all values are at most `bound`: so if no interval reaches beyond it.

    Not so if one lies wholly beyond; undecided else, and where there is none or one is not defined.
    """
    low, high = np.array([(i.low, i.high) for i in intervals], dtype=float).reshape(-1, 2).T
    if len(low) == 0 or np.isnan(low).any() or np.isnan(high).any():
        return UNDECIDED
    if (low > bound + ROUNDING).any():
        return FAILS
    return HOLDS if (high <= bound + ROUNDING).all() else UNDECIDED


def at_least(intervals: Sequence[Interval], bound: float) -> str:
    """Whether all values are at least `bound`, as `at_most`."""
    return at_most([-interval for interval in intervals], -bound)


def both(first: str, second: str) -> str:
    """The verdict on two claims together."""
    return next(v for v in (FAILS, UNDECIDED, HOLDS) if v in (first, second))


def over_tasks(values: Sequence[float]) -> Interval | None:
    """Mean over tasks with Student's interval; None of fewer than two tasks."""
    n = len(values)
    if n < 2:
        return None
    half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    mean = float(np.mean(values))
    return Interval(mean, mean - half, mean + half)


def interval_of(row: dict, name: str) -> Interval:
    """A statistic of a table's row with its interval; nan where it is null."""
    return Interval(*(np.nan if (x := row[name + b]) is None else x for b in ("", "_low", "_high")))


def total(points: pl.DataFrame, component: str) -> int:
    """How many heads, or FFNs, the model of pruned rows has; 0 if none was removed."""
    some = points.filter(pl.col(f"{component}_count") > 0).head(1)
    if some.is_empty():
        return 0
    return round(100 * some[f"{component}_count"].item() / some[f"{component}_removed"].item())
