"""How far a run is, on a terminal: a line for each stage, then the jobs that run now."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live as Display
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headcount_workflow.run_state import Run, Stage, duration

BAR = 24  # columns


class Live:
    """The display of a run, below what a handler of Snakemake's log writes."""

    def __init__(self, handler: Any):
        self.handler, self.stream = handler, handler.stream
        self.console = Console(file=self.stream, highlight=False, no_color=handler.nocolor)
        self.display = Display(
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, run: Run) -> None:
        if not self.display.is_started:
            self.display.start()
            self.console.show_cursor()  # a run that is killed leaves the terminal as it was
            self.handler.setStream(FileProxy(self.console, self.stream))
        height = self.console.height - len(run.stages) - 4
        self.display.update(screen(run, height), refresh=True)

    def stop(self, run: Run | None) -> None:
        """Leave the stages on the screen."""
        if run and self.display.is_started:
            self.display.update(stages(run), refresh=True)
            self.display.stop()
            self.handler.setStream(self.stream)


def screen(run: Run, height: int) -> RenderableType:
    """The stages and, in at most `height` lines, the jobs."""
    return Group(stages(run), Text(_counts(run), style="bold"), _jobs(run, max(height, 2)))


def stages(run: Run) -> Table:
    """Of each stage: jobs done, of how many, how many a minute, and the time left or taken."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for stage in [*run.stages.values(), run.all]:
        bar = ProgressBar(total=stage.total, completed=stage.done, width=BAR)
        rate = stage.rate()
        table.add_row(
            Text(stage.name, style="bold" if stage is run.all else ""),
            bar,
            f"{stage.done}/{stage.total}",
            "" if rate is None else f"{rate:.3g}/min",
            _time(stage),
        )
    return table


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
