"""The tables that figures draw: tidy, one function a figure, from lists of artifact files.

What a file is about (task, shots, component, ranking) is read from its provenance, never from its
name. `order` is what a ranking is to a task: "own", "aggregate", "closest", "farthest", or one of
the controls "depth" and "random" (the mean over the random rankings). Shares and levels are in
percent, values in the unit of the metric (accuracy: 0 to 1).

A study too small for a figure (one task, one number of shots, nothing removed) has its table all
the same: without rows, or with those of the unpruned model alone.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from headcount.artifacts import storage
from headcount.report import paper
from headcount.scores.correlation import AGGREGATE, agreement, cross_estimator, diagonal
from headcount.scores.curves import (
    MEAN,
    Curve,
    area,
    best_levels,
    interval,
    max_removable,
    mean_over_tasks,
    read as read_curves,
)
from headcount.scores.rankings import count_removed, least_important

MEAN_HELDOUT = "mean over held-out tasks"
MEANS = (MEAN, MEAN_HELDOUT)


# --- importance ---


def head_importance(importance: Sequence[str], rankings: Sequence[str]) -> pl.DataFrame:
    """Scores of every task, and of their aggregate, beside the task's largest.

    Columns: model, shots, task ("aggregate" for the mean of several), layer, head, score,
    standard_error (null for the aggregate), share (of the largest score of the same task and
    shots), estimator (null for the aggregate), documents (that the scores are from; null for the
    aggregate).
    """
    columns = ["layer", "head", "score", "standard_error", "n"]
    frames = [_labelled(path, storage.frame(path, columns)) for path in importance]
    frames += [
        _labelled(path, storage.frame(path)).with_columns(task=pl.lit(AGGREGATE))
        for path in rankings
    ]
    table = pl.concat(frames, how="diagonal")
    return table.select(
        "model",
        "shots",
        "task",
        "layer",
        "head",
        "score",
        "standard_error",
        share=pl.col("score") / pl.col("score").max().over("shots", "task"),
        estimator="estimator",
        documents="n",
    )


ffn_importance = head_importance  # the same table of FFNs; `head` is null


def _labelled(path: str, frame: pl.DataFrame) -> pl.DataFrame:
    made = storage.provenance(path)
    return frame.with_columns(
        model=pl.lit(made["model"]["name"]),
        task=pl.lit(made.get("task")),
        shots=pl.lit(made["shots"], pl.Int32),
        estimator=pl.lit(made.get("estimator"), pl.String),
    )


# --- pruning ---


def _pruning_table(curves: dict, facts: dict) -> pl.DataFrame:
    """One row a curve and level: value, drop below the unpruned model, 95 % intervals of both."""
    model = next(iter(facts.values()))["model"]
    rows = []
    for (shots, task, order, ranking), curve in curves.items():
        made = _made_of(task, shots, facts)
        of_curve = {"shots": shots, "task": task, "order": order, "ranking": ranking}
        of_curve = {"model": model["name"], **of_curve} | _of_tasks(made)
        levels = [_counts(level, model) for level in curve.levels]
        removed = np.array([[level["heads_removed"], level["ffns_removed"]] for level in levels])
        of_curve |= area(curve, removed) | max_removable(curve, removed)
        rows += [of_curve | level | _point(curve, at) for at, level in enumerate(levels)]
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.with_columns(
        pl.col("shots").cast(pl.Int32),
        pl.col("chance", "area", "area_low", "area_high").cast(pl.Float64),
    )


def _made_of(task: str, shots: int, facts: dict) -> list[dict]:
    """What made the curves of a task, or of the tasks that a mean is over."""
    tasks = {MEAN: lambda made: not made["heldout"], MEAN_HELDOUT: lambda made: made["heldout"]}
    within = tasks.get(task, lambda made: made["task"] == task)
    return [made for (s, _), made in facts.items() if s == shots and within(made)]


def _of_tasks(made: list[dict]) -> dict:
    chances, metrics = [m["chance"] for m in made], {m["metric"] for m in made}
    return {
        "metric": metrics.pop() if len(metrics) == 1 else "metric",
        "chance": None if None in chances else float(np.mean(chances)),
        "heldout": made[0]["heldout"],
        "truncated": sum(m["truncated"] for m in made),
        "tasks": len(made),
        "documents_low": min(m["documents"] for m in made),
        "documents": max(m["documents"] for m in made),
    }


def _counts(level: np.ndarray, model: dict) -> dict:
    """What a level asks for of heads and of FFNs, how many it removes, and their share."""
    N = {"heads": sum(model["heads"]), "ffns": len(model["ffns"])}
    found = {}
    for kind, asked in zip(("heads", "ffns"), level.tolist(), strict=True):
        found[f"{kind}_level"] = asked
        found[f"{kind}_removed"] = _share(asked, N[kind])
        found[f"{kind}_count"] = count_removed(asked, N[kind])
    return found


def _share(level: float, components: int) -> float:
    """The percentage that a level really removes, whole components being removed."""
    return 100 * count_removed(level, components) / components


def _point(curve: Curve, at: int) -> dict:
    low, high = interval(curve.replicates[at])
    drop_low, drop_high = interval(curve.replicates[0] - curve.replicates[at])
    return {
        "value": float(curve.values[at]),
        "low": low,
        "high": high,
        "unpruned": float(curve.values[0]),
        "drop": float(curve.values[0] - curve.values[at]),
        "drop_low": drop_low,
        "drop_high": drop_high,
    }


def head_pruning(pruning: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Metric at every level, for every task and for the mean over tasks, under every order.

    Columns: model, shots, task, order, ranking; metric, chance, heldout, truncated, tasks, and
    documents_low and documents, the least and the most that a task has; area and its interval, and
    the intervals of what is removable (`headcount.scores.curves`), the same at every level of a
    curve; levels, shares and counts removed; value and its interval, unpruned, drop below the
    unpruned model and its (paired) interval.
    """
    curves, facts = read_curves(pruning, resamples, seed)
    return _pruning_table(curves | mean_over_tasks(curves), facts)


