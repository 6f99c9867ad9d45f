"""The eleven figures, each from its table in `headcount.tables`, drawn by Altair.

The four orders of removal have the same colours and dashes everywhere (Okabe and Ito's palette,
which colour-blind readers can tell apart). Layer 0 is at the bottom.
"""

from pathlib import Path
from typing import NamedTuple

import altair as alt
import polars as pl

from headcount.artifacts import atomic
from headcount.tables import MEAN

ORDERS = {  # order -> name in the legend, colour, dash
    "own": ("own importance", "#0072B2", [1, 0]),
    "aggregate": ("aggregate importance", "#D55E00", [1, 0]),
    "closest": ("closest task's importance", "#56B4E9", [1, 0]),
    "farthest": ("farthest task's importance", "#E69F00", [1, 0]),
    "depth": ("depth (top layer first)", "#009E73", [5, 3]),
    "random": ("random order", "#777777", [2, 2]),
}
CELL = 22  # pixels of a heatmap's cell, less where there are many
LARGEST = 640  # pixels of a heatmap's side


def save(chart: alt.TopLevelMixin, png: str, svg: str, html: str) -> None:
    """Write the chart as PNG (twice the pixels), SVG, and HTML that needs no network."""
    chart = chart.configure_view(stroke=None).configure(font="Helvetica, Arial, sans-serif")
    chart = chart.configure_axis(
        labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#eeeeee"
    )
    chart = chart.configure_header(labelFontSize=12, titleFontSize=12, labelFontWeight="bold")
    chart = chart.configure_legend(labelFontSize=11, titleFontSize=11, labelLimit=260)
    chart = chart.configure_title(fontSize=14, anchor="start", subtitleFontSize=11, offset=12)
    for path, options in ((png, {"ppi": 144}), (svg, {}), (html, {"inline": True})):
        with atomic(path) as temporary:
            chart.save(temporary, format=Path(path).suffix[1:], **options)


def _shots(table: pl.DataFrame) -> pl.DataFrame:
    """With the column `panel`: "0 shots", "1 shot", "5 shots"."""
    shots = pl.col("shots")
    name = pl.format(
        "{} shot{}", shots, pl.when(shots == 1).then(pl.lit("")).otherwise(pl.lit("s"))
    )
    return table.with_columns(panel=name)


def _panels(table: pl.DataFrame) -> list[str]:
    """Names of the panels, in the order of the shots."""
    return _shots(table.select("shots").unique().sort("shots"))["panel"].to_list()


def _titled(chart: alt.TopLevelMixin, title: str, subtitle: str | list[str]) -> alt.TopLevelMixin:
    return chart.properties(title=alt.TitleParams(title, subtitle=subtitle))


def _cell(count: int) -> float:
    return min(CELL, LARGEST / count)


def _tasks(table: pl.DataFrame, last: str) -> list[str]:
    """Task names in the order of the study, `last` after them."""
    names = table["task"].unique(maintain_order=True).to_list()
    return [*(name for name in names if name != last), last]


# --- heatmaps of components ---


def _numbered(field: str, title: str, count: int, reverse: bool = False) -> dict:
    """An axis of layers or heads, by number, with labels that do not crowd."""
    every = max(1, round(count / 12))
    return {
        "shorthand": f"{field}:O",
        "title": title,
        "sort": "descending" if reverse else "ascending",
        "axis": alt.Axis(values=list(range(0, count, every)), labelAngle=0, ticks=False),
    }


def _head_map(table: pl.DataFrame, color: alt.Color, tooltips: list[str]) -> alt.Chart:
    """Layer by head."""
    layers, heads = table["layer"].max() + 1, table["head"].max() + 1
    cell = _cell(max(layers, 1.4 * heads) * 1.8)
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X(**_numbered("head", "head", heads)),
            y=alt.Y(**_numbered("layer", "layer", layers, reverse=True)),
            color=color,
            tooltip=["layer", "head", *tooltips],
        )
        .properties(width=max(cell * heads, 90), height=max(cell * layers, 70))
    )


