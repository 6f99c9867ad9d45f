"""Figures of how alike scores are: between tasks, numbers of shots, and estimators."""

from math import floor

import altair as alt
import polars as pl

from headcount.figures.style import component_named, note, panels, row_header, titled

ESTIMATORS = {
    "gradient-token": "gradient (token)",
    "gradient-example": "gradient (example)",
    "oracle-task": "oracle (metric)",
    "oracle-loss": "oracle (loss)",
}
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
STATISTICS = [
    *("rho", "rho_low", "rho_high", "overlap", "overlap_low", "overlap_high", "overlap_chance"),
    *("p_permuted", "permuted_low", "permuted_high"),
    *("p_within_layers", "within_layers_low", "within_layers_high"),
]


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
    return f"95 % of the time permuted scores correlate within {bounds}"


# --- matrices ---


def _matrix(table: pl.DataFrame, names: list[str]) -> alt.LayerChart:
    """Rho as colour and number for the pairs (a, b); outlined where a is b."""
    base = alt.Chart(table).encode(
        x=alt.X("a:O", title=None, sort=names, axis=alt.Axis(labelAngle=-45, labelLimit=200)),
        y=alt.Y("b:O", title=None, sort=names, axis=alt.Axis(labelLimit=200)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "rho:Q",
            title=["Spearman's", "rho"],
            scale=alt.Scale(scheme="redblue", domain=[-1, 1]),
        ),
        tooltip=["a", "b", *STATISTICS],
    )
    itself = base.transform_filter("datum.a == datum.b")
    cells += itself.mark_rect(filled=False, stroke="black", strokeWidth=1.2)
    if len(names) > 15:
        return cells
    white = alt.condition("abs(datum.rho) > 0.6", alt.value("white"), alt.value("black"))
    rho = base.mark_text(fontSize=10, dy=-5).encode(text="rho_text:N", color=white)
    overlap = base.mark_text(fontSize=8.5, dy=8).encode(text="overlap_text:N", color=white)
    return cells + rho + overlap


def _written(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).map_elements(pattern.format, return_dtype=pl.String)


