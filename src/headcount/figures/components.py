"""Figures of single heads and FFNs: heatmaps by layer, layer 0 at the bottom."""

import altair as alt
import polars as pl

from headcount.figures.style import by_shots, panels, row_header, task_names, titled

CELL = 22  # pixels of a heatmap's cell, less where there are many
LARGEST = 640  # pixels of a heatmap's side


def _cell(count: int) -> float:
    return min(CELL, LARGEST / count)


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
    chart = _head_map(by_shots(table), color, ["task", "panel", "score", "standard_error"]).facet(
        row=alt.Row("task:N", title=None, sort=task_names(table, "aggregate"), header=row_header()),
        column=alt.Column("panel:N", title=None, sort=panels(table)),
        spacing=8,
    )
    return titled(
        chart,
        "Which heads matter",
        f"importance of every head, by task ({_estimators(table)}); colours by square root",
    )


def _estimators(table: pl.DataFrame) -> str:
    """The estimator that made the scores, as the subtitle explains it."""
    meanings = {
        "gradient-token": "gradient: what a gate on it would change of the loss",
        "gradient-example": "gradient by example: what a gate on it would change of the loss",
        "oracle-task": "oracle: metric lost on its removal",
        "oracle-loss": "oracle: loss gained on its removal",
    }
    return " and ".join(meanings[name] for name in table["estimator"].drop_nulls().unique().sort())


def ffn_importance(table: pl.DataFrame) -> alt.TopLevelMixin:
    """Layer by task, a panel for each number of shots."""
    layers = table["layer"].max() + 1
    tasks = task_names(table, "aggregate")
    largest = table["score"].abs().max() or 1.0
    base = alt.Chart(by_shots(table)).encode(
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
    chart = chart.facet(column=alt.Column("panel:N", title=None, sort=panels(table)))
    return titled(
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
            for row in by_shots(agreements).iter_rows(named=True)
        ]
        scale = alt.Scale(scheme="viridis", domain=[0, rows["score"].max()])
        color = alt.Color("score:Q", title=kind, scale=scale)
        first = rows.filter(shots=rows["shots"].min())
        subtitle = ["top 30 % of the heads, with the aggregate importance", *overlaps]
        heads = _head_map(first, color, ["score", "standard_error"])
        heads = heads.properties(width=1.6 * heads.width, height=1.6 * heads.height)
        panels.append(titled(heads, kind.capitalize(), subtitle))
    chart = alt.hconcat(*panels, spacing=50).resolve_scale(color="independent")
    return chart.properties(title="Which heads are induction heads")
