"""The tables that figures draw: tidy, one function a figure, from lists of artifact files.

What a file is about (task, shots, component, ranking) is read from its provenance, never from its
name. `order` is what a ranking is to a task: "own", "aggregate", "closest", "farthest", or one of
the controls "depth" and "random" (the mean over the random rankings). Shares and levels are in
percent, values in the unit of the metric (accuracy: 0 to 1).

A study too small for a figure (one task, one number of shots, nothing removed) has its table all
the same: without rows, or with those of the unpruned model alone.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headcount import artifacts, paper
from headcount.correlation import agreement, cross_estimator, diagonal
from headcount.rankings import count_removed, removed

MEAN = "mean over tasks"
TOLERANCE = 0.05  # of the mean metric: the five points that the summary allows
ROUNDING = 1e-9  # a drop of exactly five points may be stored as a little more
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


# --- importance ---


def head_importance(importance: Sequence[str], rankings: Sequence[str]) -> pl.DataFrame:
    """Scores of every task, and of their aggregate, beside the task's largest.

    Columns: shots, task ("aggregate" for the mean of several), layer, head, score, standard_error
    (null for the aggregate), share (of the largest score of the same task and shots), estimator
    (null for the aggregate).
    """
    columns = ["layer", "head", "score"]
    frames = [_labelled(path, artifacts.frame(path)) for path in importance]
    frames += [
        _labelled(path, artifacts.frame(path)).with_columns(task=pl.lit("aggregate"))
        for path in rankings
    ]
    table = pl.concat(frames, how="diagonal")
    return table.select(
        "shots",
        "task",
        *columns,
        "standard_error",
        share=pl.col("score") / pl.col("score").max().over("shots", "task"),
        estimator="estimator",
    )


ffn_importance = head_importance  # the same table of FFNs; `head` is null


def _labelled(path: str, frame: pl.DataFrame) -> pl.DataFrame:
    made = artifacts.provenance(path)
    return frame.with_columns(
        task=pl.lit(made.get("task")),
        shots=pl.lit(made["shots"], pl.Int32),
        estimator=pl.lit(made.get("estimator"), pl.String),
    )


# --- pruning ---


@dataclass
class _Curve:
    """A task under one ranking at one level: the metric, and its bootstrap replicates [B]."""

    value: float
    replicates: np.ndarray


def _curves(files: Sequence[str], resamples: int, seed: int) -> tuple[dict, dict]:
    """Curves by (shots, task, order, ranking, heads level, ffns level), and facts by (shots, task).

    A task's documents are resampled once, the same at all levels and by all rankings, so that
    differences between them are paired.
    """
    drawn: dict[tuple, list[_Curve]] = defaultdict(list)
    facts: dict[tuple, dict] = {}
    for path in files:
        made = artifacts.provenance(path)
        task, shots = made["task"], made["shots"]
        facts[shots, task] = made
        order = "own" if made["ranking"] == task else made["ranking"].split("-")[0]
        columns = ["ranking", "heads_level", "ffns_level", "doc_id", "metric"]
        frame = artifacts.frame(path, columns=columns).sort("doc_id")
        levels = frame.partition_by("heads_level", "ffns_level", as_dict=True, maintain_order=True)
        generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
        documents = len(next(iter(levels.values())))
        counts = generator.multinomial(documents, [1 / documents] * documents, size=resamples)
        for (heads_level, ffns_level), rows in levels.items():
            metric = rows["metric"].to_numpy()
            ranking = "random" if order == "random" else rows["ranking"][0]
            key = (shots, task, order, ranking, heads_level, ffns_level)
            drawn[key].append(_Curve(metric.mean(), counts @ metric / documents))
    return {key: _mean_of_orders(curves, seed) for key, curves in drawn.items()}, facts


def _mean_of_orders(curves: list[_Curve], seed: int) -> _Curve:
    """The mean over random rankings, which are resampled like documents; a single one as it is."""
    if len(curves) == 1:
        return curves[0]
    replicates = np.array([curve.replicates for curve in curves])  # [rankings, B]
    shape = replicates.shape
    chosen = np.random.default_rng([seed, shape[0]]).integers(shape[0], size=shape)
    return _Curve(
        float(np.mean([curve.value for curve in curves])),
        np.take_along_axis(replicates, chosen, axis=0).mean(0),
    )


def _with_mean(curves: dict) -> dict:
    """The curves, and those of the mean over tasks, which are resampled independently."""
    by_order = defaultdict(list)
    for (shots, _, order, _, *level), curve in curves.items():
        by_order[shots, MEAN, order, order, *level].append(curve)
    return curves | {
        key: _Curve(
            float(np.mean([curve.value for curve in of_tasks])),
            np.mean([curve.replicates for curve in of_tasks], axis=0),
        )
        for key, of_tasks in by_order.items()
    }


def _pruning_table(curves: dict, facts: dict) -> pl.DataFrame:
    """One row a curve and level: value, drop below the unpruned model, 95 % intervals of both."""
    N = _components(next(iter(facts.values()))["model"])
    rows = []
    for (shots, task, order, ranking, heads_level, ffns_level), curve in curves.items():
        whole = curves[shots, task, order, ranking, 0.0, 0.0]
        made = [made for (s, t), made in facts.items() if s == shots and task in (t, MEAN)]
        chances = [m["chance"] for m in made]
        low, high = np.percentile(curve.replicates, INTERVAL)
        drop_low, drop_high = np.percentile(whole.replicates - curve.replicates, INTERVAL)
        rows.append(
            {
                "shots": shots,
                "task": task,
                "order": order,
                "ranking": ranking,
                "heads_level": heads_level,
                "ffns_level": ffns_level,
                "heads_removed": _share(heads_level, N["heads"]),
                "ffns_removed": _share(ffns_level, N["ffns"]),
                "heads_count": count_removed(heads_level, N["heads"]),
                "ffns_count": count_removed(ffns_level, N["ffns"]),
                "metric": made[0]["metric"] if task != MEAN else "metric",
                "value": curve.value,
                "low": low,
                "high": high,
                "drop": whole.value - curve.value,
                "drop_low": drop_low,
                "drop_high": drop_high,
                "chance": None if None in chances else float(np.mean(chances)),
                "heldout": made[0]["heldout"] and task != MEAN,
                "truncated": sum(m["truncated"] for m in made),
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.with_columns(pl.col("shots").cast(pl.Int32), pl.col("chance").cast(pl.Float64))


def _components(model: dict) -> dict[str, int]:
    """How many heads and FFNs the model has."""
    return {"heads": sum(model["heads"]), "ffns": len(model["ffns"])}


def _share(level: float, components: int) -> float:
    """The percentage that a level really removes, whole components being removed."""
    return 100 * count_removed(level, components) / components


def head_pruning(pruning: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Metric at every level, for every task and for the mean over tasks, under every order.

    Columns: shots, task, order, ranking, levels, shares and counts removed, metric, value and its
    interval, drop below the unpruned model and its (paired) interval, chance, heldout, truncated.
    """
    curves, facts = _curves(pruning, resamples, seed)
    return _pruning_table(_with_mean(curves), facts)


