"""What the terminal shows of a run: on a terminal how far it is, else a line for each stage.

Snakemake gives all that it logs to logger plugins; the profile beside the Snakefile names this
project's (`snakemake_logger_plugin_headcount`), which writes to the terminal what the filters here
let through. The log file has everything, and so has the terminal with --verbose, --printshellcmds,
--debug-dag or --show-failed-logs. With another plugin, or none, the terminal is theirs.
"""

import logging
from collections.abc import Callable
from typing import Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from headcount_workflow.monitor import Monitor

# What is known by its words alone, since no event comes with it: that which is worth a line of the
# terminal, and, of warnings and errors, that which is said better here.
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
BEFORE_A_RUN = ("Assuming unrestricted",)
BESIDE_A_PLAN = ("Building DAG", "Reasons:")
END_OF_A_PLAN = "This was a dry-run"


def attach(
    workflow: Any, summary: Callable[[], None], explain: Callable[[str], str | None]
) -> Monitor:
    """Show the run of a workflow; `summary()` prints what a finished study comes to.

    `explain(exception)` says what an exception of that name comes from, or None.
    """
    plugin = _plugin(workflow)
    quiet = (plugin and plugin.common_settings.quiet) or ()
    monitor = Monitor(workflow, summary if Quietness.ALL not in quiet else None)
    if plugin:
        _set_up(plugin, monitor, explain)
    return monitor


def _plugin(workflow: Any) -> Any:
    """The handler of this project's logger plugin, if Snakemake was started with it."""
    from snakemake_logger_plugin_headcount import LogHandler

    handlers = workflow.logger_manager.get_log_handlers()
    return next((one for one in handlers if isinstance(one, LogHandler)), None)


def _set_up(plugin: Any, monitor: Monitor, explain: Callable[[str], str | None]) -> None:
    settings, terminal = plugin.common_settings, plugin.terminal
    terminal.addFilter(Explained(explain))
    asked_for_more = (
        settings.verbose
        or settings.printshellcmds
        or settings.debug_dag
        or settings.show_failed_logs
    )
    if not asked_for_more:
        terminal.addFilter(Planned() if settings.dryrun else Essential())
        if settings.dryrun:
            terminal.setFormatter(Listed(settings.quiet))
        elif _is_live(terminal, settings.quiet or ()):
            from headcount_workflow.screen import Screen

            monitor.screen = Screen(terminal)
    if not settings.dryrun:
        plugin.show(monitor)
        monitor.is_following = True


def _is_live(terminal: ColorizingTextHandler, quiet: Any) -> bool:
    return terminal.can_color_tty() and not {Quietness.ALL, Quietness.PROGRESS} & {*quiet}


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
            return not str(record.msg).startswith(BEFORE_A_RUN)
        return self.shown(record, event)

    def shown(self, record: Any, event: LogEvent | None) -> bool:
        text = str(record.msg)
        if event not in (None, LogEvent.ERROR) or any(words in text for words in DROPPED):
            return False
        is_ours = hasattr(record, "headcount") or text.startswith(KEPT)
        return is_ours or record.levelno >= logging.WARNING


class Planned(Essential):
    """Of a dry run, the table of jobs, once, and a line for each job."""

    counted = False

    def shown(self, record: Any, event: LogEvent | None) -> bool:
        if event == LogEvent.RUN_INFO:
            first, self.counted = not self.counted, True
            return first
        if event == LogEvent.JOB_INFO:
            return bool(record.rule_msg)
        return event in (None, LogEvent.ERROR) and not str(record.msg).startswith(BESIDE_A_PLAN)


class Listed(DefaultFormatter):
    """Jobs without their reasons, which name thousands of files."""

    def format(self, record: logging.LogRecord) -> str:
        if str(record.msg).startswith(END_OF_A_PLAN):
            return "\nNothing was run. `headcount why FILE` says why a file would be made again."
        return super().format(record)

    def format_job_info(self, msg: dict) -> str:
        return msg["rule_msg"]
