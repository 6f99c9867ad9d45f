"""Heatmaps of layers by heads or tasks: a picture of the cells inside of a vector drawing.

A cell is a block of pixels, not a path: a model of 64 layers with 72 heads has 4,608 cells in each
of its panels, which as paths make large files and a white mesh between them.
"""

import base64
import io
from collections.abc import Sequence

import altair as alt
import numpy as np
import png
import polars as pl

# Dark to bright, so that it reads the same in grey: viridis, at equal steps.
# Less than nothing is blue, more is orange; the lightest is nothing.
SIGNED = ["#08306b", "#2171b5", "#9ecae1", "#f2f2f2", "#fdae6b", "#d94801", "#7f2704"]
PIXELS = 512  # of the longer side of a picture, at least: what blurs edges is a part of a cell
HOVERED = 5000  # cells in a figure, at most, that have tooltips


def picture(colours: np.ndarray, stops: Sequence[str]) -> str:
    """A data URI of cells [rows, columns] between 0 and 1, coloured by `stops`; NaN is grey."""
    table = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops])
    at = np.linspace(0, 1, len(stops))
    rgb = np.stack([np.interp(colours, at, channel) for channel in table.T], axis=-1)
    rgb[np.isnan(colours)] = 221
    size = max(1, -(-PIXELS // max(colours.shape)))
    rgb = rgb.round().astype(np.uint8).repeat(size, axis=0).repeat(size, axis=1)
    file = io.BytesIO()
    png.from_array(rgb.reshape(len(rgb), -1), "RGB").write(file)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def heatmap(
    cells: pl.DataFrame,
    panel: Sequence[str],
    axes: tuple[alt.Axis, alt.Axis],
    color: alt.Color,
    tooltip: list[alt.Tooltip],
    size: tuple[float, float],
) -> alt.LayerChart:
    """The panels of `cells`, to be facetted by the columns `panel`; `size` is their width, height.

    `cells` has the columns x and y (counted from 0, y upwards), and `colour` between 0 and 1, and
    may have `top`, true of cells that something else is drawn on; `color` is the scale that the
    legend shows, with the stops of the colours as its range.
    """
    wide, tall = cells["x"].max() + 1, cells["y"].max() + 1
    rows, stops = [], color["scale"]["range"]
    for _, of_panel in cells.group_by(*panel, maintain_order=True):
        grid = np.full((tall, wide), np.nan)
        grid[tall - 1 - of_panel["y"].to_numpy(), of_panel["x"].to_numpy()] = of_panel["colour"]
        uri = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(picture(grid, stops)))
        of_panel = of_panel.with_columns(picture=uri)
        marked = pl.col("top") if "top" in cells.columns else pl.lit(False)
        few = cells.height <= HOVERED
        rows.append(of_panel.filter(few | marked | pl.col("picture").is_not_null()))
    base = alt.Chart(pl.concat(rows).with_columns(x2=pl.col("x") + 1, y2=pl.col("y") + 1))
    pictures = base.transform_filter("isValid(datum.picture)").mark_image(
        aspect=False, align="left", baseline="top", width=size[0], height=size[1]
    )
    hovered = base.mark_rect(opacity=0).encode(
        x=alt.X("x:Q", axis=axes[0], scale=alt.Scale(domain=[0, wide], nice=False)),
        x2="x2:Q",
        y=alt.Y("y:Q", axis=axes[1], scale=alt.Scale(domain=[0, tall], nice=False)),
        y2="y2:Q",
        color=color,
        tooltip=tooltip,
    )
    drawn = pictures.encode(url="picture:N", x=alt.value(0), y=alt.value(0)) + hovered
    return drawn.properties(width=size[0], height=size[1])


def numbered(count: int, title: str, most: int = 9) -> alt.Axis:
    """An axis of layers or heads, by number from 0, with at most `most` labels."""
    every = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if count <= step * most)
    values = [number + 0.5 for number in range(0, count, every)]
    return _axis(title, values, "format(datum.value - 0.5, 'd')")


def listed(names: Sequence[str], limit: float) -> alt.Axis:
    """An axis of names, the first at the top."""
    labels = f"{list(reversed(names))}[datum.value - 0.5]"
    axis = _axis(None, [number + 0.5 for number in range(len(names))], labels)
    axis.labelLimit = limit
    return axis


def _axis(title: str | None, values: list[float], labels: str) -> alt.Axis:
    return alt.Axis(
        title=title,
        values=values,
        labelExpr=labels,
        labelOverlap=False,
        grid=False,
        ticks=False,
        domain=False,
    )
