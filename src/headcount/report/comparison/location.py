"""In which layers what matters lies (the paper's section 4).

Intervals are Student's, over tasks, but for those of a single FFN.
"""

import polars as pl
from scipy.stats import norm

from headcount.report import paper
from headcount.report.comparison.finding import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Finding,
    Interval,
    at_least,
    over_tasks,
)
from headcount.scores.correlation import AGGREGATE
from headcount.scores.rankings import count_removed, rank

STAY = 70  # the heads that stay when so many percent are removed are the important ones


def middle_heads(shots: int, scores: pl.DataFrame) -> Finding:
    """Important heads lie in the middle half of the layers, more than heads do by chance."""
    claim = f"{shots}-shot: important heads in the intermediate layers"
    tasks = _of_tasks(scores, shots)
    if tasks.is_empty():
        return Finding("4.1", claim, f"no {shots}-shot")
    layers = tasks["layer"].max() + 1
    middle = [layer for layer in range(layers) if layers <= 4 * layer + 2 <= 3 * layers]
    chance = tasks["layer"].is_in(middle).mean()
    if chance == 1:
        return Finding("4.1", claim, f"{layers} layers are too few")
    important = [
        rank(of_one)[count_removed(STAY, of_one.height) :]["layer"]
        for _, of_one in tasks.group_by("task", maintain_order=True)
    ]
    share = over_tasks([layer.is_in(middle).mean() for layer in important])
    if share is None:
        return Finding("4.1", claim, "needs two tasks")
    study = f"{share.text(0, 100)} % of the top 30 % in layers {middle[0]} to {middle[-1]}, "
    return Finding("4.1", claim, f"{study}chance {100 * chance:.0f} %", at_least([share], chance))


def upper_ffns(shots: int, scores: pl.DataFrame) -> Finding:
    """FFNs matter in the upper half at 0 and 1 shots, in the lower one too at 5."""
    early_too = shots == 5
    claim = f"{shots}-shot: FFNs matter in the upper half (layers {paper.EARLY_LAYERS + 1}+ of "
    claim += f"{paper.LAYERS})"
    if early_too:
        claim = f"{shots}-shot: FFNs of the lower half matter too"
    tasks = _of_tasks(scores, shots)
    if tasks.is_empty():
        return Finding("4.2", claim, f"no {shots}-shot")
    half = (tasks["layer"].max() + 1) / 2
    halves = tasks.group_by("task", maintain_order=True).agg(
        lower=pl.col("score").filter(pl.col("layer") < half - 0.5).mean(),
        upper=pl.col("score").filter(pl.col("layer") >= half).mean(),
    )
    values = halves["lower"] if early_too else halves["upper"] - halves["lower"]
    found = over_tasks(values.drop_nulls().to_list())
    if found is None:
        return Finding("4.2", claim, "needs two tasks and two layers")
    means = f"upper half {halves['upper'].mean():.3f}, lower {halves['lower'].mean():.3f}"
    name = "lower" if early_too else "difference"
    return Finding("4.2", claim, f"{means}; {name} {found.text(3)}", at_least([found], 0))


def single_ffn(scores: pl.DataFrame) -> Finding:
    """Some FFN alone moves some task's metric by twenty points.

    The intervals allow for the choice of the largest among all (Bonferroni).
    """
    claim = f"removing one FFN moves a task by up to {paper.FFN_EFFECT} points"
    rows = scores.filter(pl.col("task") != AGGREGATE, estimator="oracle-task")
    if rows.is_empty():
        return Finding("4.2", claim, "needs FFNs scored by oracle, metric: task")
    z = norm.ppf(1 - 0.025 / rows.height)
    rows = rows.with_columns(
        least=pl.col("score").abs() - z * pl.col("standard_error"),
        most=pl.col("score").abs() + z * pl.col("standard_error"),
    )
    bound = paper.FFN_EFFECT / 100
    verdict = HOLDS if rows["least"].max() >= bound else UNDECIDED
    verdict = FAILS if rows["most"].max() < bound else verdict
    row = rows.sort(pl.col("score").abs()).row(-1, named=True)
    margin = z * row["standard_error"]
    lost = Interval(row["score"], row["score"] - margin, row["score"] + margin)
    where = f"{row['task']} {row['shots']}-shot, layer {row['layer']}"
    return Finding("4.2", claim, f"{where}: {lost.points} lost", verdict)


def _of_tasks(scores: pl.DataFrame, shots: int) -> pl.DataFrame:
    return scores.filter(pl.col("task") != AGGREGATE, shots=shots)
