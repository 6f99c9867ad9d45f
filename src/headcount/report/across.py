"""Tables of a study of several models: the tables of each, side by side."""

from collections.abc import Sequence

import polars as pl

from headcount.artifacts import storage
from headcount.scores.correlation import AGGREGATE
from headcount.scores.curves import MEAN


def importance_by_depth(
    head_importance: Sequence[str], ffn_importance: Sequence[str]
) -> pl.DataFrame:
    """How the importance of each model is spread over its layers.

    From each model's tables of importance. Columns: model, component, shots, layer, depth (0 the
    lowest layer, 1 the highest), share (of the importance of all layers, in percent; of FFNs that
    do harm, none), tasks, documents.
    """
    frames = []
    for component, paths in (("heads", head_importance), ("ffns", ffn_importance)):
        for path in paths:
            table = storage.frame(path)
            tasks = table.filter(pl.col("task") != AGGREGATE)
            known = {"tasks": tasks["task"].n_unique(), "documents": tasks["documents"].max()}
            last = max(1, table["layer"].max())
            of_layers = tasks.group_by("model", "shots", "task", "layer", maintain_order=True).agg(
                pl.col("score").clip(0).sum()
            )
            total = pl.col("score").sum().over("shots", "task")
            frames.append(
                of_layers.with_columns(share=100 * pl.col("score") / total)
                .group_by("model", "shots", "layer", maintain_order=True)
                .agg(pl.col("share").fill_nan(None).mean())
                .with_columns(
                    component=pl.lit(component),
                    depth=pl.col("layer") / last,
                    **{name: pl.lit(value, pl.Int64) for name, value in known.items()},
                )
            )
    return pl.concat(frames)


def pruning_by_model(head_pruning: Sequence[str], ffn_pruning: Sequence[str]) -> pl.DataFrame:
    """The mean curves of every model, by the tasks' own rankings and in random order.

    Columns: those of `headcount.report.tables.head_pruning`, component, removed (percent of it).
    """
    frames = []
    for component, paths in (("heads", head_pruning), ("ffns", ffn_pruning)):
        for path in paths:
            table = storage.frame(path).filter(pl.col("order").is_in(["own", "random"]), task=MEAN)
            frames.append(
                table.with_columns(
                    component=pl.lit(component), removed=pl.col(f"{component}_removed")
                )
            )
    return pl.concat(frames)


def removable_by_size(summary: Sequence[str], models: Sequence[str]) -> pl.DataFrame:
    """What can be removed of every model by its tasks' own rankings, and how large it is.

    From each model's summary and its facts (model.json), in the same order. Columns: those of
    `headcount.report.tables.summary`, parameters (of its attention, FFNs and embeddings).
    """
    frames = []
    for path, facts in zip(summary, models, strict=True):
        parameters = sum(storage.read_json(facts)["weights"].values())
        table = storage.frame(path).filter(order="own")
        frames.append(table.with_columns(parameters=pl.lit(parameters, pl.Int64)))
    return pl.concat(frames)
