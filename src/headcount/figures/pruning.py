"""Figures of what is left when components are removed: curves, grids, the summary."""

import altair as alt
import polars as pl

from headcount import paper
from headcount.figures.style import (
    ORDERS,
    note,
    orders_named,
    orders_of,
    panels,
    row_header,
    task_names,
    titled,
)
from headcount.tables import MEAN


def _curve_panels(
    table: pl.DataFrame, x: str, x_title: str, y_title: str, tasks: list[str], height: int
) -> alt.TopLevelMixin:
    """Curves with intervals and the level of chance: a row a task, a column a number of shots."""
    orders = orders_of(table)
    across = alt.X(x, title=x_title, scale=alt.Scale(domain=[0, 100], nice=False))
    low = min(0.0, table["low"].min())
    up = alt.Y(
        "value:Q", title=y_title, scale=alt.Scale(domain=[low, max(1.0, table["high"].max())])
    )
    base = alt.Chart(orders_named(table).filter(pl.col("task").is_in(tasks)))
    band = base.mark_area(opacity=0.12).encode(
        x=across, y=alt.Y("low:Q", title=y_title), y2="high:Q", color=orders.color
    )
    line = base.mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.7).encode(
        x=across,
        y=up,
        color=orders.color,
        strokeDash=orders.dash,
        tooltip=["task", "panel", "name", "ranking", x, "value", "low", "high", "drop"],
    )
    known = base.transform_filter("isValid(datum.chance)")
    chance = known.mark_rule(color="#bbbbbb", strokeDash=[1, 3]).encode(y="mean(chance):Q")
    return (
        (chance + band + line)
        .properties(width=190, height=height)
        .facet(
            row=alt.Row("task:N", title=None, sort=tasks, header=row_header()),
            column=alt.Column("panel:N", title=None, sort=panels(table)),
            spacing=10,
        )
    )


def _pruning(table: pl.DataFrame, component: str, title: str) -> alt.TopLevelMixin:
    if table[f"{component}_count"].max() == 0:
        return note(title, f"a level that removes some of them; this study has none ({component})")
    name = {"heads": "heads", "ffns": "FFNs"}[component]
    x, x_title = f"{component}_removed:Q", f"% of {name} removed"
    tasks = [task for task in task_names(table, MEAN) if task != MEAN]
    each = _curve_panels(table, x, x_title, "metric", tasks, 90 if len(tasks) > 1 else 210)
    if len(tasks) > 1:
        mean = _curve_panels(table, x, x_title, "mean metric", [MEAN], 210)
        each = alt.vconcat(mean, each, spacing=30)
    return titled(each, title, "bands: 95 % bootstrap intervals over documents; dotted: chance")


def head_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Metric against the share of heads removed: the mean over tasks, then every task."""
    return _pruning(table, "heads", "How many heads in-context learning needs")


def ffn_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Metric against the share of FFNs removed: the mean over tasks, then every task."""
    return _pruning(table, "ffns", "How many FFNs in-context learning needs")


