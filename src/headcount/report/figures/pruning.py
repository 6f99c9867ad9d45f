"""Figures of what is left when components are removed: curves, and grids of both kinds."""

import altair as alt
import polars as pl

from headcount.report.figures.style import (
    PAGE,
    Style,
    about,
    by_shots,
    fitted,
    metric_name,
    note,
    orders_named,
    orders_of,
    panels,
    row_header,
    tips,
)
from headcount.report.tables import MEANS
from headcount.report.vocabulary import ORDERS
from headcount.scores.curves import MEAN, best_levels

TITLES = {
    "heads": "How many attention heads does in-context learning need?",
    "ffns": "How many FFNs does in-context learning need?",
}
KINDS = {"heads": "heads", "ffns": "FFNs"}
BANDS = "Bands: 95 % bootstrap intervals over documents; dotted: chance."


# --- curves ---


def _curves(style: Style, table: pl.DataFrame, component: str, y_title: str) -> alt.LayerChart:
    """Curves with their intervals, and the level of chance, of the rows of one panel."""
    across = alt.X(
        f"{component}_removed:Q",
        title=f"{KINDS[component]} removed (%)",
        scale=alt.Scale(domain=[0, 100], nice=False),
        axis=alt.Axis(values=[0, 25, 50, 75, 100]),
    )
    low, high = min(0.0, table["low"].min()), max(1.0, table["high"].max())
    scale = alt.Scale(domain=[low, high], nice=False)
    up = alt.Y("value:Q", title=y_title, scale=scale, axis=alt.Axis(tickCount=4))
    look = orders_of(style, table)
    base = alt.Chart(orders_named(table)).encode(x=across)
    band = base.mark_area(opacity=0.13).encode(
        y=alt.Y("low:Q", title=y_title, scale=scale), y2="high:Q", color=look["color"]
    )
    line = base.mark_line(strokeWidth=style.line).encode(
        y=up, color=look["color"], strokeDash=look["strokeDash"]
    )
    dots = base.mark_point(filled=True, size=1.6 * style.size, opacity=1).encode(
        y=up,
        color=look["color"],
        shape=look["shape"],
        tooltip=tips(
            *("task", "panel", "name", f"{component}_removed", "value", "low", "high", "drop")
        ),
    )
    known = alt.Chart(base.data).transform_filter("isValid(datum.chance)")
    chance = known.mark_rule(color="#999999", strokeDash=[1, 2]).encode(y="mean(chance):Q")
    return chance + band + line + dots


def _of_means(
    style: Style, table: pl.DataFrame, component: str, y_title: str, marks: bool = False
) -> tuple:
    """A panel for each number of shots, and how many stand side by side; see `_removable`."""
    share = pl.col(f"{component}_removed").alias("mark")
    own = best_levels(table.filter(order="own")).select("shots", "order", share)
    table, shown = table.join(own, on=["shots", "order"], how="left"), panels(table)
    columns = style.across(len(shown))

    def build(width: float) -> alt.TopLevelMixin:
        layers = _curves(style, table, component, y_title)
        if marks:
            layers += _removable(style, layers.data)
        layers = layers.properties(width=width, height=min(width, 15 * style.size))
        return layers.facet(
            facet=alt.Facet("panel:N", title=None, sort=shown), columns=columns, spacing=style.size
        )

    return build, columns


def _removable(style: Style, table: pl.DataFrame) -> alt.LayerChart:
    """What can be removed by the tasks' own rankings: a line at `mark`, with its percentage."""
    base = alt.Chart(table).transform_filter("isValid(datum.mark)").encode(x="mean(mark):Q")
    text = base.mark_text(
        align="right", baseline="bottom", dx=-2, fontSize=style.small, fontWeight="bold"
    )
    return base.mark_rule(strokeWidth=0.8 * style.line, color="black") + text.encode(
        y=alt.datum(0.02), text=alt.Text("mean(mark):Q", format=".0f")
    )


def _by_task(
    style: Style, table: pl.DataFrame, component: str, title: str, subtitle: list[str]
) -> alt.TopLevelMixin:
    """Small multiples: a row a task, a column a number of shots."""
    shown, tasks = panels(table), table["task"].unique(maintain_order=True).to_list()
    height = min(9 * style.size, (560 - 10 * style.size) / len(tasks) - style.size / 2)

    def build(width: float) -> alt.TopLevelMixin:
        layers = _curves(style, table, component, metric_name(table))
        return layers.properties(width=width, height=max(height, 2 * style.size)).facet(
            row=alt.Row("task:N", title=None, sort=tasks, header=row_header(style)),
            column=alt.Column("panel:N", title=None, sort=shown),
            spacing=style.size / 2,
        )

    return fitted(build, style, len(shown), title, subtitle)