def cross_task(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Rho between tasks, on the diagonal of a task with itself: a row for heads and for FFNs."""
    title = "Do tasks need the same components?"
    if table.is_empty():
        return note(title, "two tasks; this study has one")
    names = table.filter(pl.col("a") == pl.col("b"))["a"].unique(maintain_order=True).to_list()
    pairs = table.filter(pl.col("a") != pl.col("b"))
    mirrored = pairs.rename({"a": "b", "b": "a"}).select(table.columns)
    table = component_named(pl.concat([table, mirrored]).with_columns(shots="shots_a"))
    # A constant score has no rho, and its top 30 % are the last components, whatever they do.
    table = table.with_columns(
        rho_text=_written("rho", "{:.2f}").fill_null("-"),
        overlap_text=pl.when(pl.col("rho").is_null())
        .then(pl.lit(""))
        .otherwise(_written("overlap", "{:.0%}")),
    )

    side = (32 if len(names) <= 15 else 16) * len(names)
    chart = _matrix(table, names).properties(width=side, height=side)
    chart = chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"], header=row_header()),
        column=alt.Column("panel:N", title=None, sort=panels(table)),
        spacing=12,
    )
    subtitle = [
        "large: correlation of importance scores between tasks, and with their mean (aggregate);",
        "small: share of their top 30 % of components in common (chance: about 30 %); -: constant;",
        "outlined: a task with itself, from other documents (split-half reliability, stepped up;"
        " small: between halves);",
        _baseline(table),
    ]
    return titled(chart, title, subtitle)


# --- dots with intervals ---


def _dots(
    table: pl.DataFrame, of: str, legend: str, step: float, statistic: str = "rho"
) -> alt.LayerChart:
    """A statistic and its interval: a row a task, in it a dot for each `of`; grey: unrelated."""
    tasks = table["task"].unique(maintain_order=True).to_list()
    kinds = table[of].unique(maintain_order=True).to_list()
    title, low, high = {
        "rho": ("Spearman's rho", "permuted_low", "permuted_high"),
        "overlap": ("top 30 % in common", "zero", "overlap_chance"),
    }[statistic]
    table = table.with_columns(
        zero=0.0, order=pl.col(of).replace_strict({kind: i for i, kind in enumerate(kinds)})
    )
    lowest = min(0.0, *(table[name].min() or 0.0 for name in (f"{statistic}_low", low)))
    scale = alt.Scale(domain=[max(-1.0, floor(5 * lowest) / 5), 1.0])
    color = alt.Color(f"{of}:N", title=legend, sort=kinds, scale=alt.Scale(range=COLORS))
    labels = alt.Axis(labelLimit=200, grid=True, labels=statistic == "rho", ticks=False)
    base = alt.Chart(table).encode(
        y=alt.Y("task:N", title=None, sort=tasks, axis=labels),
        yOffset="order:O",  # Vega-Lite would sort names by itself
    )
    unrelated = base.mark_rule(strokeWidth=step, color="#e9e9e9").encode(
        x=alt.X(f"{low}:Q", scale=scale), x2=f"{high}:Q"
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X(f"{statistic}_low:Q", scale=scale), x2=f"{statistic}_high:Q", color=color
    )
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(
        x=alt.X(f"{statistic}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5)),
        color=color,
        tooltip=["task", of, *STATISTICS],
    )
    return (unrelated + bars + dots).properties(height=alt.Step(step))


def cross_shot(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Rho between numbers of shots, for every task and the aggregate."""
    title = "Do more examples change what matters?"
    if table.is_empty():
        return note(title, "two numbers of shots; this study has one")
    table = table.with_columns(
        task="a",
        pair=pl.format("{} and {} shots", "shots_a", "shots_b"),
        component=pl.col("component").replace({"ffns": "FFNs"}),
    ).sort("shots_a", "shots_b", maintain_order=True)
    chart = _dots(table, "pair", "between", 9).properties(width=300)
    chart = chart.facet(column=alt.Column("component:N", title=None, sort=["heads", "FFNs"]))
    return titled(
        chart,
        title,
        [
            "correlation of importance scores between numbers of shots; 95 % bootstrap intervals;",
            f"grey: {_baseline(table)}",
        ],
    )


def estimator_agreement(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Agreement of estimators, and of each with itself, for every task, component and shots."""
    table = component_named(table).with_columns(pl.col("a", "b").replace(ESTIMATORS))
    pairs = table.filter(pl.col("a") != pl.col("b"))
    pairs = pairs.with_columns(pair=pl.format("{} - {}", "a", "b"))
    itself = table.filter(pl.col("a") == pl.col("b"))
    blocks = [
        alt.hconcat(
            _estimator_panels(rows, of, legend, "rho", width=170),
            _estimator_panels(rows, of, legend, "overlap", width=110),
            spacing=10,
        )
        for rows, of, legend in ((pairs, "pair", "between"), (itself, "a", "with itself"))
    ]
    return titled(
        alt.vconcat(*blocks, spacing=30).resolve_scale(color="independent", yOffset="independent"),
        "Do estimators agree on what matters?",
        [
            "above: scores of two estimators on the same documents; 95 % bootstrap intervals;",
            "below: an estimator with itself on other documents (split-half reliability, stepped"
            " up; overlap between halves); bars: 95 % of the splits;",
            f"grey: {_baseline(table)}; or an overlap below chance",
        ],
    )


def _estimator_panels(
    table: pl.DataFrame, of: str, legend: str, statistic: str, width: int
) -> alt.FacetChart:
    """A row a component, a column a number of shots."""
    first = statistic == "rho"
    chart = _dots(table, of, legend, 6.5, statistic).properties(width=width)
    header = row_header() if first else alt.Header(labels=False)
    return chart.facet(
        row=alt.Row("component:N", title=None, sort=["heads", "FFNs"], header=header),
        column=alt.Column("panel:N", title=None, sort=panels(table)),
        spacing=10,
    )