def transfer(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Every task under its own, its closest and its farthest task's, and the aggregate ranking."""
    title = "Do a task's heads serve other tasks?"
    if table.is_empty():
        return note(title, "a second task, or one held out; this study has one task")
    if table["heads_count"].max() == 0:
        return note(title, "a level that removes a head; this study has none")
    tasks = table["task"].unique(maintain_order=True).to_list()
    held = table.filter("heldout")["task"].unique(maintain_order=True).to_list()
    names = {task: f"{task} (held out)" if task in held else task for task in tasks}
    named = table.with_columns(pl.col("task").replace(names))
    chart = _curve_panels(
        named, "heads_removed:Q", "% of heads removed", "metric", list(names.values()), 110
    )
    drawn, subtitle = set(table["order"]), []
    if "farthest" in drawn:
        subtitle.append("closest and farthest: by correlation of the scores")
    elif "closest" in drawn:
        subtitle.append("closest: the only other task, which is the farthest as well")
    if held:
        subtitle.append("held-out tasks have no own ranking")
    return titled(chart, title, "; ".join(subtitle))


def retention(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Share of the induction scores left against the share of heads removed."""
    title = "Do the heads that stay include the induction heads?"
    if table.is_empty():
        return note(title, "a level that removes a head; this study has none")
    orders = orders_of(table)
    chart = (
        alt.Chart(orders_named(table))
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.8)
        .encode(
            x=alt.X("removed:Q", title="% of heads removed", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("share:Q", title="% of the score left", scale=alt.Scale(domain=[0, 100])),
            color=orders.color,
            strokeDash=orders.dash,
            tooltip=["panel", "kind", "name", "removed", "share"],
        )
        .properties(width=210, height=170)
        .facet(
            row=alt.Row("kind:N", title=None, sort=["prefix matching", "copying"]),
            column=alt.Column("panel:N", title=None, sort=panels(table)),
            spacing=12,
        )
    )
    return titled(chart, title, "own: mean over tasks")


def combined_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Heads by FFNs removed: mean metric over tasks, a row for each order."""
    title = "Heads and FFNs removed together"
    if table.select(pl.max("heads_count") + pl.max("ffns_count")).item() == 0:
        return note(title, "a level that removes a head or an FFN; this study has none")
    table = orders_named(table.filter(task=MEAN))
    names = [name for name, _, _ in ORDERS.values() if name in set(table["name"])]
    wide, tall = table["heads_removed"].n_unique(), table["ffns_removed"].n_unique()
    label = {"labelAngle": 0, "format": ".0f"}
    base = alt.Chart(table).encode(
        x=alt.X("heads_removed:O", title="% of heads removed", axis=alt.Axis(**label)),
        y=alt.Y("ffns_removed:O", title="% of FFNs", sort="descending", axis=alt.Axis(**label)),
    )
    middle = (table["value"].min() + table["value"].max()) / 2
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="mean metric", scale=alt.Scale(scheme="viridis")),
        tooltip=["panel", "name", "heads_removed", "ffns_removed", "value", "low", "high", "drop"],
    )
    text = base.mark_text(fontSize=9.5).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(f"datum.value < {middle}", alt.value("white"), alt.value("black")),
    )
    # Never narrower than the title of an axis, which would run into the next panel's.
    chart = (cells + text).properties(width=max(34 * wide, 130), height=max(28 * tall, 80))
    chart = chart.facet(
        row=alt.Row("name:N", title=None, sort=names, header=row_header()),
        column=alt.Column("panel:N", title=None, sort=panels(table)),
        spacing=12,
    )
    return titled(chart, title, "mean metric over tasks")


def summary(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Bars of what can go within five points, beside the paper's figures for OPT-66B."""
    title = "How much can go for at most five points of mean metric"
    if table.is_empty():
        return note(title, "a level that removes something; this study has none")
    table = orders_named(table).with_columns(pl.col("component").replace({"ffns": "FFNs"}))
    columns = {"heads": ("heads_removed", "paper_heads"), "FFNs": ("ffns_removed", "paper_ffns")}
    frames = [
        table.filter(component=asked).with_columns(
            what=pl.lit(label), share=pl.col(columns[kind][0]), paper=pl.col(columns[kind][1])
        )
        for asked, kind, label in (
            ("heads", "heads", "heads alone"),
            ("FFNs", "FFNs", "FFNs alone"),
            ("both", "heads", "both: heads"),
            ("both", "FFNs", "both: FFNs"),
        )
    ]
    rows = pl.concat(frames)
    orders = orders_of(rows, symbol="square")
    names = [name for name, _, _ in ORDERS.values() if name in set(rows["name"])]
    base = alt.Chart(rows).encode(
        y=alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labels=False, ticks=False))
    )
    across = alt.X("share:Q", title="% removed", scale=alt.Scale(domain=[0, 100]))
    bars = base.mark_bar(height=11).encode(
        x=across,
        color=orders.color,
        tooltip=["panel", "what", "name", "share", "drop", "drop_low", "drop_high", "whole"],
    )
    label = {"x": across, "text": alt.Text("share:Q", format=".0f")}
    style = {"align": "left", "dx": 4, "fontSize": 10}
    halo = base.mark_text(**style, stroke="white", strokeWidth=3, strokeJoin="round").encode(
        **label
    )
    numbers = halo + base.mark_text(**style).encode(**label)
    known = base.transform_filter("isValid(datum.paper)")
    line = known.mark_rule(strokeWidth=1.5, color="black", opacity=0.7).encode(
        x="max(paper):Q", y=alt.value(0), y2=alt.value("height")
    )
    chart = (bars + line + numbers).properties(width=190, height=15 * len(names))
    chart = chart.facet(
        row=alt.Row(
            "what:N",
            title=None,
            sort=["heads alone", "FFNs alone", "both: heads", "both: FFNs"],
            header=row_header(),
        ),
        column=alt.Column("panel:N", title=None, sort=panels(rows)),
        spacing=12,
    )
    costs = ", ".join(map(str, paper.BOTH_COST.values()))
    shots = ", ".join(map(str, paper.SHOTS))
    subtitle = f"black lines: OPT-66B in the paper (both: for {costs} points at {shots} shots)"
    return titled(chart, title, subtitle)
