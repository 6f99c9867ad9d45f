"""How far a long computation is: a line of the log now and then, with its rate and what is left.

The lines go to the logger `headcount.progress`, a job's to its log, where the display of the run
reads them, on a cluster too. What takes less than `SECONDS` says nothing.
"""

import logging
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS = 10  # between two lines
LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}, {remaining} left"


class Progress:
    """Counts what is done of `total` units; `unit` is its name in the singular."""

    def __init__(self, what: str, total: float, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.done = 0.0
        self.begun = self.last_line = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last_line < SECONDS:
            return
        self.last_line = now
        line = tqdm.format_meter(
            round(self.done),
            round(self.total),
            now - self.begun,
            prefix=self.what,
            unit=f" {self.unit}",
            bar_format=LINE,
        )
        logger.info(line)
