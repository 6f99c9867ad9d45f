"""The summary: what can be removed for at most five points, and the area under each curve."""

import altair as alt
import polars as pl

from headcount.report import paper
from headcount.report.figures.style import (
    PAGE,
    Style,
    about,
    fitted,
    note,
    orders_named,
    orders_of,
    panels,
    row_header,
    tips,
)
from headcount.report.vocabulary import ORDERS

TITLE = "How much can be removed for at most five points of the mean metric?"
ROWS = {  # what a row of panels shows -> component of the summary, kind that is removed
    "heads alone": ("heads", "heads"),
    "FFNs alone": ("ffns", "ffns"),
    "both: heads": ("both", "heads"),
    "both: FFNs": ("both", "ffns"),
}
AREAS = {"heads": "heads", "ffns": "FFNs"}


def summary(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Shares that can be removed beside the paper's for OPT-66B; areas under the curves."""
    if table.is_empty():
        return note(style, TITLE, "a level that removes something; this study has none")
    table = orders_named(style.named(table))
    shares = pl.concat(
        table.filter(component=component).with_columns(
            what=pl.lit(row),
            share=pl.col(f"{kind}_removed"),
            from_share=pl.col(f"{kind}_removable_low"),
            to_share=pl.col(f"{kind}_removable_high"),
            paper=pl.col(f"paper_{kind}").cast(pl.Float64),
        )
        for row, (component, kind) in ROWS.items()
    )
    areas = table.filter(pl.col("area").is_not_null()).with_columns(
        what=pl.col("component").replace(AREAS),
        share=100 * pl.col("area"),
        from_share=100 * pl.col("area_low"),
        to_share=100 * pl.col("area_high"),
        paper=pl.lit(None, pl.Float64),
    )
    shown = panels(table)

    def build(width: float) -> alt.TopLevelMixin:
        blocks = [_block(style, shares, list(ROWS), "removable (%)", width)]
        if areas.height:
            under = "area (%)"
            blocks.append(_block(style, areas, list(AREAS.values()), under, width))
        return alt.vconcat(*blocks, spacing=style.size)

    costs = ", ".join(map(str, paper.BOTH_COST.values()))
    subtitle = [
        about(style, table, "evaluation documents", table["tasks"].max()),
        "Lines: 95 % bootstrap intervals over documents. Area under the curve: the mean metric "
        "over the share removed, "
        "in % of the unpruned model's.",
        f"Grey bar: OPT-66B in Bansal et al. (2023); both together for {costs} points at "
        f"{', '.join(map(str, paper.SHOTS))} shots.",
    ]
    return fitted(build, style, len(shown), TITLE, subtitle)


def _block(
    style: Style, rows: pl.DataFrame, order: list[str], title: str, width: float
) -> alt.FacetChart:
    """A row of panels for each of `order`: a dot and an interval for each order of removal."""
    look = orders_of(style, rows)
    names = [order.name for order in ORDERS.values() if order.name in set(rows["name"])]
    base = alt.Chart(rows).encode(
        y=alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labels=False, ticks=False)),
    )
    scale = alt.Scale(domain=[0, 100], nice=False, clamp=True)
    across = alt.X("share:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4))
    known = base.transform_filter("isValid(datum.paper)")
    of_paper = known.mark_rule(strokeWidth=4 * style.line, color="#cccccc").encode(
        x=alt.X("paper:Q", scale=scale), y=alt.value(0), y2=alt.value("height")
    )
    lines = base.mark_rule(strokeWidth=style.line).encode(
        x=alt.X("from_share:Q", scale=scale, title=title), x2="to_share:Q", color=look["color"]
    )
    dots = base.mark_point(filled=True, size=4 * style.size, opacity=1).encode(
        x=across,
        color=look["color"],
        shape=look["shape"],
        tooltip=tips("panel", "what", "name", "share", "drop", "drop_low", "drop_high", "unpruned"),
    )
    numbers = base.mark_text(align="right", fontSize=style.small).encode(
        x=alt.value(width + 2.2 * style.small), text=alt.Text("share:Q", format=".0f")
    )
    chart = (of_paper + lines + dots + numbers).properties(
        width=width, height=1.3 * style.size * len(names)
    )
    return chart.facet(
        row=alt.Row("what:N", title=None, sort=order, header=row_header(style)),
        column=alt.Column("panel:N", title=None, sort=panels(rows)),
        spacing={"row": style.size, "column": 3 * style.size},
    )
