"""The findings of Bansal et al. (2023) on OPT-66B, held against a study's own tables.

A finding **holds** when the 95 % interval of what it is about lies wholly on its side, **does not
hold** when it lies wholly on the other, and else there is **not enough data** to tell: too few
documents, or a level, a number of shots or a second task that the study does not have.

| finding | its interval |
| --- | --- |
| 70 % of the heads, 20 % of the FFNs go for five points | drop at every level up to that one |
| so many of both go for so many points | drop at that point of the grid |
| heads matter alike for every pair of tasks | rho of each pair |
| few shots agree with few shots more than with none | t-interval over tasks, of rho's difference |

Drops are the mean metric's; their intervals, and those of rho, are bootstraps over documents.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_1samp

from headcount.artifacts import provenance
from headcount.correlation import AGGREGATE
from headcount.rankings import count_removed
from headcount.summary import NoSummaryError, cell
from headcount.tables import MEAN, PAPER, ROUNDING, TOLERANCE

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not enough data"
COSTS = {0: 0.05, 1: 0.06, 5: 0.04}  # shots -> drop with heads and FFNs removed together
TABLES = ("summary", "head_pruning", "ffn_pruning", "combined_pruning", "cross_task", "cross_shot")


@dataclass
class Finding:
    """What the paper found, what the study has, and whether the one is true of the other."""

    claim: str
    study: str
    verdict: str


def verdict(low: np.ndarray, high: np.ndarray, at_most: float) -> str:
    """Whether values with the intervals [low, high] are all at most `at_most`."""
    if len(low) == 0 or np.isnan(low).any() or np.isnan(high).any():
        return UNDECIDED
    if (low > at_most + ROUNDING).any():
        return FAILS
    return HOLDS if (high <= at_most + ROUNDING).all() else UNDECIDED


def findings(directory: Path) -> list[Finding]:
    """The paper's findings held against the tables in `artifacts/MODEL/tables`."""
    tables = {name: pl.read_parquet(directory / f"{name}.parquet") for name in TABLES}
    found = []
    for component, name in (("heads", "head_pruning"), ("ffns", "ffn_pruning")):
        for shots in COSTS:
            found.append(_inflection(component, shots, tables[name], tables["summary"]))
    found += [_both(shots, tables["combined_pruning"], tables["summary"]) for shots in COSTS]
    found += [_alike(shots, tables["cross_task"]) for shots in COSTS]
    return [*found, _few_shot(tables["cross_shot"])]


# --- how much can go ---


def _inflection(component: str, shots: int, table: pl.DataFrame, summary: pl.DataFrame) -> Finding:
    level = PAPER[component, shots][0 if component == "heads" else 1]
    name = {"heads": "heads", "ffns": "FFNs"}[component]
    claim = f"{shots}-shot: {level} % of the {name} go for {100 * TOLERANCE:g} points"
    points = _own(table, shots)
    if points.is_empty():
        return Finding(claim, f"no {shots}-shot", UNDECIDED)
    count = count_removed(level, _total(points, component))
    at = points.filter(pl.col(f"{component}_count") == count).head(1)
    own = _own_point(component, shots, summary)
    if count == 0 or at.is_empty():
        return Finding(claim, f"{own}; {level} % is not one of its levels", UNDECIDED)
    within = points.filter(pl.col(f"{component}_count") <= count)
    study = f"{own}; at {level} %: {_points(at)}"
    return Finding(claim, study, _all_within(within, TOLERANCE))


def _both(shots: int, table: pl.DataFrame, summary: pl.DataFrame) -> Finding:
    heads, ffns = PAPER["both", shots]
    claim = f"{shots}-shot: {heads} % of the heads and {ffns} % of the FFNs go for "
    claim += f"{100 * COSTS[shots]:g} points"
    points = _own(table, shots)
    if points.is_empty():
        return Finding(claim, f"no {shots}-shot", UNDECIDED)
    counts = [
        count_removed(level, _total(points, component))
        for component, level in (("heads", heads), ("ffns", ffns))
    ]
    at = points.filter(heads_count=counts[0], ffns_count=counts[1]).head(1)
    own = _own_point("both", shots, summary)
    if 0 in counts or at.is_empty():
        return Finding(claim, f"{own}; {heads}+{ffns} % is not on its grid", UNDECIDED)
    return Finding(
        claim, f"{own}; at {heads}+{ffns} %: {_points(at)}", _all_within(at, COSTS[shots])
    )


def _own(table: pl.DataFrame, shots: int) -> pl.DataFrame:
    """Mean over tasks, each pruned by its own ranking, as in the paper."""
    return table.filter(task=MEAN, order="own", shots=shots)


