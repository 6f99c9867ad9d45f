"""Figures of several models: where importance lies, how curves fall, and their size."""

import altair as alt
import polars as pl

from headcount.report.figures.style import (
    PAGE,
    Style,
    about,
    component_named,
    encodings_by,
    fitted,
    metric_name,
    note,
    panels,
    row_header,
    tips,
)


def _by_model(style: Style, table: pl.DataFrame) -> dict:
    return encodings_by(
        style, "model", "model", table["model"].unique(maintain_order=True).to_list()
    )


def _grid(style: Style, chart: alt.LayerChart, shown: list[str]) -> alt.FacetChart:
    """A row of panels for heads and one for FFNs, a column for each number of shots."""
    return chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"], header=row_header(style)),
        column=alt.Column("panel:N", title=None, sort=shown),
        spacing=style.size,
    )


def importance_by_depth(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """The share of the importance at every relative depth, a line a model."""
    named, shown = component_named(style.named(table)), panels(table)
    look = _by_model(style, named)

    def build(width: float) -> alt.TopLevelMixin:
        base = alt.Chart(named).encode(
            x=alt.X("depth:Q", title="relative depth", axis=alt.Axis(tickCount=4)),
            y=alt.Y("share:Q", title="importance (%)", axis=alt.Axis(tickCount=4)),
            color=look["color"],
        )
        lines = base.mark_line(strokeWidth=style.line).encode(strokeDash=look["strokeDash"])
        dots = base.mark_point(filled=True, size=1.6 * style.size, opacity=1).encode(
            shape=look["shape"], tooltip=tips("model", "panel", "component", "layer", "share")
        )
        chart = (lines + dots).properties(width=width, height=min(width, 13 * style.size))
        return _grid(style, chart, shown)

    subtitle = [
        about(style, table, "documents", table["tasks"].max()),
        "Share of the importance of all layers, mean over tasks. Depth: 0 is the lowest layer.",
    ]
    title = "Where in the model are the components that matter?"
    return fitted(build, style, len(shown), title, subtitle)


def pruning_by_model(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Mean metric, as a share of the unpruned model's, against what is removed.

    Two lines a model: by the tasks' own rankings, and in random order.
    """
    title = "How fast does the metric fall as components are removed?"
    if table["removed"].max() == 0:
        return note(style, title, "a level that removes something; this study has none")
    named = component_named(style.named(table)).with_columns(
        kept=100 * pl.col("value") / pl.col("unpruned")
    )
    look, shown = _by_model(style, named), panels(table)

    def build(width: float) -> alt.TopLevelMixin:
        base = alt.Chart(named).encode(
            x=alt.X(
                "removed:Q",
                title="removed (%)",
                scale=alt.Scale(domain=[0, 100]),
                axis=alt.Axis(values=[0, 25, 50, 75, 100]),
            ),
            y=alt.Y("kept:Q", title="metric left (%)", axis=alt.Axis(tickCount=4)),
            color=look["color"],
        )
        own = base.transform_filter(alt.datum.order == "own")
        lines = own.mark_line(strokeWidth=style.line).encode(strokeDash=look["strokeDash"])
        dots = own.mark_point(filled=True, size=1.6 * style.size, opacity=1).encode(
            shape=look["shape"], tooltip=tips("model", "panel", "removed", "value", "kept")
        )
        random = base.transform_filter(alt.datum.order == "random").mark_line(
            strokeWidth=style.line, opacity=0.3
        )
        random = random.encode(strokeDash=look["strokeDash"])
        chart = (random + lines + dots).properties(width=width, height=min(width, 13 * style.size))
        return _grid(style, chart, shown)

    subtitle = [
        about(style, table, "evaluation documents", table["tasks"].max()),
        f"Mean {metric_name(table)} in % of the unpruned model's, by each task's own ranking; "
        "pale: in random order.",
    ]
    return fitted(build, style, len(shown), title, subtitle)


def removable_by_size(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """What can be removed against the number of parameters, and against the number of shots."""
    title = "Can more be removed from larger models?"
    if table.is_empty():
        return note(style, title, "a level that removes something; this study has none")
    alone = pl.concat(
        table.filter(component=kind).with_columns(
            share=pl.col(f"{kind}_removed"),
            from_share=pl.col(f"{kind}_removable_low"),
            to_share=pl.col(f"{kind}_removable_high"),
        )
        for kind in ("heads", "ffns")
    )
    named = component_named(style.named(alone))
    shots = encodings_by(style, "panel", "examples in the prompt", panels(alone))
    models = _by_model(style, named)
    by_size = alt.X("parameters:Q", title="parameters", scale=alt.Scale(type="log"))
    by_size.axis = alt.Axis(tickCount=3, format="~s")
    by_shots = alt.X("shots:O", title="examples in the prompt", axis=alt.Axis(labelAngle=0))

    def build(width: float) -> alt.TopLevelMixin:
        return alt.hconcat(
            _removable(style, named, by_size, shots, width),
            _removable(style, named, by_shots, models, width),
            spacing=2 * style.size,
        ).resolve_scale(color="independent", shape="independent", strokeDash="independent")

    subtitle = [
        about(style, table, "evaluation documents", table["tasks"].max()),
        "Removable for at most five points of the mean metric, by each task's own ranking; lines: "
        "95 % bootstrap intervals.",
    ]
    return fitted(build, style, 2, title, subtitle)


def _removable(
    style: Style, table: pl.DataFrame, x: alt.X, look: dict, width: float
) -> alt.FacetChart:
    """A row of panels for heads and one for FFNs."""
    scale = alt.Scale(domain=[0, 100], nice=False)
    base = alt.Chart(table).encode(x=x, color=look["color"])
    lines = base.mark_line(strokeWidth=style.line).encode(
        y=alt.Y("share:Q", scale=scale), strokeDash=look["strokeDash"]
    )
    intervals = base.mark_rule(strokeWidth=style.line, opacity=0.6).encode(
        y=alt.Y("from_share:Q", scale=scale), y2="to_share:Q"
    )
    dots = base.mark_point(filled=True, size=4 * style.size, opacity=1).encode(
        y=alt.Y("share:Q", title="removable (%)", scale=scale, axis=alt.Axis(tickCount=4)),
        shape=look["shape"],
        tooltip=tips("model", "panel", "component", "parameters", "share"),
    )
    chart = (lines + intervals + dots).properties(width=width, height=13 * style.size)
    return chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"]), spacing=style.size
    )
