"""Figures of how alike scores are: between tasks, numbers of shots, and estimators."""

from math import floor

import altair as alt
import polars as pl

from headcount.report.figures.style import (
    COLORS,
    PAGE,
    SHAPES,
    Style,
    about,
    component_named,
    encodings_by,
    fitted,
    note,
    panels,
    row_header,
    tips,
)
from headcount.report.vocabulary import ESTIMATORS
from headcount.scores.correlation import AGGREGATE

STATISTICS = ("rho", "rho_low", "rho_high", "overlap", "overlap_chance")


def _baseline(table: pl.DataFrame) -> str:
    """What rho is between unrelated scores, as the subtitle says it: medians over the pairs."""
    medians = table.group_by("component", maintain_order=True).agg(
        either=pl.max_horizontal(pl.col("permuted_high"), -pl.col("permuted_low")).median(),
        low=pl.col("within_layers_low").median(),
        high=pl.col("within_layers_high").median(),
    )
    anywhere = [
        f"±{row['either']:.2f} ({row['component']})"
        for row in medians.drop_nulls("either").iter_rows(named=True)
    ]
    within = [
        f"; {row['component']} permuted within layers {row['low']:.2f} to {row['high']:.2f}"
        for row in medians.drop_nulls("low").iter_rows(named=True)
    ]
    bounds = " and ".join(anywhere) + "".join(within) or "no bounds: all scores are constant"
    return f"unrelated (permuted) scores, 95 % of the time within {bounds}."


# --- matrices ---


