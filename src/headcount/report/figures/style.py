"""The theme of all figures: sizes, colours, names, titles, tooltips, and how they are saved.

A unit is a point (1/72 inch), so that a figure put into a paper at its own size has text of the
size that is written here.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from headcount.artifacts.storage import atomic
from headcount.report.figures import web
from headcount.report.vocabulary import ORDERS

PRESETS = {  # name -> width and size of text, in points
    "column": (238, 7.0),  # 3.3 inches
    "page": (490, 8.0),  # 6.8 inches
    "slide": (720, 14.0),
}
FONT = "Helvetica, Arial, Liberation Sans, sans-serif"
PPI = 300
# Colours, dashes and shapes of anything else that is told apart: models, numbers of shots, pairs.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = [[1, 0], [6, 2], [2, 2], [4, 2, 1, 2], [8, 3], [1, 2]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
METRICS = {"acc": "accuracy", "acc_norm": "normalized accuracy"}
TOOLTIPS = {  # column -> what a tooltip calls it; numbers with three digits
    "panel": "examples in the prompt",
    "name": "order of removal",
    "a": "ranking",
    "b": "compared with",
    "heads_removed": "heads removed (%)",
    "ffns_removed": "FFNs removed (%)",
    "removed": "heads removed (%)",
    "value": "metric",
    "low": "95 % interval, from",
    "high": "95 % interval, to",
    "drop": "metric lost",
    "share_left": "score left (%)",
    "standard_error": "standard error",
    "share": "share of the largest",
    "rho": "Spearman's rho",
    "rho_low": "rho, 95 % interval, from",
    "rho_high": "rho, 95 % interval, to",
    "overlap": "top 30 % in common",
    "overlap_chance": "in common by chance",
    "kind": "score",
    "ranking": "ranked by",
    "kept": "metric left (%)",
}


@dataclass(frozen=True)
class Style:
    """The look of a study's figures: a preset, and how its tasks and models are written."""

    preset: str = "page"
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def width(self) -> float:
        return PRESETS[self.preset][0]

    @property
    def size(self) -> float:
        """The size of ordinary text; ticks are a little smaller on a page."""
        return PRESETS[self.preset][1]

    @property
    def small(self) -> float:
        return max(7.0, self.size - 1)

    @property
    def line(self) -> float:
        """The width of a line."""
        return self.size / 6

    def across(self, panels: int, least: float = 12.5) -> int:
        """How many panels stand side by side, at least `least` times the text size wide.

        Rows are full: three panels stand side by side or one below the other.
        """
        fit = int((self.width - 7 * self.size) // (least * self.size))
        return max((n for n in range(1, panels + 1) if n <= fit and panels % n == 0), default=1)

    def named(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with tasks and models as they are written in figures."""
        columns = [name for name in ("task", "a", "b", "model", "ranking") if name in table.columns]
        return table.with_columns(pl.col(columns).replace(dict(self.names)))

    def name(self, name: str) -> str:
        return self.names.get(name, name)

    def wrapped(self, text: str) -> list[str]:
        """Lines of a subtitle that are no wider than the figure."""
        return textwrap.wrap(text, int(self.width / (0.49 * self.small)))


PAGE = Style()


# --- titles, sizes, files ---


def fitted(
    build: Callable[[float], alt.TopLevelMixin],
    style: Style,
    columns: int,
    title: str,
    subtitle: Sequence[str],
) -> alt.TopLevelMixin:
    """The chart that `build` makes of the width of its panels, as wide as the style asks for.

    `columns` panels stand side by side; labels and legends take what they need.
    """
    width = 0.7 * style.width / columns
    drawn = _dressed(build(width), style, title, subtitle)
    width += (style.width - _width(drawn)) / columns
    return _dressed(build(max(width, 2 * style.size)), style, title, subtitle)


def _width(chart: alt.TopLevelMixin) -> float:
    svg = vl_convert.vegalite_to_svg(_specification(chart))
    return float(re.search(r'width="([\d.]+)"', svg).group(1))


def _dressed(
    chart: alt.TopLevelMixin, style: Style, title: str, subtitle: Sequence[str]
) -> alt.TopLevelMixin:
    lines = [line for text in subtitle for line in style.wrapped(text)]
    heading = textwrap.wrap(title, int(style.width / (0.56 * (style.size + 1))))
    titled = chart.properties(title=alt.TitleParams(heading, subtitle=lines))
    small, size = style.small, style.size
    axis: dict[str, Any]
    axis = {"labelFontSize": small, "titleFontSize": size, "titleFontWeight": "normal"}
    axis |= {"gridColor": "#eeeeee", "tickSize": 3, "labelPadding": 2, "titlePadding": 3}
    header = {"labelFontSize": size, "labelFontWeight": "bold", "labelPadding": 3}
    legend: dict[str, Any]
    legend = {"labelFontSize": small, "titleFontSize": small, "labelLimit": style.width / 2}
    legend |= {"titleFontWeight": "normal", "rowPadding": 1, "columnPadding": 8, "offset": 6}
    looks: dict[str, Any]
    looks = {"fontSize": size + 1, "subtitleFontSize": small, "subtitleColor": "#444444"}
    looks |= {"anchor": "start", "frame": "bounds", "offset": 6, "subtitlePadding": 2}
    return titled.configure(  # at once: to add to a chart is to copy it
        font=FONT,
        padding=2,
        aria=False,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(**axis, labelOverlap=True),
        header=alt.HeaderConfig(**header),
        legend=alt.LegendConfig(**legend, gradientThickness=size),
        title=alt.TitleConfig(**looks),
    )


def save(chart: alt.TopLevelMixin, files: Sequence[str | Path]) -> None:
    """Write the chart to each of `files`, in the format that its name ends in.

    PNG at 300 pixels an inch, SVG and PDF at the size of the preset, and HTML that needs no network
    and fits a narrow screen.
    """
    specification = _specification(chart)
    svg = vl_convert.vegalite_to_svg(specification)
    made = {
        "svg": lambda: re.sub(r'(width|height)="([\d.]+)"', r'\1="\2pt"', svg, count=2).encode(),
        "png": lambda: vl_convert.svg_to_png(svg, scale=PPI / 72, ppi=72),
        "pdf": lambda: vl_convert.svg_to_pdf(svg),
        "html": lambda: web.page(specification).encode(),
    }
    for path in files:
        with atomic(path) as temporary:
            temporary.write_bytes(made[Path(path).suffix[1:]]())


def _specification(chart: alt.TopLevelMixin) -> dict:
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict()


def note(style: Style, title: str, needs: str) -> alt.TopLevelMixin:
    """What stands in place of a figure that the study is too small for: what it would need."""
    text = alt.Chart(pl.DataFrame({"needs": [f"needs {needs}"]})).mark_text(
        align="left", fontSize=style.size, color="#555555", lineBreak="|"
    )
    text = text.encode(text="needs:N", x=alt.value(0), y=alt.value(2 * style.size))
    return fitted(
        lambda width: text.properties(width=width, height=4 * style.size),
        style,
        1,
        title,
        ["Not drawn: the study is too small for it."],
    )


# --- what a figure is of ---


def about(style: Style, table: pl.DataFrame, documents: str, tasks: int | None = None) -> str:
    """Model, number of tasks and of documents: "opt-mini; 8 tasks; 60 evaluation documents each".

    `documents` says what they are for.
    """
    models = ", ".join(map(style.name, table["model"].unique(maintain_order=True)))
    said = [models]
    if tasks:
        said.append(f"{tasks} task{'s' if tasks > 1 else ''}")
    low = "documents_low" if "documents_low" in table.columns else "documents"
    least, most = table[low].min(), table["documents"].max()
    number = f"{least}" if least == most else f"{least} to {most}"
    return "; ".join([*said, f"n = {number} {documents}{' per task' if tasks != 1 else ''}"]) + "."


def metric_name(table: pl.DataFrame) -> str:
    """The metric that all tasks of a table of pruning have, or "metric"."""
    names = table["metric"].unique().to_list()
    return METRICS.get(names[0], names[0]) if len(names) == 1 else "metric"


# --- panels ---


def by_shots(table: pl.DataFrame) -> pl.DataFrame:
    """With the column `panel`: "0-shot", "1-shot"."""
    return table.with_columns(panel=pl.format("{}-shot", "shots"))


def panels(table: pl.DataFrame) -> list[str]:
    """Names of the panels, in the order of the shots."""
    return by_shots(table.select("shots").unique().sort("shots"))["panel"].to_list()


def task_names(table: pl.DataFrame, last: str) -> list[str]:
    """Task names in the order of the study, `last`, if it is there, after them."""
    names = table["task"].unique(maintain_order=True).to_list()
    return sorted(names, key=lambda name: name == last)


def row_header(style: Style) -> alt.Header:
    return alt.Header(labelAngle=0, labelAlign="left", labelLimit=style.width / 5)


def component_named(table: pl.DataFrame) -> pl.DataFrame:
    return by_shots(table).with_columns(pl.col("component").replace({"ffns": "FFNs"}))


def tips(*columns: str) -> list[alt.Tooltip]:
    """Tooltips in words; numbers have three digits."""
    words = {
        "model",
        "panel",
        "name",
        "a",
        "b",
        "kind",
        "ranking",
        "task",
        "component",
        "what",
        "of",
    }
    whole = {"layer", "head", "rank", "shots"}
    found = []
    for column in columns:
        title = TOOLTIPS.get(column, column)
        if column in words | whole:
            found.append(alt.Tooltip(f"{column}:N", title=title))
        else:
            found.append(alt.Tooltip(f"{column}:Q", title=title, format=".3~g"))
    return found


# --- orders of removal ---


def orders_named(table: pl.DataFrame) -> pl.DataFrame:
    names = {name: order.name for name, order in ORDERS.items()}
    return by_shots(table).with_columns(name=pl.col("order").replace_strict(names))


def orders_of(style: Style, table: pl.DataFrame, title: str = "removed in the order of") -> dict:
    """Encodings of the orders that the table has, with one legend: colour, dash and shape."""
    present = [order for order in ORDERS if order in set(table["order"])]
    return encodings_by(
        style, "name", title, *zip(*(ORDERS[order] for order in present), strict=True)
    )


def encodings_by(
    style: Style,
    column: str,
    title: str,
    names: Sequence[str],
    colors: Sequence[str] = COLORS,
    dashes: Sequence[list[int]] = DASHES,
    shapes: Sequence[str] = SHAPES,
) -> dict:
    """Encodings `color`, `strokeDash` and `shape` by a column, with one legend below."""
    legend = alt.Legend(
        title=title,
        orient="bottom",
        titleOrient="left" if style.preset != "column" else "top",
        columns=max(1, int(style.width // (17 * style.size))),
        symbolSize=4 * style.size,
        symbolStrokeWidth=style.line,
        symbolOpacity=1,
    )
    found = {}
    for channel, kind, values in (
        ("color", alt.Color, colors),
        ("strokeDash", alt.StrokeDash, dashes),
        ("shape", alt.Shape, shapes),
    ):
        cycle = [values[i % len(values)] for i in range(len(names))]
        scale = alt.Scale(domain=list(names), range=cycle)
        found[channel] = kind(f"{column}:N", scale=scale, legend=legend)
    return found
