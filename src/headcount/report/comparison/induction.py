"""Where induction heads lie, and whether they stay (the paper's section 6.3).

A head scores **high** with more than half of the largest score. Intervals are those of 1,000 draws
of all scores, normal about what was measured with its standard error over random sequences. They
say nothing of how sure the importance is by which heads are removed.
"""

import numpy as np
import polars as pl

from headcount.report import paper
from headcount.report.comparison.finding import Finding, Interval, at_least, at_most, both
from headcount.scores.correlation import AGGREGATE
from headcount.scores.rankings import count_removed, rank

DRAWS = 1000
HIGH = 0.5  # of the largest score
KINDS = ("prefix matching", "copying")
# Of its share, as much as heads removed at random would take: what counts as flat.
FLAT = 0.5


def located(scores: pl.DataFrame) -> list[Finding]:
    """High prefix matching in the upper half; high copying later, and in more heads."""
    depths, counts = {}, {}
    for kind in KINDS:
        heads, draws = _drawn(scores, kind)
        high = draws > HIGH * draws.max(1, keepdims=True)  # [1 + draws, N]
        depth = (heads["layer"].to_numpy() + 0.5) / (heads["layer"].max() + 1)
        counts[kind] = high.sum(1)
        depths[kind] = (high * depth).sum(1) / counts[kind]
        if kind == KINDS[0]:
            above = _interval((high * (depth > 0.5)).sum(1) / counts[kind])
    number = {kind: int(count[0]) for kind, count in counts.items()}
    later = _interval(depths["copying"] - depths["prefix matching"])
    more = _interval(counts["copying"] - counts["prefix matching"])
    found = [
        (
            f"high prefix matching above the middle (layers {paper.PREFIX_MATCHING_FROM}+ of "
            f"{paper.LAYERS})",
            f"{above.text(0, 100)} % of {number['prefix matching']} heads",
            at_least([above], 0.5),
        ),
        (
            f"high copying later (layers {paper.COPYING_FROM}+)",
            f"deeper by {later.text(0, 100)} % of the layers",
            at_least([later], 0),
        ),
        (
            "high copying in more heads than high prefix matching",
            f"{number['copying']} and {number['prefix matching']} heads: {more.text(0)}",
            at_least([more], 0),
        ),
    ]
    return [Finding("6.3", *of_one) for of_one in found]


def retained(shots: int, scores: pl.DataFrame, importance: pl.DataFrame) -> list[Finding]:
    """Prefix matching stays while unimportant heads go, copying does not.

    Rates of loss are in shares of what heads removed at random would take: 1 falls evenly.
    """
    first, then = paper.FLAT_UNTIL, paper.STEEP_FROM
    claims = [
        f"{shots}-shot: prefix matching flat to {first} % of heads removed, steep after {then} %",
        f"{shots}-shot: copying falls from the start",
    ]
    ranking = _ranking(importance, shots)
    if ranking is None:
        return [Finding("6.3.1", claim, f"no {shots}-shot") for claim in claims]
    if count_removed(first, ranking.height) == 0:
        few = f"{ranking.height} heads are too few"
        return [Finding("6.3.1", claim, few) for claim in claims]
    early, late = {}, {}
    for kind in KINDS:
        heads, draws = _drawn(scores, kind)
        early[kind] = _rate(ranking, heads, draws, (0, first))
        late[kind] = _rate(ranking, heads, draws, (then, 100))
    prefix, copying = KINDS
    texts = [
        f"lost to {first} %: {early[kind].text()}, after {then} %: {late[kind].text()}"
        for kind in KINDS
    ]
    flat = both(at_most([early[prefix]], FLAT), at_least([late[prefix]], 1))
    return [
        Finding("6.3.1", claims[0], texts[0], flat),
        Finding("6.3.1", claims[1], texts[1], at_least([early[copying]], FLAT)),
    ]


def _drawn(scores: pl.DataFrame, kind: str) -> tuple[pl.DataFrame, np.ndarray]:
    """The heads [N] by layer and head, and their scores [1 + draws, N], as measured first."""
    heads = scores.filter(kind=kind).unique(("layer", "head")).sort("layer", "head")
    mean, error = heads["score"].to_numpy(), heads["standard_error"].to_numpy()
    draws = np.random.default_rng(0).normal(mean, error, size=(DRAWS, len(mean)))
    return heads, np.vstack([mean, draws])


def _ranking(importance: pl.DataFrame, shots: int) -> pl.DataFrame | None:
    """By the aggregate of several tasks, or the only task's own."""
    at_shots = importance.filter(shots=shots)
    aggregate = at_shots.filter(task=AGGREGATE)
    chosen = at_shots if aggregate.is_empty() else aggregate
    return None if chosen.is_empty() else rank(chosen)


def _rate(ranking: pl.DataFrame, heads: pl.DataFrame, draws: np.ndarray, levels: tuple) -> Interval:
    """Share of the total score lost between two levels, over the share of heads removed there."""
    start, end = (count_removed(level, ranking.height) for level in levels)
    gone = heads.with_row_index().join(ranking[start:end], on=["layer", "head"], how="semi")
    lost = draws[:, gone["index"].to_numpy()].sum(1) / draws.sum(1)
    return _interval(lost / (gone.height / ranking.height))


def _interval(draws: np.ndarray) -> Interval:
    """As measured, and percentiles of the draws."""
    return Interval(float(draws[0]), *np.percentile(draws[1:], [2.5, 97.5]))
