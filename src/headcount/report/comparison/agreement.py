"""How alike tasks and numbers of shots are in what matters (the paper's sections 6.1 and 6.2).

Intervals of one pair's rho and overlap are bootstraps over documents, those of means over tasks
Student's, over tasks. A ranking with itself is no pair.
"""

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from headcount.report import paper
from headcount.report.comparison.finding import Finding, at_least, interval_of, over_tasks
from headcount.scores.correlation import AGGREGATE


def pairs(shots: int, cross_task: pl.DataFrame) -> Finding:
    """SRCC is positive for every pair of tasks."""
    claim = f"{shots}-shot: heads' SRCC positive for every pair of tasks"
    return _all_positive(claim, _pairs(shots, cross_task), shots, "pairs")


def with_aggregate(shots: int, cross_task: pl.DataFrame) -> Finding:
    """SRCC is positive between every task and the aggregate, the task included in it."""
    claim = f"{shots}-shot: heads' SRCC positive for every task with the aggregate"
    rows = _heads(cross_task).filter(
        pl.col("a") != AGGREGATE, b=AGGREGATE, shots_a=shots, shots_b=shots
    )
    return _all_positive(claim, rows, shots, "tasks")


def _all_positive(claim: str, rows: pl.DataFrame, shots: int, what: str) -> Finding:
    if rows.is_empty():
        return Finding("6.1.1", claim, "needs two tasks")
    intervals = [interval_of(row, "rho") for row in rows.iter_rows(named=True)]
    least = rows.sort("rho", nulls_last=True).row(0, named=True)
    if least["rho"] is None:
        return Finding("6.1.1", claim, "importance does not vary")
    names = ", ".join(name for name in (least["a"], least["b"]) if name != AGGREGATE)
    study = f"{rows.height} {what}, least {interval_of(least, 'rho').text()}: {names}"
    return Finding("6.1.1", claim, study, at_least(intervals, 0))


def overlap(shots: int, cross_task: pl.DataFrame) -> Finding:
    """The most important heads overlap beyond chance, even of the tasks least alike."""
    least, most = paper.TOP_OVERLAP
    claim = f"{shots}-shot: top 30 % of heads overlap beyond chance, of the tasks least alike too "
    claim += f"(SRCC {_short(paper.LEAST_SRCC)}: {least} and {most} %)"
    rows = _pairs(shots, cross_task).drop_nulls("rho")
    if rows.is_empty():
        return Finding("6.1.2", claim, "needs two tasks")
    least = rows.sort("rho").row(0, named=True)
    found, chance = interval_of(least, "overlap"), least["overlap_chance"]
    study = (
        f"least rho {least['rho']:.2f}: overlap {found.text(0, 100)} %, chance {100 * chance:.0f} %"
    )
    return Finding("6.1.2", claim, study, at_least([found], chance))


def between_shots(pair: tuple[int, int], cross_shot: pl.DataFrame, scores: pl.DataFrame) -> Finding:
    """A task's heads rank alike at two numbers of shots; beside it, what the paper's code gives.

    `scores` is the table of head importance.
    """
    srcc = _short(paper.CROSS_SHOT[pair])
    claim = f"{pair[0]}- and {pair[1]}-shot: heads' SRCC {srcc} (of argsort indices), mean of tasks"
    rows = _tasks_at(pair, cross_shot)
    right = over_tasks(rows["rho"].to_list())
    if right is None:
        return Finding("6.2", claim, "needs two tasks at both numbers of shots")
    mistaken = over_tasks([_of_argsort(scores, task, pair) for task in rows["a"]])
    study = f"{right.text()}; of argsort indices {mistaken.text()}; {rows.height} tasks"
    return Finding("6.2", claim, study, at_least([right], 0))


def few_shot(cross_shot: pl.DataFrame) -> Finding:
    """Few shots agree with few shots more than with none."""
    claim = "heads' SRCC higher between few-shot and few-shot than zero- and few-shot"
    rows = _heads(cross_shot).filter(pl.col("a") != AGGREGATE)
    few = rows.filter(pl.col("shots_a") > 0).group_by("a").agg(few=pl.col("rho").mean())
    zero = rows.filter(shots_a=0).group_by("a").agg(zero=pl.col("rho").mean())
    tasks = few.join(zero, on="a").drop_nulls().sort("a")
    difference = over_tasks((tasks["few"] - tasks["zero"]).to_list())
    if difference is None:
        return Finding("6.2", claim, "needs two tasks at 0 and at two numbers of shots")
    study = f"{tasks['few'].mean():.2f} and {tasks['zero'].mean():.2f}: {difference.text()}; "
    return Finding("6.2", claim, f"{study}{tasks.height} tasks", at_least([difference], 0))


def _short(srcc: float) -> str:
    return f"{srcc:.2f}".lstrip("0")


def _heads(correlation: pl.DataFrame) -> pl.DataFrame:
    return correlation.filter(component="heads")


def _pairs(shots: int, cross_task: pl.DataFrame) -> pl.DataFrame:
    """Pairs of different tasks; the table has every task with itself as well."""
    return _heads(cross_task).filter(
        pl.col("a") != pl.col("b"), pl.col("b") != AGGREGATE, shots_a=shots, shots_b=shots
    )


def _tasks_at(pair: tuple[int, int], cross_shot: pl.DataFrame) -> pl.DataFrame:
    rows = _heads(cross_shot).filter(shots_a=pair[0], shots_b=pair[1])
    return rows.filter(pl.col("a") != AGGREGATE).drop_nulls("rho")


def _of_argsort(scores: pl.DataFrame, task: str, pair: tuple[int, int]) -> float:
    """The paper's formula, which is no rank correlation: Spearman's rho of argsort indices."""
    orders = [
        np.argsort(scores.filter(task=task, shots=shots).sort("layer", "head")["score"].to_numpy())
        for shots in pair
    ]
    return float(spearmanr(*orders).statistic)