ffn_pruning = head_pruning
combined_pruning = head_pruning


def transfer(pruning: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Tasks under their own and other tasks' rankings; columns as of `head_pruning`.

    Where the farthest task is the closest as well (there are only two) its rows are left out; where
    there is no other task's ranking, all of them.
    """
    table = _pruning_table(*_curves(pruning, resamples, seed))
    if not {"closest", "aggregate"} & set(table["order"]):
        return table.clear()
    closest = table.filter(order="closest").with_columns(order=pl.lit("farthest"))
    where = ["shots", "task", "order", "ranking", "heads_level"]
    return table.join(closest, on=where, how="anti", maintain_order="left")


# --- correlation ---


def cross_task(correlation: Sequence[str], reliability: Sequence[str]) -> pl.DataFrame:
    """The artifacts `correlation` of heads and FFNs, with a column `component`.

    Rows with a == b are from the artifacts `reliability`: see `headcount.correlation.diagonal`.
    There are none where there is no pair.
    """
    pairs, itself = _of_component(correlation), _of_component(reliability, diagonal)
    return pl.concat([pairs, itself]) if pairs.height else pairs


def cross_shot(correlation: Sequence[str]) -> pl.DataFrame:
    """The artifacts `correlation` of heads and FFNs, with a column `component`."""
    return _of_component(correlation)


def estimator_agreement(estimators: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Agreement of all estimators in the artifacts `estimators`, and of each with itself."""
    return cross_estimator(estimators, resamples, seed)


def _of_component(paths: Sequence[str], change: Callable = lambda frame: frame) -> pl.DataFrame:
    return pl.concat(
        change(artifacts.frame(path)).with_columns(
            component=pl.lit(artifacts.provenance(path)["component"])
        )
        for path in paths
    )


# --- induction ---


def induction(prefix_matching: str, copying: str, rankings: Sequence[str]) -> pl.DataFrame:
    """Induction scores of every head, and how they agree with the aggregate importance.

    Columns: kind, layer, head, score, standard_error, shots, rho, overlap, chance; the last three
    are of all heads' scores with the importance at that number of shots.
    """
    rows = []
    for kind, path in (("prefix matching", prefix_matching), ("copying", copying)):
        scores = artifacts.frame(path, columns=["layer", "head", "score", "standard_error"])
        for ranking in rankings:
            found = agreement(scores, artifacts.frame(ranking))
            rows.append(
                scores.with_columns(
                    kind=pl.lit(kind),
                    shots=pl.lit(artifacts.provenance(ranking)["shots"], pl.Int32),
                    rho=pl.lit(found.rho, pl.Float64),
                    overlap=pl.lit(found.overlap),
                    chance=pl.lit(found.chance),
                )
            )
    return pl.concat(rows)


def retention(
    prefix_matching: str, copying: str, rankings: Sequence[str], levels: Sequence[float]
) -> pl.DataFrame:
    """Share of the total induction score left when a ranking's least important heads are removed.

    Columns: shots, kind, order (own: the mean over tasks), level, removed, share (percent). No rows
    where no level removes a head.
    """
    shares = defaultdict(list)
    for path in rankings:
        made, ranking = artifacts.provenance(path), artifacts.frame(path)
        name = made["ranking"].split("-")[0]
        order = name if name in ("aggregate", "depth", "random") else "own"
        for kind, scores in (("prefix matching", prefix_matching), ("copying", copying)):
            scored = artifacts.frame(scores, columns=["layer", "head", "score"])
            for level in levels:
                gone = scored.join(removed(ranking, level), on=["layer", "head"], how="semi")
                left = 1 - gone["score"].sum() / scored["score"].sum()
                key = (made["shots"], kind, order, float(level), _share(level, ranking.height))
                shares[key].append(100 * left)
    keys = ["shots", "kind", "order", "level", "removed"]
    rows = [
        dict(zip(keys, key, strict=True)) | {"share": float(np.mean(left))}
        for key, left in shares.items()
    ]
    table = pl.DataFrame(rows).with_columns(pl.col("shots").cast(pl.Int32))
    return table if table["removed"].max() > 0 else table.clear()


# --- summary ---


def summary(head_pruning: str, ffn_pruning: str, combined_pruning: str) -> pl.DataFrame:
    """How much can go for at most five points of the mean metric, under every order.

    The largest level such that it and every smaller one stay within; of both components, the point
    of the grid that removes most, heads and FFNs in percent added up, such that it and every point
    that removes no more of either stay within.

    Columns: those of `head_pruning` at that level, component (heads, ffns, both), whole (the
    unpruned value), paper_heads and paper_ffns (percent, OPT-66B). No rows for a component of which
    no level removes any.
    """
    rows = []
    for component, path in (
        ("heads", head_pruning),
        ("ffns", ffn_pruning),
        ("both", combined_pruning),
    ):
        table = artifacts.frame(path).filter(task=MEAN)
        tried = table.select(pl.max("heads_count") + pl.max("ffns_count")).item() > 0
        for (shots, _), points in table.group_by("shots", "order", maintain_order=True):
            heads, ffns = paper.removed(component, shots) or (None, None)
            found = _furthest(points).with_columns(
                component=pl.lit(component),
                whole=pl.col("value") + pl.col("drop"),
                paper_heads=pl.lit(heads, pl.Int32),
                paper_ffns=pl.lit(ffns, pl.Int32),
            )
            rows.append(found if tried else found.clear())
    return pl.concat(rows)


def _furthest(points: pl.DataFrame) -> pl.DataFrame:
    """The row of `points` that removes most while no point below it loses too much."""
    too_much = (
        points.filter(pl.col("drop") > TOLERANCE + ROUNDING)
        .select("heads_level", "ffns_level")
        .rows()
    )
    within = [
        not any(
            heads <= row["heads_level"] and ffns <= row["ffns_level"] for heads, ffns in too_much
        )
        for row in points.iter_rows(named=True)
    ]
    removes = pl.col("heads_removed") + pl.col("ffns_removed")
    return points.filter(within).sort(removes, "heads_level", "ffns_level").tail(1)
