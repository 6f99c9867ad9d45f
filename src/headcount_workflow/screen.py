"""How far a run is, on a terminal: a line for each stage, then the jobs that run now."""

from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from snakemake.logging import ColorizingTextHandler

from headcount_workflow.run_state import Run, Stage, duration


class Screen:
    """The display of a run, below what the log writes to the terminal."""

    def __init__(self, terminal: ColorizingTextHandler):
        self.terminal, self.stream = terminal, terminal.stream
        self.console = Console(file=self.stream, highlight=False, no_color=terminal.nocolor)
        self.live = Live(
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, run: Run) -> None:
        if not self.live.is_started:
            self.live.start()
            self.console.show_cursor()  # a run that is killed leaves the terminal as it was
            self.terminal.setStream(FileProxy(self.console, self.stream))
        height = self.console.height - len(run.stages) - 4
        self.live.update(screen(run, height), refresh=True)

    def stop(self, run: Run | None) -> None:
        """Leave the stages on the screen."""
        if run and self.live.is_started:
            self.live.update(stages(run), refresh=True)
            self.live.stop()
            self.terminal.setStream(self.stream)


def screen(run: Run, height: int) -> RenderableType:
    """The stages and, in at most `height` lines, the jobs."""
    return Group(stages(run), Text(_counts(run), style="bold"), _jobs(run, max(height, 2)))


def stages(run: Run) -> RenderableType:
    """Of each stage: jobs done, of how many, how many a minute, and the time left or taken."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # what the numbers leave
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", justify="right"),
        TextColumn("{task.fields[time]}", justify="right"),
        expand=True,
    )
    for stage in [*run.stages.values(), run.all]:
        rate = stage.rate()
        progress.add_task(
            f"[bold]{stage.name}[/]" if stage is run.all else stage.name,
            total=stage.total,
            completed=stage.done,
            rate="" if rate is None else f"{rate:.3g}/min",
            time=_time(stage),
        )
    return progress.get_renderable()


def _time(stage: Stage) -> str:
    if stage.ended:
        return duration(stage.seconds())
    left = stage.left()
    return "" if left is None else f"{duration(left)} left"


def _counts(run: Run) -> str:
    """How many jobs run, wait and have failed."""
    running = len(run.running())
    counts = {
        "running": running,
        "waiting to start": len(run.jobs) - running,
        "failed": len(run.failures),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _jobs(run: Run, height: int) -> Table:
    """The jobs that run, two lines for those that say how far they are."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, justify="right")
    for number, job in enumerate(run.running(), start=1):
        lines = [f"  {job.name}"] + [f"    {job.log.progress}"] * bool(job.log.progress)
        if table.row_count + len(lines) >= height:
            table.add_row(f"  and {len(run.running()) - number + 1} more")
            break
        for line in lines:
            table.add_row(Text(line), duration(job.seconds()) if line is lines[0] else "")
    return table
