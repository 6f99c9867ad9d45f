"""The findings of Bansal et al. (2023) on OPT-66B, held against a study's own tables.

A finding **holds** when the 95 % interval of what it is about lies wholly on its side, **does not
hold** when it lies wholly on the other, and else there is **not enough data** to tell: too few
documents, or a level, a number of shots or a second task that the study does not have. The paper's
numbers are in `headcount.report.paper`; what each finding is about, and what its interval is of, in
the modules here: `location`, `removal`, `agreement`, `induction`.
"""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from headcount.artifacts.storage import frame, provenance
from headcount.report import paper
from headcount.report.comparison import agreement, induction, location, removal
from headcount.report.comparison.finding import FAILS, HOLDS, UNDECIDED, Finding
from headcount.report.summary import NoSummaryError, finished

TABLES: tuple[str, ...] = (
    "head_importance",
    "ffn_importance",
    "head_pruning",
    "ffn_pruning",
    "combined_pruning",
)
TABLES += ("cross_task", "transfer", "cross_shot", "induction", "summary")


def findings(directory: Path) -> list[list[Finding]]:
    """The findings held against the tables in `artifacts/MODEL/tables`, in groups."""
    tables = {name: frame(directory / f"{name}.parquet") for name in TABLES}
    heads, ffns = tables["head_importance"], tables["ffn_importance"]
    grid, summary = tables["combined_pruning"], tables["summary"]
    between_tasks, between_shots = tables["cross_task"], tables["cross_shot"]
    return [
        [location.middle_heads(shots, heads) for shots in paper.SHOTS],
        [location.upper_ffns(shots, ffns) for shots in paper.SHOTS] + [location.single_ffn(ffns)],
        [removal.inflection("heads", n, tables["head_pruning"], summary) for n in paper.SHOTS],
        [removal.inflection("ffns", n, tables["ffn_pruning"], summary) for n in paper.SHOTS],
        [
            removal.both(order, shots, grid, summary)
            for order in ("own", "aggregate")
            for shots in paper.SHOTS
        ],
        [agreement.pairs(shots, between_tasks) for shots in paper.SHOTS],
        [agreement.with_aggregate(shots, between_tasks) for shots in paper.SHOTS],
        [agreement.overlap(0, between_tasks)],
        [removal.transferred(shots, tables["transfer"]) for shots in paper.SHOTS]
        + [removal.held_out(tables["transfer"])],
        [agreement.between_shots(pair, between_shots, heads) for pair in paper.CROSS_SHOT]
        + [agreement.few_shot(between_shots)],
        induction.located(tables["induction"]),
        [
            finding
            for shots in paper.SHOTS
            for finding in induction.retained(shots, tables["induction"], heads)
        ],
    ]


# --- in the terminal ---


def show(artifacts: Path, console: Console | None = None) -> None:
    """Print the findings beside every model of the present study that is finished.

    Raises `NoSummaryError`, which names the remedy, when there is none.
    """
    console = console or Console()
    directories = [
        path.parent
        for path in finished(artifacts, console)
        if all((path.parent / f"{name}.parquet").is_file() for name in TABLES)
    ]
    if not directories:
        raise NoSummaryError(
            f"no finished study below {artifacts}/: run the study: `headcount run`"
        )
    for directory in directories:
        console.print(_table(directory))


def _table(directory: Path) -> Table:
    table = Table(
        title=f"{provenance(directory / 'summary.parquet')['model']} beside Bansal et al. (2023), "
        "OPT-66B",
        caption="In brackets: 95 % intervals. Removed: what can be, for at most 5 points of the "
        "mean metric; then the points lost at the paper's level. Lost to induction: 1 is what "
        "removing heads at random loses. Layers of the study count from 0, the paper's from 1.",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("section")
    table.add_column("the paper", ratio=10)
    table.add_column("this study", ratio=11)
    table.add_column("", no_wrap=True)
    style = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow"}
    for group in findings(directory):
        for finding in group:
            mark = f"[{style[finding.verdict]}]{finding.verdict}[/]"
            study = finding.study.replace("[", r"\[")
            table.add_row(finding.section, finding.claim, study, mark)
        table.add_section()
    return table
