"""How much can be removed, and by whose ranking (the paper's sections 5 and 6.1.2).

Drops are those of the mean metric, their intervals bootstraps over documents; those of a mean over
tasks by other tasks' rankings are Student's, over tasks.
"""

import polars as pl

from headcount.report import paper
from headcount.report.comparison.finding import (
    Finding,
    Interval,
    at_most,
    interval_of,
    over_tasks,
    total,
)
from headcount.report.summary import cell
from headcount.report.tables import MEANS
from headcount.scores.curves import MEAN, TOLERANCE
from headcount.scores.rankings import count_removed

NAMES = {"heads": "heads", "ffns": "FFNs"}


def inflection(component: str, shots: int, table: pl.DataFrame, summary: pl.DataFrame) -> Finding:
    """So much of a component can be removed for five points, by every task's own ranking."""
    section = {"heads": "5.1", "ffns": "5.2"}[component]
    levels = paper.removable(component, shots)
    assert levels is not None  # only shots of the paper are asked for
    level = levels[component == "ffns"]
    claim = f"{shots}-shot: {level} % of the {NAMES[component]} can be removed"
    points = table.filter(task=MEAN, order="own", shots=shots)
    if points.is_empty():
        return Finding(section, claim, f"no {shots}-shot")
    count = count_removed(level, total(points, component))
    at = points.filter(pl.col(f"{component}_count") == count).head(1)
    removable = _removable(component, shots, "own", summary)
    if count == 0 or at.is_empty():
        return Finding(section, claim, f"{removable}; {level} % is not one of its levels")
    within = points.filter(pl.col(f"{component}_count") <= count)
    study = f"{removable}; at {level} %: {_drops(at)[0].points}"
    return Finding(section, claim, study, at_most(_drops(within), TOLERANCE))


def both(order: str, shots: int, table: pl.DataFrame, summary: pl.DataFrame) -> Finding:
    """So much of heads and FFNs can be removed for so many points, by the tasks' `order`."""
    heads, ffns = paper.BOTH_REMOVED[shots]
    cost = paper.BOTH_COST[shots]
    by = {"own": "own rankings", "aggregate": "the aggregate"}[order]
    claim = (
        f"{shots}-shot: {heads}+{ffns} % of heads+FFNs can be removed for {cost} points, by {by}"
    )
    at_shots = table.filter(task=MEAN, shots=shots)
    points = at_shots.filter(order=order)
    if at_shots.is_empty():
        return Finding("5.3", claim, f"no {shots}-shot")
    if points.is_empty():
        return Finding("5.3", claim, "needs two tasks")
    counts = [
        count_removed(level, total(points, component))
        for component, level in (("heads", heads), ("ffns", ffns))
    ]
    at = points.filter(heads_count=counts[0], ffns_count=counts[1]).head(1)
    removable = _removable("both", shots, order, summary)
    if 0 in counts or at.is_empty():
        return Finding("5.3", claim, f"{removable}; {heads}+{ffns} % is not on its grid")
    study = f"{removable}; at {heads}+{ffns} %: {_drops(at)[0].points}"
    return Finding("5.3", claim, study, at_most(_drops(at), cost / 100))


def transferred(shots: int, transfer: pl.DataFrame) -> Finding:
    """Other tasks' rankings do no harm up to half of the heads: by the task least alike."""
    level = paper.TRANSFER_LEVEL
    claim = f"{shots}-shot: other tasks' rankings do no harm up to {level} % of the heads"
    others = _of_tasks(transfer).filter(pl.col("order").is_in(["closest", "farthest"]), shots=shots)
    # The farthest task's rows, last by name, where they are not those of the closest as well.
    worst = others.sort("order").unique(("task", "heads_count"), keep="last", maintain_order=True)
    if worst["task"].n_unique() < 2:
        return Finding("6.1.2", claim, "needs two tasks")
    count = count_removed(level, total(worst, "heads"))
    levels = {
        removed: over_tasks(rows["drop"].to_list())
        for (removed,), rows in worst.group_by("heads_count")
        if 0 < removed <= count
    }
    if count not in levels:
        return Finding("6.1.2", claim, f"{level} % is not one of its levels")
    study = f"by the farthest task's, at {level} %: {levels[count].points}"
    return Finding(
        "6.1.2",
        claim,
        study,
        at_most([of_level for of_level in levels.values() if of_level], TOLERANCE),
    )


def held_out(transfer: pl.DataFrame) -> Finding:
    """The aggregate costs an unseen task hardly more than its own ranking: never decided here.

    A study does not score what it holds out; it has what the aggregate costs such tasks.
    """
    claim = f"unseen tasks: aggregate within {paper.HELDOUT_COST} points of their own ranking"
    claim += " (MathQA; LAMBADA not)"
    rows = _of_tasks(transfer).filter("heldout", order="aggregate")
    if rows.is_empty():
        return Finding("6.1.2", claim, "no task is held out")
    level = paper.TRANSFER_LEVEL
    at = rows.filter(heads_count=count_removed(level, total(rows, "heads")))
    costs = [
        f"{shots}-shot {100 * at_shots['drop'].mean() + 0.0:.1f}"
        for (shots,), at_shots in at.sort("shots").group_by("shots", maintain_order=True)
    ]
    if not costs:
        return Finding("6.1.2", claim, f"own rankings not scored; {level} % is not a level")
    study = f"own rankings not scored; points lost by the aggregate at {level} %: "
    return Finding("6.1.2", claim, study + ", ".join(costs))


def _of_tasks(transfer: pl.DataFrame) -> pl.DataFrame:
    """The rows of single tasks, without those of means."""
    return transfer.filter(~pl.col("task").is_in(MEANS))


def _drops(points: pl.DataFrame) -> list[Interval]:
    return [interval_of(row, "drop") for row in points.iter_rows(named=True)]


def _removable(component: str, shots: int, order: str, summary: pl.DataFrame) -> str:
    """How much can be removed in the study for at most five points."""
    row = summary.filter(component=component, order=order, shots=shots)
    if row.is_empty():
        return "nothing removed"
    return cell(component, row["heads_removed"].item(), row["ffns_removed"].item()) + " %"