def cross_task(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Rho between tasks, each pair once; on the diagonal a task with itself."""
    title = "Do different tasks need the same heads and FFNs?"
    if table.is_empty():
        return note(style, title, "two tasks; this study has one")
    table = component_named(table.with_columns(shots="shots_a"))
    names = table.filter(pl.col("a") == pl.col("b"))["a"].unique(maintain_order=True).to_list()
    place = {name: i for i, name in enumerate(names)}
    first, second = (pl.col(column).replace_strict(place) for column in ("a", "b"))
    table = table.with_columns(
        pl.when(first <= second).then("a").otherwise("b").alias("a"),
        pl.when(first <= second).then("b").otherwise("a").alias("b"),
    )
    named = style.named(table).with_columns(
        pl.col("a", "b").replace({AGGREGATE: "mean over tasks"}),
        # A constant score has no rho.
        rho_text=pl.col("rho").map_elements(_short, return_dtype=pl.String).fill_null("-"),
    )
    written = ["mean over tasks" if name == AGGREGATE else style.name(name) for name in names]
    shown, upright = panels(table), style.preset == "column"
    across = 2 if upright else len(shown)

    def build(width: float) -> alt.TopLevelMixin:
        blocks = [
            _matrices(style, named.filter(component=component), written, width, upright)
            for component in ("heads", "FFNs")
        ]
        return (alt.hconcat if upright else alt.vconcat)(*blocks, spacing=style.size).resolve_scale(
            color="independent"
        )

    tasks = len(names) - (AGGREGATE in names)
    subtitle = [
        about(style, table, "documents", tasks),
        "Spearman's rho of two tasks' importance scores. Outlined: split-half reliability; -: "
        "constant scores.",
        f"For comparison, {_baseline(table)}",
    ]
    return fitted(build, style, across, title, subtitle)


def _short(rho: float) -> str:
    """Two digits in little room: .85, or 1."""
    return f"{rho:.2f}".replace("0.", ".").replace("1.00", "1")


def _matrices(
    style: Style, table: pl.DataFrame, names: list[str], width: float, upright: bool
) -> alt.FacetChart:
    """The lower triangles of a component, with a scale of their own: a panel a number of shots."""
    component = table["component"][0]
    lowest = floor(10 * min(0.9, table["rho"].min() or 0.0)) / 10
    plain = {"ticks": False, "domain": False, "labelOverlap": False}
    base = alt.Chart(table).encode(
        x=alt.X(
            "a:O",
            title=None,
            sort=names,
            scale=alt.Scale(domain=names),
            axis=alt.Axis(labelAngle=-90, labelLimit=max(width / 2, 8 * style.size), **plain),
        ),
        y=alt.Y(
            "b:O",
            title=None,
            sort=names,
            scale=alt.Scale(domain=names),
            axis=alt.Axis(labelLimit=max(style.width / 6, 8 * style.size), **plain),
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "rho:Q",
            title=f"rho, {component}",
            scale=alt.Scale(scheme="viridis", domain=[lowest, 1]),
            legend=alt.Legend(
                orient="bottom" if upright else "right",
                gradientLength=min(width, 12 * style.size),
                tickCount=3,
            ),
        ),
        tooltip=tips("a", "b", *STATISTICS),
    )
    itself = base.transform_filter("datum.a == datum.b")
    chart = cells + itself.mark_rect(filled=False, stroke="black", strokeWidth=style.line)
    if width / len(names) > 1.9 * style.small:
        bright = alt.condition(
            f"isValid(datum.rho) && datum.rho < {(lowest + 1) / 2}",
            alt.value("white"),
            alt.value("black"),
        )
        chart += base.mark_text(fontSize=style.small).encode(text="rho_text:N", color=bright)
    panel = {"title": None, "sort": panels(table)}
    return chart.properties(width=width, height=width).facet(
        facet=alt.Facet("panel:N", **panel),
        columns=1 if upright else 99,
        spacing=style.size,
    )


# --- dots with intervals ---


def _dots(
    style: Style, table: pl.DataFrame, of: str, legend: str, statistic: str = "rho"
) -> alt.LayerChart:
    """A statistic and its interval: a row a task, in it a dot for each `of`; grey: unrelated."""
    tasks = table["task"].unique(maintain_order=True).to_list()
    kinds = table[of].unique(maintain_order=True).to_list()
    step = 0.9 * style.size
    title, low, high = {
        "rho": ("Spearman's rho", "permuted_low", "permuted_high"),
        "overlap": (["top 30 %", "in common"], "zero", "overlap_chance"),
    }[statistic]
    table = table.with_columns(
        zero=0.0,
        order=pl.col(of).replace_strict({kind: i for i, kind in enumerate(kinds)}),
        none=pl.when(pl.col("rho").is_null()).then(pl.lit("constant: no rho")),
    )
    lowest = min(0.0, *(table[name].min() or 0.0 for name in (f"{statistic}_low", low)))
    scale = alt.Scale(domain=[max(-1.0, floor(5 * lowest) / 5), 1.0])
    look = encodings_by(style, of, legend, kinds, COLORS, shapes=SHAPES)
    limit = max(style.width / 5, 8 * style.size)
    labels = alt.Axis(labelLimit=limit, grid=True, labels=statistic == "rho", ticks=False)
    base = alt.Chart(table).encode(
        y=alt.Y("task:N", title=None, sort=tasks, axis=labels),
        yOffset="order:O",  # Vega-Lite would sort names by itself
    )
    unrelated = base.mark_rule(strokeWidth=step, color="#e9e9e9").encode(
        x=alt.X(f"{low}:Q", scale=scale), x2=f"{high}:Q"
    )
    bars = base.mark_rule(strokeWidth=style.line).encode(
        x=alt.X(f"{statistic}_low:Q", scale=scale), x2=f"{statistic}_high:Q", color=look["color"]
    )
    dots = base.mark_point(filled=True, size=2.5 * style.size, opacity=1).encode(
        x=alt.X(f"{statistic}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5)),
        color=look["color"],
        shape=look["shape"],
        tooltip=tips("task", of, *STATISTICS),
    )
    chart = unrelated + bars + dots
    if statistic == "rho" and table["none"].count():
        undefined = base.transform_filter("isValid(datum.none)").mark_text(
            align="right", dx=-3, fontSize=0.9 * style.small, color="#555555"
        )
        chart += undefined.encode(x=alt.datum(1), text="none:N")
    return chart.properties(height=alt.Step(step))


def cross_shot(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Rho between numbers of shots, for every task and the aggregate."""
    title = "Do more examples change which heads and FFNs matter?"
    if table.is_empty():
        return note(style, title, "two numbers of shots; this study has one")
    tasks = table.filter(pl.col("a") != AGGREGATE)["a"].n_unique()
    named = style.named(table).with_columns(
        task=pl.col("a").replace({AGGREGATE: "mean over tasks"}),
        pair=pl.format("{}- and {}-shot", "shots_a", "shots_b"),
        component=pl.col("component").replace({"ffns": "FFNs"}),
    )
    named = named.sort("shots_a", "shots_b", maintain_order=True)

    def build(width: float) -> alt.TopLevelMixin:
        return (
            _dots(style, named, "pair", "between")
            .properties(width=width)
            .facet(column=alt.Column("component:N", title=None, sort=["heads", "FFNs"]))
        )

    subtitle = [
        about(style, table, "documents", tasks),
        "Correlation of a task's importance scores at two numbers of examples; lines: 95 % "
        "bootstrap intervals.",
        f"Grey: {_baseline(named)}",
    ]
    return fitted(build, style, 2, title, subtitle)


def estimator_agreement(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Agreement of estimators, and of each with itself, for every task, component and shots."""
    named = component_named(style.named(table)).with_columns(pl.col("a", "b").replace(ESTIMATORS))
    pairs = named.filter(pl.col("a") != pl.col("b"))
    pairs = pairs.with_columns(pair=pl.format("{} - {}", "a", "b"))
    itself = named.filter(pl.col("a") == pl.col("b"))
    shown = len(panels(table))

    def build(width: float) -> alt.TopLevelMixin:
        blocks = [
            alt.hconcat(
                _estimator_panels(style, rows, of, legend, "rho", 1.2 * width),
                _estimator_panels(style, rows, of, legend, "overlap", 0.8 * width),
                spacing=style.size,
            )
            for rows, of, legend in ((pairs, "pair", "between"), (itself, "a", "with itself"))
        ]
        return alt.vconcat(*blocks, spacing=2 * style.size).resolve_scale(
            color="independent", shape="independent", yOffset="independent"
        )

    subtitle = [
        about(style, table, "documents", table["task"].n_unique()),
        "Above: scores of two estimators on the same documents; lines: 95 % bootstrap intervals.",
        "Below: an estimator with itself on other documents (split-half reliability).",
        f"Grey: an overlap by chance, or {_baseline(named)}",
    ]
    return fitted(build, style, 2 * shown, "Do estimators agree on what matters?", subtitle)


def _estimator_panels(
    style: Style, table: pl.DataFrame, of: str, legend: str, statistic: str, width: float
) -> alt.FacetChart:
    """A row a component, a column a number of shots."""
    chart = _dots(style, table, of, legend, statistic).properties(width=width)
    header = row_header(style) if statistic == "rho" else alt.Header(labels=False)
    return chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"], header=header),
        column=alt.Column("panel:N", title=None, sort=panels(table)),
        spacing=style.size,
    )
