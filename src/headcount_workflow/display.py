"""What the terminal shows of a run: on a terminal how far it is, else a line for each stage.

Both are made of the events that Snakemake logs for its logger plugins (`LogEvent`). A plugin itself
would have to be an installed package, and be named in every profile and on every command line; what
the Snakefile attaches is there whoever starts Snakemake, from wherever. Only what Snakemake's own
handler of the terminal lets through is changed: its log file has everything, and the terminal has
with --verbose, --printshellcmds, --debug-dag or --show-failed-logs. A logger plugin that was asked
for stays.
"""

import logging
from collections.abc import Callable
from typing import Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import DefaultFormatter, logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from headcount_workflow.monitor import Monitor

# Of what Snakemake says besides events: what is worth a line of the terminal, and, of its warnings
# and errors, what is said better here.
KEPT = (NOTHING_TO_BE_DONE_MSG, "Terminating processes", "Will exit after finishing")
DROPPED = (
    "Exiting because a job execution failed",
    "--keep-incomplete mode is set",
    "At least one job did not complete successfully",
    "non-zero exit status",
    "died with <Signals",
    "Restored previous version of",
    "Cannot restore",  # of a job that had made nothing yet
    "SLURM account",  # which the plugin tries to guess by a call of sacct that cannot work
)


def attach(
    workflow: Any, summary: Callable[[], None], explain: Callable[[str], str | None]
) -> Monitor:
    """Show the run of a workflow; `summary()` prints what a finished study comes to.

    `explain(exception)` says what an exception of that name comes from, or None.
    """
    settings = workflow.logger_manager.settings
    quiet = settings.quiet or ()
    own = next((one for one in logger.handlers if one.name == "DefaultStreamHandler"), None)
    asked_for_more = (
        settings.verbose
        or settings.printshellcmds
        or settings.debug_dag
        or settings.show_failed_logs
    )
    live = None
    if own:
        own.addFilter(Explained(explain))
    if own and not asked_for_more:
        own.addFilter(Planned() if settings.dryrun else Essential())
        if settings.dryrun:
            own.setFormatter(Listed(settings.quiet))
        elif own.can_color_tty() and not {Quietness.ALL, Quietness.PROGRESS} & {*quiet}:
            from headcount_workflow.screen import Live

            live = Live(own)
    monitor = Monitor(workflow, live, summary if Quietness.ALL not in quiet else None)
    if not settings.dryrun:
        logger.addHandler(monitor)
    return monitor


class Explained:
    """Says of some of Snakemake's exceptions what they come from."""

    def __init__(self, explain: Callable[[str], str | None]):
        self.explain = explain

    def filter(self, record: Any) -> bool:
        if exception := getattr(record, "exception", None):
            record.msg = self.explain(exception) or record.msg
        return True


class Essential:
    """Of a run, what is not shown in another way; all of what is none, as --lint."""

    def __init__(self) -> None:
        self.runs = False

    def filter(self, record: Any) -> bool:
        event = getattr(record, "event", None)
        self.runs = self.runs or event == LogEvent.WORKFLOW_STARTED
        if not self.runs:
            return not str(record.msg).startswith("Assuming unrestricted")
        return self.shown(record, event)

    def shown(self, record: Any, event: LogEvent | None) -> bool:
        text = str(record.msg)
        if event not in (None, LogEvent.ERROR) or any(words in text for words in DROPPED):
            return False
        told = hasattr(record, "headcount") or text.startswith(KEPT)
        return told or record.levelno >= logging.WARNING


class Planned(Essential):
    """Of a dry run, the table of jobs, once, and a line for each job."""

    counted = False

    def shown(self, record: Any, event: LogEvent | None) -> bool:
        if event == LogEvent.RUN_INFO:
            first, self.counted = not self.counted, True
            return first
        if event == LogEvent.JOB_INFO:
            return bool(record.rule_msg)
        beside = ("Building DAG", "Reasons:")
        return event in (None, LogEvent.ERROR) and not str(record.msg).startswith(beside)


class Listed(DefaultFormatter):
    """Jobs without their reasons, which name thousands of files."""

    def format(self, record: logging.LogRecord) -> str:
        if str(record.msg).startswith("This was a dry-run"):
            return "\nNothing was run. `headcount why FILE` says why a file would be made again."
        return super().format(record)

    def format_job_info(self, msg: dict) -> str:
        return msg["rule_msg"]
