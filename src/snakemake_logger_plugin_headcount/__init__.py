"""A logger plugin of Snakemake, `--logger headcount`: the terminal as headcount shows a run.

Snakemake imports it before it reads any Snakefile, from wherever headcount is installed. So it
rests on nothing else of headcount: it writes what Snakemake itself would write, until the workflow
that is run, which may be of another version, gives it a display (`show`).
"""

import logging
import sys
from typing import Protocol

from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.base import LogHandlerBase


class Display(Protocol):
    """What a workflow shows of its run beside lines of the log."""

    def follow(self, record: logging.LogRecord) -> None:
        """See a record of Snakemake's log; one after the other, in a thread of the log."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LogHandler(LogHandlerBase):
    """Writes to the terminal."""

    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = True  # those of `terminal`
    needs_rulegraph = False

    def __post_init__(self) -> None:
        common = self.common_settings
        self.display: Display | None = None
        self.terminal = ColorizingTextHandler(
            common.nocolor,
            sys.stdout if common.stdout else sys.stderr,
            DefaultFormatter(common.quiet, common.show_failed_logs),
            DefaultFilter(
                *(common.quiet, common.debug_dag, common.verbose),
                *(common.dryrun, common.printshellcmds),
            ),
        )

    def show(self, display: "Display") -> None:
        """Have a display see each record, once the terminal has written what it lets through."""
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.handle(record)
        if self.display:
            try:
                self.display.follow(record)
            except Exception:  # that of a display costs no study
                self.handleError(record)

    def close(self) -> None:
        if self.display:
            self.display.close()
        super().close()