def head_importance(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Layer by head, a row for each task and the aggregate, a column for each number of shots."""
    color = alt.Color(
        "share:Q",
        title=["score, share of", "the task's largest"],
        # The top layer's scores are means over the target positions alone, and dwarf the others.
        scale=alt.Scale(scheme="viridis", domain=[0, 1], type="sqrt"),
    )
    chart = _head_map(_shots(table), color, ["task", "panel", "score", "standard_error"]).facet(
        row=alt.Row("task:N", title=None, sort=_tasks(table, "aggregate"), header=_row_header()),
        column=alt.Column("panel:N", title=None, sort=_panels(table)),
        spacing=8,
    )
    return _titled(
        chart,
        "Which heads matter",
        f"importance of every head, by task ({_estimators(table)}); colours by square root",
    )


def _estimators(table: pl.DataFrame) -> str:
    """The estimator that made the scores, as the subtitle explains it."""
    meanings = {
        "gradient": "gradient: what a gate on it would change of the loss",
        "oracle": "oracle: metric lost on its removal",
    }
    return " and ".join(meanings[name] for name in table["estimator"].drop_nulls().unique().sort())


def _row_header() -> alt.Header:
    return alt.Header(labelAngle=0, labelAlign="left", labelLimit=200)


def ffn_importance(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Layer by task, a panel for each number of shots."""
    layers = table["layer"].max() + 1
    tasks = _tasks(table, "aggregate")
    largest = table["score"].abs().max() or 1.0
    base = alt.Chart(_shots(table)).encode(
        x=alt.X("task:N", title=None, sort=tasks, axis=alt.Axis(labelAngle=-45, labelLimit=200)),
        y=alt.Y(**_numbered("layer", "layer", layers, reverse=True)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "score:Q",
            title=["importance"],
            scale=alt.Scale(scheme="purpleorange", domain=[-largest, largest], reverse=True),
        ),
        tooltip=["task", "panel", "layer", "score", "standard_error"],
    )
    chart = cells
    if layers <= 16:
        chart = cells + base.mark_text(fontSize=9).encode(
            text=alt.Text("score:Q", format=".2f"),
            color=alt.condition(
                f"abs(datum.score) > {0.6 * largest}", alt.value("white"), alt.value("black")
            ),
        )
    cell = 30 if layers <= 16 else _cell(layers)
    chart = chart.properties(width=30 * len(tasks), height=cell * layers)
    chart = chart.facet(column=alt.Column("panel:N", title=None, sort=_panels(table)))
    return _titled(
        chart, "Which FFNs matter", f"importance of every FFN, by task ({_estimators(table)})"
    )


def induction(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Layer by head: prefix matching and copying, with their overlap with the importance."""
    panels = []
    for (kind,), rows in table.group_by("kind", maintain_order=True):
        agreements = rows.unique("shots").sort("shots")
        overlaps = [
            f"{row['panel']}: overlap {row['overlap']:.0%} (chance {row['chance']:.0%}), "
            + ("rho undefined" if row["rho"] is None else f"rho {row['rho']:.2f}")
            for row in _shots(agreements).iter_rows(named=True)
        ]
        scale = alt.Scale(scheme="viridis", domain=[0, rows["score"].max()])
        color = alt.Color("score:Q", title=kind, scale=scale)
        first = rows.filter(shots=rows["shots"].min())
        subtitle = ["top 30 % of the heads, with the aggregate importance", *overlaps]
        heads = _head_map(first, color, ["score", "standard_error"])
        heads = heads.properties(width=1.6 * heads.width, height=1.6 * heads.height)
        panels.append(_titled(heads, kind.capitalize(), subtitle))
    chart = alt.hconcat(*panels, spacing=50).resolve_scale(color="independent")
    return chart.properties(title="Which heads are induction heads")


# --- curves ---


class _Orders(NamedTuple):
    """How the orders of a table are told apart."""

    color: alt.Color
    dash: alt.StrokeDash


def _orders(table: pl.DataFrame, symbol: str = "stroke") -> _Orders:
    """Encodings of the orders that the table has, with one legend."""
    present = [order for order in ORDERS if order in set(table["order"])]
    names, colors, dashes = zip(*(ORDERS[order] for order in present), strict=True)
    legend = alt.Legend(
        title="order of removal", symbolType=symbol, symbolSize=300, symbolOpacity=1
    )
    return _Orders(
        alt.Color("name:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
        alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
    )


def _named(table: pl.DataFrame) -> pl.DataFrame:
    names = {order: name for order, (name, _, _) in ORDERS.items()}
    return _shots(table).with_columns(name=pl.col("order").replace_strict(names))


def _curve_panels(
    table: pl.DataFrame, x: str, x_title: str, y_title: str, tasks: list[str], height: int
) -> alt.TopLevelMixin:
    """Curves with intervals and the level of chance: a row a task, a column a number of shots."""
    orders = _orders(table)
    across = alt.X(x, title=x_title, scale=alt.Scale(domain=[0, 100], nice=False))
    low = min(0.0, table["low"].min())
    up = alt.Y(
        "value:Q", title=y_title, scale=alt.Scale(domain=[low, max(1.0, table["high"].max())])
    )
    base = alt.Chart(_named(table).filter(pl.col("task").is_in(tasks)))
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
    chance = base.mark_rule(color="#bbbbbb", strokeDash=[1, 3]).encode(y="mean(chance):Q")
    return (
        (chance + band + line)
        .properties(width=190, height=height)
        .facet(
            row=alt.Row("task:N", title=None, sort=tasks, header=_row_header()),
            column=alt.Column("panel:N", title=None, sort=_panels(table)),
            spacing=10,
        )
    )


def _pruning(table: pl.DataFrame, component: str, title: str) -> alt.TopLevelMixin:
    x, x_title = f"{component}_removed:Q", f"% of {_plural(component)} removed"
    mean = _curve_panels(table, x, x_title, "mean metric", [MEAN], 210)
    tasks = [task for task in _tasks(table, MEAN) if task != MEAN]
    each = _curve_panels(table, x, x_title, "metric", tasks, 90)
    return _titled(
        alt.vconcat(mean, each, spacing=30),
        title,
        "bands: 95 % bootstrap intervals over documents; dotted: chance",
    )


def _plural(component: str) -> str:
    return {"heads": "heads", "ffns": "FFNs"}[component]


def head_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Metric against the share of heads removed: the mean over tasks, then every task."""
    return _pruning(table, "heads", "How many heads in-context learning needs")


def ffn_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Metric against the share of FFNs removed: the mean over tasks, then every task."""
    return _pruning(table, "ffns", "How many FFNs in-context learning needs")


def transfer(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Every task under its own, its closest and its farthest task's, and the aggregate ranking."""
    tasks = table["task"].unique(maintain_order=True).to_list()
    held = table.filter("heldout")["task"].unique(maintain_order=True).to_list()
    names = {task: f"{task} (held out)" if task in held else task for task in tasks}
    named = table.with_columns(pl.col("task").replace(names))
    chart = _curve_panels(
        named, "heads_removed:Q", "% of heads removed", "metric", list(names.values()), 110
    )
    return _titled(
        chart,
        "Do a task's heads serve other tasks?",
        "closest and farthest: by correlation of the scores; held-out tasks have no own ranking",
    )


def retention(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Share of the induction scores left against the share of heads removed."""
    orders = _orders(table)
    chart = (
        alt.Chart(_named(table))
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
            column=alt.Column("panel:N", title=None, sort=_panels(table)),
            spacing=12,
        )
    )
    return _titled(
        chart, "Do the heads that stay include the induction heads?", "own: mean over tasks"
    )


# --- grids and matrices ---


def combined_pruning(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Heads by FFNs removed: mean metric over tasks, a row for each order."""
    table = _named(table.filter(task=MEAN))
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
    chart = (cells + text).properties(width=34 * wide, height=28 * tall)
    chart = chart.facet(
        row=alt.Row("name:N", title=None, sort=names, header=_row_header()),
        column=alt.Column("panel:N", title=None, sort=_panels(table)),
        spacing=12,
    )
    return _titled(chart, "Heads and FFNs removed together", "mean metric over tasks")


def _matrix(table: pl.DataFrame, first: str, second: str, names: list) -> alt.LayerChart:
    """Rho as colour and number; the cells of the pairs (first, second)."""
    base = alt.Chart(table).encode(
        x=alt.X(
            f"{first}:O", title=None, sort=names, axis=alt.Axis(labelAngle=-45, labelLimit=200)
        ),
        y=alt.Y(f"{second}:O", title=None, sort=names, axis=alt.Axis(labelLimit=200)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "rho:Q",
            title=["Spearman's", "rho"],
            scale=alt.Scale(scheme="redblue", domain=[-1, 1]),
        ),
        tooltip=[
            first,
            second,
            *("rho", "rho_low", "rho_high", "overlap", "overlap_low", "overlap_high"),
            "overlap_chance",
        ],
    )
    if len(names) > 15:
        return cells
    white = alt.condition("abs(datum.rho) > 0.6", alt.value("white"), alt.value("black"))
    rho = base.mark_text(fontSize=10, dy=-5).encode(text="rho_text:N", color=white)
    overlap = base.mark_text(fontSize=8.5, dy=8).encode(
        text=alt.Text("overlap:Q", format=".0%"), color=white
    )
    return cells + rho + overlap


def cross_task(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Rho between tasks: a row for heads and FFNs, a column for each number of shots."""
    names = [*table.filter(pl.col("b") != "aggregate")["a"].unique(maintain_order=True)]
    names += [b for b in table["b"].unique(maintain_order=True) if b not in names]
    mirrored = table.rename({"a": "b", "b": "a"}).select(table.columns)
    table = _both_named(pl.concat([table, mirrored]).with_columns(shots="shots_a"))
    number = pl.col("rho").round(2).map_elements("{:.2f}".format, return_dtype=pl.String)
    table = table.with_columns(rho_text=number.fill_null("-"))  # undefined: a constant score

    side = (32 if len(names) <= 15 else 16) * len(names)
    chart = _matrix(table, "a", "b", names).properties(width=side, height=side)
    chart = chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"], header=_row_header()),
        column=alt.Column("panel:N", title=None, sort=_panels(table)),
        spacing=12,
    )
    subtitle = [
        "large: correlation of importance scores between tasks, and with their mean (aggregate)",
        "small: share of their top 30 % of components in common (chance: about 30 %)",
    ]
    return _titled(chart, "Do tasks need the same components?", subtitle)


def _both_named(table: pl.DataFrame) -> pl.DataFrame:
    return _shots(table).with_columns(pl.col("component").replace({"ffns": "FFNs"}))


def cross_shot(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Rho between numbers of shots, for every task and the aggregate."""
    tasks = table["a"].unique(maintain_order=True).to_list()
    pair = pl.format("{} and {} shots", "shots_a", "shots_b")
    table = table.with_columns(
        pair=pair, component=pl.col("component").replace({"ffns": "FFNs"})
    ).sort("shots_a", "shots_b")
    pairs = table["pair"].unique(maintain_order=True).to_list()
    color = alt.Color(
        "pair:N",
        title="between",
        sort=pairs,
        scale=alt.Scale(range=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]),
    )
    base = alt.Chart(table).encode(
        y=alt.Y("a:N", title=None, sort=tasks, axis=alt.Axis(labelLimit=200, grid=True)),
        yOffset=alt.YOffset("pair:N", sort=pairs),
        color=color,
    )
    scale = alt.Scale(domain=[-1.0 if (table["rho_low"].min() or 0.0) < 0 else 0.0, 1.0])
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(
        x=alt.X("rho:Q", title="Spearman's rho", scale=scale),
        tooltip=["a", "pair", "rho", "rho_low", "rho_high", "overlap", "overlap_chance"],
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("rho_low:Q", scale=scale), x2="rho_high:Q"
    )
    chart = (bars + dots).properties(width=300, height=alt.Step(max(9, 26 / len(pairs))))
    chart = chart.facet(column=alt.Column("component:N", title=None, sort=["heads", "FFNs"]))
    return _titled(
        chart,
        "Do more examples change what matters?",
        "correlation of importance scores between numbers of shots; 95 % bootstrap intervals",
    )


def summary(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Bars of what can go within five points, beside the paper's figures for OPT-66B."""
    table = _named(table).with_columns(pl.col("component").replace({"ffns": "FFNs"}))
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
    orders = _orders(rows, symbol="square")
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
    paper = base.mark_rule(strokeWidth=1.5, color="black", opacity=0.7).encode(
        x="max(paper):Q", y=alt.value(0), y2=alt.value("height")
    )
    chart = (bars + paper + numbers).properties(width=190, height=15 * len(names))
    chart = chart.facet(
        row=alt.Row(
            "what:N",
            title=None,
            sort=["heads alone", "FFNs alone", "both: heads", "both: FFNs"],
            header=_row_header(),
        ),
        column=alt.Column("panel:N", title=None, sort=_panels(rows)),
        spacing=12,
    )
    return _titled(
        chart,
        "How much can go for at most five points of mean metric",
        "black lines: OPT-66B in the paper (both: at five points 0-shot, six 1-shot, four 5-shot)",
    )
