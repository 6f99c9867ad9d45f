"""Figures of single heads and FFNs: heatmaps by layer, layer 0 at the bottom."""

from typing import Any

import altair as alt
import polars as pl

from headcount.report.figures.heatmaps import SIGNED, heatmap, listed, numbered
from headcount.report.figures.style import (
    PAGE,
    Style,
    about,
    by_shots,
    fitted,
    panels,
    row_header,
    task_names,
    tips,
)
from headcount.report.vocabulary import VIRIDIS
from headcount.scores.correlation import AGGREGATE
from headcount.scores.curves import MEAN

FLOOR = 0.01  # share of the largest score from which colours are told apart
TOP = 3  # heads that are named
MEANINGS = {  # estimator -> what the score of a component is
    "gradient-token": "how strongly the loss depends on it (gradient, by token)",
    "gradient-example": "how strongly the loss depends on it (gradient, by example)",
    "oracle-task": "metric lost without it (oracle)",
    "oracle-loss": "loss gained without it (oracle)",
}


def _estimators(table: pl.DataFrame) -> str:
    """What the scores are, by the estimators that made them."""
    names = table["estimator"].drop_nulls().unique().sort()
    return f"Importance of {{}}: {' and '.join(MEANINGS[name] for name in names)}."


def _subtitle(style: Style, table: pl.DataFrame, each: str) -> list[str]:
    tasks = table.filter(pl.col("task") != AGGREGATE)["task"].n_unique()
    # "importance" is computed from calibration documents, or from those that are evaluated.
    return [about(style, table, "documents", tasks), _estimators(table).format(each)]


# --- heads ---


def _share_color(style: Style) -> alt.Color:
    """The top layer's scores are means over the target positions alone, and dwarf the others."""
    domain = [FLOOR ** (1 - i / (len(VIRIDIS) - 1)) for i in range(len(VIRIDIS))]
    return alt.Color(
        "share:Q",
        title="score, share of the task's largest (log scale)",
        scale=alt.Scale(type="log", domain=domain, range=VIRIDIS, clamp=True, interpolate="rgb"),
        legend=_legend(style, values=[0.01, 0.1, 1], format="~g"),
    )


def _legend(style: Style, **options: Any) -> alt.Legend:
    return alt.Legend(
        orient="bottom",
        gradientLength=style.width / 3,
        gradientOpacity=1,
        titleLimit=style.width,
        **options,
    )


def _heads(style: Style, table: pl.DataFrame, size: tuple, facets: list[str]) -> alt.LayerChart:
    """Layer by head."""
    layers, heads = table["layer"].max() + 1, table["head"].max() + 1
    share = pl.col("share").clip(FLOOR, 1).fill_nan(FLOOR).fill_null(FLOOR)
    cells = by_shots(table).with_columns(
        x="head", y="layer", colour=share.log10() / 2 + 1, share=share
    )
    most = max(2, int(size[0] / (2.5 * style.small)))
    axes = (
        numbered(heads, "head", most),
        numbered(layers, "layer", max(2, int(size[1] / (1.4 * style.small)))),
    )
    tooltip = tips("task", "panel", "layer", "head", "score", "standard_error", "share")
    return heatmap(cells, facets, axes, _share_color(style), tooltip, size)