def _without_any(style: Style, table: pl.DataFrame, component: str) -> alt.TopLevelMixin:
    needs = f"a level that removes some of them; this study has none ({KINDS[component]})"
    return note(style, TITLES[component], needs)


def _pruning(style: Style, table: pl.DataFrame, component: str) -> alt.TopLevelMixin:
    if table[f"{component}_count"].max() == 0:
        return _without_any(style, table, component)
    mean = style.named(table.filter(task=MEAN))
    several = mean["tasks"].max() > 1
    y_title = f"mean {metric_name(mean)}" if several else metric_name(mean)
    build, columns = _of_means(style, mean, component, y_title, marks=True)
    subtitle = [
        about(style, mean, "evaluation documents", mean["tasks"].max()),
        f"Black line: % of {KINDS[component]} that can be removed, by each task's own ranking, "
        "for at most five points.",
        BANDS,
    ]
    return fitted(build, style, columns, TITLES[component], subtitle)


def _pruning_tasks(style: Style, table: pl.DataFrame, component: str) -> alt.TopLevelMixin:
    if table[f"{component}_count"].max() == 0:
        return _without_any(style, table, component)
    each = style.named(table.filter(pl.col("task") != MEAN))
    subtitle = [about(style, each, "evaluation documents", each["task"].n_unique()), BANDS]
    return _by_task(style, each, component, f"{TITLES[component]} Task by task", subtitle)


