"""What all figures share: how they are saved, their titles, panels and orders of removal.

The four orders of removal have the same colours and dashes everywhere (Okabe and Ito's palette,
which colour-blind readers can tell apart).
"""

from pathlib import Path
from typing import NamedTuple

import altair as alt
import polars as pl

from headcount.artifacts import atomic

ORDERS = {  # order -> name in the legend, colour, dash
    "own": ("own importance", "#0072B2", [1, 0]),
    "aggregate": ("aggregate importance", "#D55E00", [1, 0]),
    "closest": ("closest task's importance", "#56B4E9", [1, 0]),
    "farthest": ("farthest task's importance", "#E69F00", [1, 0]),
    "depth": ("depth (top layer first)", "#009E73", [5, 3]),
    "random": ("random order", "#777777", [2, 2]),
}


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


def by_shots(table: pl.DataFrame) -> pl.DataFrame:
    """With the column `panel`: "0 shots", "1 shot", "5 shots"."""
    shots = pl.col("shots")
    name = pl.format(
        "{} shot{}", shots, pl.when(shots == 1).then(pl.lit("")).otherwise(pl.lit("s"))
    )
    return table.with_columns(panel=name)


def panels(table: pl.DataFrame) -> list[str]:
    """Names of the panels, in the order of the shots."""
    return by_shots(table.select("shots").unique().sort("shots"))["panel"].to_list()


def titled(chart: alt.TopLevelMixin, title: str, subtitle: str | list[str]) -> alt.TopLevelMixin:
    return chart.properties(title=alt.TitleParams(title, subtitle=subtitle))


def note(title: str, needs: str) -> alt.TopLevelMixin:
    """What stands in place of a figure that the study is too small for: what it would need."""
    text = alt.Chart(pl.DataFrame({"needs": [f"needs {needs}"]})).mark_text(
        align="left", fontSize=13, color="#555555"
    )
    chart = text.encode(text="needs:N", x=alt.value(16)).properties(width=440, height=90)
    return titled(chart, title, "not drawn: the study is too small for it")


def task_names(table: pl.DataFrame, last: str) -> list[str]:
    """Task names in the order of the study, `last`, if it is there, after them."""
    names = table["task"].unique(maintain_order=True).to_list()
    return sorted(names, key=lambda name: name == last)


def row_header() -> alt.Header:
    return alt.Header(labelAngle=0, labelAlign="left", labelLimit=200)


def component_named(table: pl.DataFrame) -> pl.DataFrame:
    return by_shots(table).with_columns(pl.col("component").replace({"ffns": "FFNs"}))


# --- orders of removal ---


class Orders(NamedTuple):
    """How the orders of a table are told apart."""

    color: alt.Color
    dash: alt.StrokeDash


def orders_of(table: pl.DataFrame, symbol: str = "stroke") -> Orders:
    """Encodings of the orders that the table has, with one legend."""
    present = [order for order in ORDERS if order in set(table["order"])]
    names, colors, dashes = zip(*(ORDERS[order] for order in present), strict=True)
    legend = alt.Legend(
        title="order of removal", symbolType=symbol, symbolSize=300, symbolOpacity=1
    )
    return Orders(
        alt.Color("name:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
        alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
    )


def orders_named(table: pl.DataFrame) -> pl.DataFrame:
    names = {order: name for order, (name, _, _) in ORDERS.items()}
    return by_shots(table).with_columns(name=pl.col("order").replace_strict(names))