def head_importance(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Layer by head for the mean over tasks, or the only task; a panel a number of shots."""
    title = "Which attention heads matter for in-context learning?"
    tasks = task_names(table, AGGREGATE)
    shown = table.filter(task=tasks[-1])
    columns = style.across(shown["shots"].n_unique())
    names = panels(shown)

    def build(width: float) -> alt.TopLevelMixin:
        ratio = (shown["layer"].max() + 1) / (shown["head"].max() + 1)
        height = min(max(width * ratio, 8 * style.size), 30 * style.size)
        chart = _heads(style, style.named(shown), (width, height), ["panel"])
        return chart.facet(
            facet=alt.Facet("panel:N", title=None, sort=names), columns=columns, spacing=style.size
        )

    subtitle = _subtitle(style, table, "a head")
    subtitle.append(f"Shown: {_written(style, tasks)[-1]}. {_most_important(shown)}")
    return fitted(build, style, columns, title, subtitle)


def _written(style: Style, tasks: list[str]) -> list[str]:
    return [MEAN if task == AGGREGATE else style.name(task) for task in tasks]


def _most_important(table: pl.DataFrame) -> str:
    """The heads with the highest scores, as layer.head."""
    found = []
    for (panel,), rows in by_shots(table).group_by("panel", maintain_order=True):
        top = rows.sort("score", descending=True, nulls_last=True).head(TOP)
        names = ", ".join(f"{row['layer']}.{row['head']}" for row in top.iter_rows(named=True))
        found.append(f"{panel} {names}")
    return f"Most important (layer.head): {'; '.join(found)}."


def head_importance_tasks(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Layer by head, a row for each task and the mean, a column for each number of shots."""
    tasks = task_names(table, AGGREGATE)
    names = _written(style, tasks)
    shown = panels(table)
    height = min(9 * style.size, (560 - 8 * style.size) / len(tasks) - style.size / 2)

    def build(width: float) -> alt.TopLevelMixin:
        named = style.named(table).with_columns(pl.col("task").replace({AGGREGATE: MEAN}))
        chart = _heads(style, named, (width, height), ["task", "panel"])
        return chart.facet(
            row=alt.Row("task:N", title=None, sort=names, header=row_header(style)),
            column=alt.Column("panel:N", title=None, sort=shown),
            spacing=style.size / 2,
        )

    title = "Which attention heads matter for which task?"
    return fitted(build, style, len(shown), title, _subtitle(style, table, "a head"))


# --- FFNs ---


def ffn_importance(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Task by layer, a panel for each number of shots."""
    signed = any(name.startswith("oracle") for name in table["estimator"].drop_nulls().unique())
    tasks, shown = task_names(table, AGGREGATE), panels(table)
    layers = table["layer"].max() + 1
    columns = style.across(len(shown), 12.5 if layers <= 32 else 30)
    order = pl.col("task").replace_strict({task: i for i, task in enumerate(reversed(tasks))})
    cells, color = (_signed if signed else _unsigned)(style, by_shots(table))
    cells = style.named(cells.with_columns(x="layer", y=order.cast(pl.Int32)))
    names = _written(style, tasks)
    height = 1.6 * style.size * len(tasks)

    def build(width: float) -> alt.TopLevelMixin:
        axes = (
            numbered(layers, "layer", max(2, int(width / (2.5 * style.small)))),
            listed(names, style.width / 5),
        )
        tooltip = tips("task", "panel", "layer", "score", "standard_error")
        chart = heatmap(cells, ["panel"], axes, color, tooltip, (width, height))
        return chart.facet(
            facet=alt.Facet("panel:N", title=None, sort=shown), columns=columns, spacing=style.size
        )

    title = "Which FFNs matter for which task?"
    return fitted(build, style, columns, title, _subtitle(style, table, "an FFN"))


def _signed(style: Style, table: pl.DataFrame) -> tuple[pl.DataFrame, alt.Color]:
    """Scores on either side of 0, by square root, so that one layer does not swallow the scale."""
    largest = table["score"].abs().max() or 1.0
    root = pl.col("score").sign() * (pl.col("score").abs() / largest).sqrt()
    scale = alt.Scale(
        type="pow",
        exponent=0.5,
        domain=[largest * abs(i) * i / 9 for i in range(-3, 4)],
        range=SIGNED,
        interpolate="rgb",
    )
    legend = _legend(style, format=".2~g")
    color = alt.Color("score:Q", title="score (square-root scale)", scale=scale, legend=legend)
    return table.with_columns(colour=(root + 1) / 2), color


def _unsigned(style: Style, table: pl.DataFrame) -> tuple[pl.DataFrame, alt.Color]:
    """Scores of a gradient, which are not negative, as shares of the task's largest."""
    share = pl.col("share").clip(FLOOR, 1).fill_nan(FLOOR).fill_null(FLOOR)
    cells = table.with_columns(colour=share.log10() / 2 + 1, share=share)
    return cells, _share_color(style)