ffn_pruning = head_pruning
combined_pruning = head_pruning


def transfer(pruning: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Tasks under their own and other tasks' rankings, and means; columns as of `head_pruning`.

    Tasks held out have a mean of their own. Where the farthest task is the closest as well (there
    are only two) its rows are left out; where there is no other task's ranking, all of them.
    """
    curves, facts = read_curves(pruning, resamples, seed)
    if not {"closest", "aggregate"} & {order for _, _, order, _ in curves}:
        return _pruning_table(curves, facts).clear()
    held = {key: curve for key, curve in curves.items() if facts[key[:2]]["heldout"]}
    studied = {key: curve for key, curve in curves.items() if key not in held}
    if len({task for _, task, _, _ in studied}) == 2:
        studied = {key: curve for key, curve in studied.items() if key[2] != "farthest"}
    return _pruning_table(
        studied | mean_over_tasks(studied) | held | mean_over_tasks(held, MEAN_HELDOUT), facts
    )


# --- correlation ---


def cross_task(correlation: Sequence[str], reliability: Sequence[str]) -> pl.DataFrame:
    """The artifacts `correlation` of heads and FFNs, with columns component, model, documents.

    Rows with a == b are from the artifacts `reliability`: see
    `headcount.scores.correlation.diagonal`. There are none where there is no pair.
    """
    pairs, itself = _of_component(correlation), _of_component(reliability, diagonal)
    return pl.concat([pairs, itself]) if pairs.height else pairs


def cross_shot(correlation: Sequence[str]) -> pl.DataFrame:
    """The artifacts `correlation` of heads and FFNs, with columns component, model, documents."""
    return _of_component(correlation)


def estimator_agreement(estimators: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """Agreement of all estimators in the artifacts `estimators`, and of each with itself.

    Columns: those of `headcount.scores.correlation.cross_estimator`, model, documents.
    """
    made = [storage.provenance(path) for path in estimators]
    documents = max(storage.frame(path, ["n"])["n"].max() for path in estimators)
    return cross_estimator(estimators, resamples, seed).with_columns(
        **_about({**made[0], "documents": documents})
    )


def _of_component(paths: Sequence[str], change: Callable = lambda frame: frame) -> pl.DataFrame:
    frames = []
    for path in paths:
        made = storage.provenance(path)
        frame = change(storage.frame(path))
        frames.append(frame.with_columns(component=pl.lit(made["component"]), **_about(made)))
    return pl.concat(frames)


def _about(made: dict) -> dict[str, pl.Expr]:
    """The columns `model` and `documents`, the most that the importance of a task comes from."""
    return {
        "model": pl.lit(made["model"]["name"]),
        "documents": pl.lit(made["documents"], pl.Int64),
    }


# --- induction ---


def induction(prefix_matching: str, copying: str, rankings: Sequence[str]) -> pl.DataFrame:
    """Induction scores of every head, and how they agree with the aggregate importance.

    Columns: kind, layer, head, score, standard_error, n (random sequences), importance, shots, rho,
    overlap, chance, model, documents; rho, overlap and chance are of all heads' scores with the
    importance at that number of shots.
    """
    rows = []
    for kind, path in (("prefix matching", prefix_matching), ("copying", copying)):
        scores = storage.frame(path, columns=["layer", "head", "score", "standard_error", "n"])
        for ranking in rankings:
            ranked = storage.frame(ranking, columns=["layer", "head", "score"])
            found = agreement(scores, ranked)
            both = scores.join(ranked.rename({"score": "importance"}), on=["layer", "head"])
            rows.append(
                both.with_columns(
                    kind=pl.lit(kind),
                    shots=pl.lit(storage.provenance(ranking)["shots"], pl.Int32),
                    rho=pl.lit(found.rho, pl.Float64),
                    overlap=pl.lit(found.overlap),
                    chance=pl.lit(found.chance),
                    **_about(storage.provenance(ranking)),
                )
            )
    return pl.concat(rows)


def retention(
    prefix_matching: str, copying: str, rankings: Sequence[str], levels: Sequence[float]
) -> pl.DataFrame:
    """Share of the total induction score left when a ranking's least important heads are removed.

    Columns: shots, kind, order (own: the mean over tasks), level, removed, share (percent), model,
    documents, tasks. No rows where no level removes a head.
    """
    shares = defaultdict(list)
    about = _about(storage.provenance(rankings[0]))
    for path in rankings:
        made, ranking = storage.provenance(path), storage.frame(path)
        name = made["ranking"].split("-")[0]
        order = name if name in ("aggregate", "depth", "random") else "own"
        for kind, scores in (("prefix matching", prefix_matching), ("copying", copying)):
            scored = storage.frame(scores, columns=["layer", "head", "score"])
            for level in levels:
                gone = scored.join(
                    least_important(ranking, level), on=["layer", "head"], how="semi"
                )
                left = 1 - gone["score"].sum() / scored["score"].sum()
                key = (made["shots"], kind, order, float(level), _share(level, ranking.height))
                shares[key].append(100 * left)
    keys = ["shots", "kind", "order", "level", "removed"]
    rows = [
        dict(zip(keys, key, strict=True)) | {"share": float(np.mean(left))}
        for key, left in shares.items()
    ]
    tasks = max(len(left) for left in shares.values())
    table = pl.DataFrame(rows).with_columns(
        pl.col("shots").cast(pl.Int32), tasks=pl.lit(tasks), **about
    )
    return table if table["removed"].max() > 0 else table.clear()


# --- summary ---


def summary(head_pruning: str, ffn_pruning: str, combined_pruning: str) -> pl.DataFrame:
    """How much can be removed for at most five points of the mean metric, under every order.

    The largest level such that it and every smaller one stay within; of both components, the point
    of the grid that removes most, heads and FFNs in percent added up, such that it and every point
    that removes no more of either stay within.

    Columns: those of `head_pruning` at that level, component (heads, ffns, both), paper_heads and
    paper_ffns (percent, OPT-66B). No rows for a component of which no level removes any.
    """
    frames = []
    for component, path in (
        ("heads", head_pruning),
        ("ffns", ffn_pruning),
        ("both", combined_pruning),
    ):
        table = storage.frame(path).filter(task=MEAN)
        tried = table.select(pl.max("heads_count") + pl.max("ffns_count")).item() > 0
        found = best_levels(table if tried else table.clear())
        said = [paper.removable(component, shots) or (None, None) for shots in found["shots"]]
        frames.append(
            found.with_columns(
                component=pl.lit(component),
                paper_heads=pl.Series([heads for heads, _ in said], dtype=pl.Int32),
                paper_ffns=pl.Series([ffns for _, ffns in said], dtype=pl.Int32),
            )
        )
    return pl.concat(frames)