def head_pruning(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Mean metric against the share of heads removed."""
    return _pruning(style, table, "heads")


def head_pruning_tasks(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """The metric of every task against the share of heads removed."""
    return _pruning_tasks(style, table, "heads")


def ffn_pruning(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Mean metric against the share of FFNs removed."""
    return _pruning(style, table, "ffns")


def ffn_pruning_tasks(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """The metric of every task against the share of FFNs removed."""
    return _pruning_tasks(style, table, "ffns")


# --- transfer ---

TRANSFER = "Can a task do without the heads that other tasks do without?"


def _too_small(style: Style, table: pl.DataFrame) -> alt.TopLevelMixin | None:
    if table.is_empty():
        return note(style, TRANSFER, "a second task, or one held out; this study has one task")
    if table["heads_count"].max() == 0:
        return note(style, TRANSFER, "a level that removes a head; this study has none")
    return None


def transfer(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """The mean over tasks by their own and others' rankings; each task's closest and farthest."""
    if small := _too_small(style, table):
        return small
    means = style.named(table.filter(pl.col("task").is_in(MEANS)))
    blocks = []
    for (task,), rows in means.group_by("task", maintain_order=True):
        metric = metric_name(rows)
        build, columns = _of_means(
            style, rows, "heads", metric if task == MEAN else f"{metric}, held-out tasks"
        )
        blocks.append(build)
    nearest = style.named(_nearest(table))
    if nearest.height:
        blocks.append(lambda width: _named_pairs(style, nearest, width))

    def both(width: float) -> alt.TopLevelMixin:
        return alt.vconcat(*(build(width) for build in blocks), spacing=style.size)

    subtitle = [about(style, means, "evaluation documents", means["tasks"].max())]
    subtitle += _said_of_closest(table)
    return fitted(both, style, columns, TRANSFER, [*subtitle, BANDS])


def _said_of_closest(table: pl.DataFrame) -> list[str]:
    drawn = set(table["order"])
    if "farthest" in drawn:
        return [
            "Closest and farthest: the tasks whose importance scores correlate with the task's own "
            "most and least."
        ]
    if "closest" in drawn:
        return ["Closest: the only other task, which is the farthest as well."]
    return []


def _nearest(table: pl.DataFrame) -> pl.DataFrame:
    """Which task is the closest and which the farthest, of every task and number of shots."""
    rows = table.filter(
        ~pl.col("task").is_in(MEANS), pl.col("order").is_in(["closest", "farthest"])
    )
    return rows.unique(["shots", "task", "order"], maintain_order=True)


def _named_pairs(style: Style, nearest: pl.DataFrame, width: float) -> alt.TopLevelMixin:
    """A row a task; for each number of shots, the names of its closest and its farthest task."""
    tasks = nearest["task"].unique(maintain_order=True).to_list()
    nearest, shown = by_shots(nearest), panels(nearest)
    columns, orders = style.across(len(shown)), nearest["order"].n_unique()
    text = (
        alt.Chart(nearest)
        .mark_text(fontSize=style.small, limit=width / orders - 2)
        .encode(
            x=alt.X(
                "order:N",
                title=None,
                axis=alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False),
            ),
            y=alt.Y(
                "task:N",
                title=None,
                sort=tasks,
                axis=alt.Axis(ticks=False, domain=False, labelLimit=8 * style.size),
            ),
            text="ranking:N",
        )
        .properties(width=width, height=1.4 * style.small * len(tasks))
    )
    return text.facet(
        facet=alt.Facet("panel:N", title=None, sort=shown),
        columns=columns,
        spacing=style.size,
    ).resolve_scale(x="independent")


def transfer_tasks(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Every task by its own, its closest and its farthest task's ranking, and the aggregate."""
    if small := _too_small(style, table):
        return small
    each = table.filter(~pl.col("task").is_in(MEANS))
    held = each.filter("heldout")["task"].unique().to_list()
    each = style.named(each).with_columns(
        task=pl.when("heldout").then(pl.format("{} (held out)", "task")).otherwise("task")
    )
    subtitle = [about(style, each, "evaluation documents", each["task"].n_unique())]
    subtitle += _said_of_closest(table)
    if held:
        subtitle.append("Tasks held out have no ranking of their own.")
    return _by_task(style, each, "heads", f"{TRANSFER} Task by task", [*subtitle, BANDS])


# --- heads and FFNs together ---


def combined_pruning(table: pl.DataFrame, style: Style = PAGE) -> alt.TopLevelMixin:
    """Mean metric over tasks by the shares of heads and FFNs removed, a row for each order."""
    title = "What is left when heads and FFNs are removed together?"
    if table.select(pl.max("heads_count") + pl.max("ffns_count")).item() == 0:
        needs = "a level that removes a head or an FFN; this study has none"
        return note(style, title, needs)
    table = orders_named(style.named(table.filter(task=MEAN)))
    names = [order.name for order in ORDERS.values() if order.name in set(table["name"])]
    wide, tall = table["heads_removed"].n_unique(), table["ffns_removed"].n_unique()
    shown = panels(table)
    # Never lower than the title of its axis, which would run into the next panel's.
    height = max(1.9 * style.size * tall, 7 * style.size)
    height = min(height, 560 / len(names) - 3 * style.size)
    middle = (table["value"].min() + table["value"].max()) / 2

    def build(width: float) -> alt.TopLevelMixin:
        axis = alt.Axis(labelAngle=0, format=".0f", ticks=False)
        title = "heads removed (%)" if width > 10 * style.size else "heads (%)"
        base = alt.Chart(table).encode(
            x=alt.X("heads_removed:O", title=title, axis=axis),
            y=alt.Y("ffns_removed:O", title="FFNs (%)", sort="descending", axis=axis),
        )
        cells = base.mark_rect().encode(
            color=alt.Color(
                "value:Q",
                title=f"mean {metric_name(table)}",
                scale=alt.Scale(scheme="viridis"),
                legend=alt.Legend(orient="bottom", gradientLength=style.width / 3),
            ),
            tooltip=tips(
                *("panel", "name", "heads_removed", "ffns_removed", "value", "low", "high", "drop")
            ),
        )
        if width > 2.1 * style.small * wide:
            cells += base.mark_text(fontSize=style.small).encode(
                text=alt.Text("value:Q", format=".2f"),
                color=alt.condition(
                    f"datum.value < {middle}", alt.value("white"), alt.value("black")
                ),
            )
        return cells.properties(width=width, height=height).facet(
            row=alt.Row("name:N", title=None, sort=names, header=_narrow_header(style)),
            column=alt.Column("panel:N", title=None, sort=shown),
            spacing=style.size,
        )

    subtitle = [about(style, table, "evaluation documents", table["tasks"].max())]
    subtitle.append("A row of panels for each order of removal.")
    return fitted(build, style, len(shown), title, subtitle)


def _narrow_header(style: Style) -> alt.Header:
    """A row's name in lines of one or two words."""
    words = r"split(replace(datum.label, /(task's|over|layers) /, '$1|'), '|')"
    return alt.Header(labelAngle=0, labelAlign="left", labelExpr=words)
