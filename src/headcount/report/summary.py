"""The summary in the terminal: what can be removed, and where the figures are."""

from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from headcount.artifacts.present import Present, others
from headcount.artifacts.storage import frame, provenance
from headcount.scores.curves import MEAN, TOLERANCE

ORDERS = ("own", "aggregate", "depth", "random")
COLUMNS = (
    "shots",
    "",
    "un-\npruned\nmetric",
    "% by\ntask's\nscores",
    "points\nlost\n[95 %]",
    "area\nunder\ncurve",
    "% by\nmean\nscores",
    "% top\nlayers\nfirst",
    "% in\nrandom\norder",
    "% in\nthe\npaper",
)


class NoSummaryError(FileNotFoundError):
    """No study was finished below the directory."""


def show(artifacts: Path, console: Console | None = None) -> None:
    """Print the summary of every model of the present study below `artifacts` that has one.

    Raises `NoSummaryError`, which names the remedy, when there is none.
    """
    console = console or Console()
    for path in finished(artifacts, console):
        console.print(_table(path))
        if frame(path).is_empty():
            console.print("[yellow]no level removes a head or an FFN: nothing to sum up.[/yellow]")
        for remark in _remarks(path.parent, artifacts):
            console.print(f"[yellow]{remark}.[/yellow]")
        console.print(f"Figures: {path.parents[1] / 'figures'}/*.png, .svg, .pdf, .html")
        console.print(f"Explorer: {path.parents[1] / 'report' / 'index.html'}\n")


def finished(artifacts: Path, console: Console) -> list[Path]:
    """The summaries of the present study below `artifacts`; others are told of in the terminal.

    Raises `NoSummaryError`, which names the remedy, when there is none.
    """
    found, left_out = Present(artifacts).split(sorted(artifacts.glob("*/tables/summary.parquet")))
    remark = f"{others(left_out)}." if left_out else ""
    if not found:
        raise NoSummaryError(
            f"no summary below {artifacts}/: run the study: `headcount run`. {remark}".strip()
        )
    if remark:
        console.print(f"[yellow]{remark}[/yellow]")
    return found


def _remarks(tables: Path, artifacts: Path) -> list[str]:
    """What the results have to be read with, of the tasks pruned at all shots."""
    table = frame(tables / "head_pruning.parquet").unique(("shots", "task"))
    remarks = []
    for row in table.filter(pl.col("task") != MEAN).sort("task", "shots").iter_rows(named=True):
        prompts = (artifacts / "tasks" / row["task"] / f"{row['shots']}-shot").glob("*.parquet")
        made = [provenance(path) for path in sorted(prompts)]
        of_prompts = [remark for one in made for remark in one.get("remarks", [])]
        if row["truncated"]:
            of_prompts.append(f"{row['truncated']} prompts are cut to the model's window")
        remarks += [f"{row['task']}, {row['shots']}-shot: {remark}" for remark in of_prompts]
    return remarks


def _table(path: Path) -> Table:
    """Rows: heads, FFNs and both at each number of shots; columns: the orders and the paper."""
    rows = frame(path)
    table = Table(
        title=f"{provenance(path)['model']}: how much can be removed for at most "
        f"{100 * TOLERANCE:g} points of the mean metric",
        box=box.SIMPLE_HEAD,
        padding=0,  # it fits a terminal of 80 columns
        pad_edge=False,
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[1] else "right", no_wrap=True)
    shown = None
    for (shots, component), group in rows.sort("shots", maintain_order=True).group_by(
        "shots", "component", maintain_order=True
    ):
        orders = {row["order"]: row for row in group.iter_rows(named=True)}
        own = orders["own"]
        if shots != shown and shown is not None:
            table.add_section()
        table.add_row(
            str(shots) if shots != shown else "",
            {"ffns": "FFNs"}.get(component, component),
            f"{own['unpruned']:.3f}",
            _cell_of(component, own),
            _points(own),
            _area(own),
            *(_cell_of(component, orders.get(order)) for order in ORDERS[1:]),
            cell(component, own["paper_heads"], own["paper_ffns"]),
        )
        shown = shots
    return table


def _cell_of(component: str, row: dict | None) -> str:
    return cell(component, row["heads_removed"], row["ffns_removed"]) if row else "-"


def cell(component: str, heads: float | None, ffns: float | None) -> str:
    """Percent of the heads, of the FFNs, or of both ("50+17") that can be removed."""
    if heads is None:
        return "-"
    both = f"{heads:.0f}+{ffns:.0f}"
    return {"heads": f"{heads:.0f}", "ffns": f"{ffns:.0f}", "both": both}[component]


def _points(row: dict) -> str:
    """The points of metric lost and the interval of this difference: "4.4", "[0.2, 8.3]" below."""
    drop, low, high = (100 * row[name] + 0.0 for name in ("drop", "drop_low", "drop_high"))
    return f"{drop:.1f}\n[{low:.1f}, {high:.1f}]"


def _area(row: dict) -> str:
    """The area under the curve, and its interval below: "0.94", "0.91-0.97"."""
    if row["area"] is None:
        return "-"
    return f"{row['area']:.2f}\n{row['area_low']:.2f}-{row['area_high']:.2f}"