def _total(points: pl.DataFrame, component: str) -> int:
    """How many heads, or FFNs, the model has; 0 if none was removed."""
    some = points.filter(pl.col(f"{component}_count") > 0).head(1)
    if some.is_empty():
        return 0
    return round(100 * some[f"{component}_count"].item() / some[f"{component}_removed"].item())


def _all_within(points: pl.DataFrame, tolerance: float) -> str:
    return verdict(points["drop_low"].to_numpy(), points["drop_high"].to_numpy(), tolerance)


def _points(at: pl.DataFrame) -> str:
    drop, low, high = (100 * at[column].item() for column in ("drop", "drop_low", "drop_high"))
    return f"{drop:.1f} points [{low:.1f}, {high:.1f}]"


def _own_point(component: str, shots: int, summary: pl.DataFrame) -> str:
    """How much goes in the study for at most five points."""
    row = summary.filter(component=component, order="own", shots=shots)
    return cell(component, row["heads_removed"].item(), row["ffns_removed"].item()) + " %"


# --- which ones matter ---


def _alike(shots: int, cross_task: pl.DataFrame) -> Finding:
    claim = f"{shots}-shot: SRCC of head importance positive for every pair of tasks"
    pairs = _of_heads(cross_task).filter(shots_a=shots, shots_b=shots)
    if pairs.is_empty():
        return Finding(claim, f"no pair of tasks at {shots} shots", UNDECIDED)
    low, high = (pairs[f"rho_{bound}"].cast(pl.Float64).to_numpy() for bound in ("low", "high"))
    positive = verdict(-high, -low, at_most=0)
    least = pairs.sort("rho", nulls_last=True).row(0, named=True)
    if least["rho"] is None:
        return Finding(claim, "importance does not vary", UNDECIDED)
    study = f"{pairs.height} pairs, least {_interval(least['rho'], *_bounds(least))}: "
    return Finding(claim, f"{study}{least['a']}, {least['b']}", positive)


def _few_shot(cross_shot: pl.DataFrame) -> Finding:
    claim = "SRCC of head importance higher between few-shot and few-shot than zero- and few-shot"
    rows = _of_heads(cross_shot)
    few = rows.filter(pl.col("shots_a") > 0).group_by("a").agg(few=pl.col("rho").mean())
    zero = rows.filter(shots_a=0).group_by("a").agg(zero=pl.col("rho").mean())
    tasks = few.join(zero, on="a").drop_nulls()
    if tasks.height < 2:
        return Finding(claim, "needs two tasks at 0 and at two numbers of shots", UNDECIDED)
    difference = (tasks["few"] - tasks["zero"]).to_numpy()
    interval = ttest_1samp(difference, 0).confidence_interval(0.95)
    study = (
        f"{tasks['few'].mean():.2f} and {tasks['zero'].mean():.2f}, mean of {tasks.height} tasks: "
        f"{_interval(difference.mean(), *interval)}"
    )
    low, high = np.array([interval.low]), np.array([interval.high])
    return Finding(claim, study, verdict(-high, -low, at_most=0))


def _of_heads(correlation: pl.DataFrame) -> pl.DataFrame:
    """Rows of heads that are about tasks, not their aggregate."""
    return correlation.filter(
        pl.col("component") == "heads", pl.col("a") != AGGREGATE, pl.col("b") != AGGREGATE
    )


def _bounds(row: dict) -> tuple[float, float]:
    return tuple(np.nan if row[f"rho_{b}"] is None else row[f"rho_{b}"] for b in ("low", "high"))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


# --- in the terminal ---


def show(artifacts: Path, console: Console | None = None) -> None:
    """Print the findings beside every study below `artifacts` that is finished.

    Raises `NoSummaryError`, which names the remedy, when there is none.
    """
    console = console or Console()
    directories = [
        path.parent
        for path in sorted(artifacts.glob("*/tables/summary.parquet"))
        if all((path.parent / f"{name}.parquet").is_file() for name in TABLES)
    ]
    if not directories:
        raise NoSummaryError(
            f"no finished study below {artifacts}/: run `make all`, or `snakemake --cores all all`"
        )
    for directory in directories:
        table = Table(
            title=f"{provenance(directory / 'summary.parquet')['model']} beside Bansal et al. "
            "(2023), OPT-66B",
            caption="with 95 % intervals; heads and FFNs: what goes in this study for 5 points of "
            "mean metric, each task by its own ranking, and the drop where the paper is",
            box=box.SIMPLE_HEAD,
        )
        for column in ("the paper", "this study", ""):
            table.add_column(column)
        style = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow"}
        for finding in findings(directory):
            mark = f"[{style[finding.verdict]}]{finding.verdict}[/]"
            table.add_row(finding.claim, finding.study.replace("[", r"\["), mark)
        console.print(table)
