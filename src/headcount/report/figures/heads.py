"""Figures of induction heads: which they are, whether they matter, and whether they stay."""

import altair as alt
import polars as pl

from headcount.report.figures.heatmaps import heatmap, numbered
from headcount.report.figures.style import (
    PAGE,
    Style,
    about,
    by_shots,
    fitted,
    note,
    orders_named,
    orders_of,
    panels,
    tips,
)
from headcount.report.vocabulary import VIRIDIS

TOP = 5  # induction heads that are named


def induction(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Importance against prefix matching; prefix matching and copying by layer and head."""
    table = style.named(by_shots(table)).with_columns(
        name=pl.format("{}.{}", "layer", "head"),
        relative=pl.col("importance") / pl.col("importance").max().over("shots", "kind"),
    )
    prefix = table.filter(kind="prefix matching")
    first = prefix.filter(shots=prefix["shots"].min())
    top = first.sort("score", descending=True).head(TOP)
    prefix = prefix.with_columns(
        top=pl.col("name").is_in(top["name"].to_list()),
        place=pl.col("score").rank("ordinal", descending=True).over("shots"),
    )
    shown = panels(prefix)
    columns = style.across(len(shown))

    def build(width: float) -> alt.TopLevelMixin:
        scatters = _scatter(style, prefix, width).facet(
            facet=alt.Facet("panel:N", title=None, sort=shown), columns=columns, spacing=style.size
        )
        maps = _maps(style, table, set(top["name"]), width, columns)
        return alt.vconcat(scatters, maps, spacing=1.5 * style.size)

    said = [
        f"{row['panel']}: {_rho(row['rho'])}, {100 * row['overlap']:.0f} % of the top 30 % in "
        f"common (chance: {100 * row['chance']:.0f} %)"
        for row in prefix.unique("shots", maintain_order=True).sort("shots").iter_rows(named=True)
    ]
    subtitle = [
        f"{about(style, table, 'documents')} Prefix matching and copying: "
        f"{table['n'].max()} random sequences.",
        f"Named (layer.head): the {len(top)} heads with the highest prefix-matching scores.",
        f"Importance and prefix matching, {'; '.join(said)}.",
    ]
    return fitted(build, style, columns, "Are the important heads induction heads?", subtitle)


def _rho(rho: float | None) -> str:
    return "rho undefined" if rho is None else f"rho {rho:.2f}"


def _scatter(style: Style, prefix: pl.DataFrame, width: float) -> alt.LayerChart:
    """A point a head; those with the highest prefix matching are larger, and named."""
    shown = ["panel", "layer", "head", "name", "score", "importance", "relative", "top", "place"]
    rounded = pl.col("score", "importance", "relative").round_sig_figs(4)
    base = alt.Chart(prefix.select(shown).with_columns(rounded)).encode(
        x=alt.X("score:Q", title="prefix matching", axis=alt.Axis(tickCount=4)),
        y=alt.Y("relative:Q", title="importance (largest: 1)", axis=alt.Axis(tickCount=4)),
    )
    # Opaque: in a PDF every transparent point is a group of its own.
    others = base.transform_filter("!datum.top").mark_point(
        filled=True, size=1.5 * style.size, color="#999999", opacity=1
    )
    named = base.transform_filter("datum.top")
    tooltip = tips("layer", "head", "score", "importance")
    dots = named.mark_point(filled=True, size=4 * style.size, color="#D55E00", opacity=1)
    place = {"fontSize": style.small, "align": "right", "dx": -2}
    # By turns above and below their points, since heads with like scores lie side by side.
    above = named.transform_filter("datum.place % 2 == 0").mark_text(
        baseline="bottom", dy=-1, **place
    )
    below = named.transform_filter("datum.place % 2 == 1").mark_text(baseline="top", dy=2, **place)
    drawn = others.encode(tooltip=tooltip) + dots.encode(tooltip=tooltip)
    drawn += above.encode(text="name:N") + below.encode(text="name:N")
    return drawn.properties(width=width, height=min(width, 14 * style.size))


def _maps(
    style: Style, table: pl.DataFrame, named: set[str], width: float, columns: int
) -> alt.FacetChart:
    """Layer by head: prefix matching and copying; rings around the heads that are named."""
    first = table.filter(shots=table["shots"].min())
    layers, heads = first["layer"].max() + 1, first["head"].max() + 1
    cells = first.with_columns(
        x="head",
        y="layer",
        colour=pl.col("score").clip(0) / pl.col("score").max().over("kind"),
        top=pl.col("name").is_in(list(named)),
        x_middle=pl.col("head") + 0.5,
        y_middle=pl.col("layer") + 0.5,
    )
    color = alt.Color(
        "colour:Q",
        title="score, share of the largest",
        scale=alt.Scale(domain=[i / 8 for i in range(9)], range=VIRIDIS, interpolate="rgb"),
        legend=alt.Legend(
            orient="bottom", gradientLength=style.width / 3, gradientOpacity=1, values=[0, 0.5, 1]
        ),
    )
    height = min(max(width * layers / heads, 8 * style.size), 26 * style.size)
    axes = (
        numbered(heads, "head", max(2, int(width / (2.5 * style.small)))),
        numbered(layers, "layer", max(2, int(height / (1.4 * style.small)))),
    )
    tooltip = tips("kind", "layer", "head", "score", "standard_error")
    chart = heatmap(cells, ["kind"], axes, color, tooltip, (width, height))
    rings = (
        alt.Chart(chart.data)
        .transform_filter("datum.top")
        .mark_point(size=5 * style.size, color="#D55E00", strokeWidth=style.line)
    )
    chart += rings.encode(x="x_middle:Q", y="y_middle:Q")
    return chart.facet(
        facet=alt.Facet("kind:N", title=None, sort=["prefix matching", "copying"]),
        columns=min(columns, 2),
        spacing=style.size,
    )


def retention(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Share of the induction scores left against the share of heads removed."""
    title = "Are the induction heads among those that remain?"
    if table.is_empty():
        return note(style, title, "a level that removes a head; this study has none")
    table = orders_named(style.named(table))
    look, shown = orders_of(style, table), panels(table)

    def build(width: float) -> alt.TopLevelMixin:
        scale = alt.Scale(domain=[0, 100], nice=False)
        base = alt.Chart(table).encode(
            x=alt.X(
                "removed:Q",
                title="heads removed (%)",
                scale=scale,
                axis=alt.Axis(values=[0, 25, 50, 75, 100]),
            ),
            y=alt.Y("share:Q", title="score left (%)", scale=scale, axis=alt.Axis(tickCount=4)),
            color=look["color"],
        )
        lines = base.mark_line(strokeWidth=style.line).encode(strokeDash=look["strokeDash"])
        dots = base.mark_point(filled=True, size=1.6 * style.size, opacity=1).encode(
            shape=look["shape"], tooltip=tips("panel", "kind", "name", "removed", "share")
        )
        height = min(width, 13 * style.size)
        return (
            (lines + dots)
            .properties(width=width, height=height)
            .facet(
                row=alt.Row("kind:N", title=None, sort=["prefix matching", "copying"]),
                column=alt.Column("panel:N", title=None, sort=shown),
                spacing=style.size,
            )
        )

    subtitle = [
        about(style, table, "documents", table["tasks"].max()),
        "Share of the model's total prefix-matching and copying scores. Tasks' own rankings: the "
        "mean over tasks.",
    ]
    return fitted(build, style, len(shown), title, subtitle)
