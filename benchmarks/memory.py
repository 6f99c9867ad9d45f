"""Peak resident memory of each stage beside the weights, at two bounds of `memory`: `make bench`.

    python benchmarks/memory.py

Every run is a process of its own. What it holds beside the weights is the high-water mark of its
resident memory during the stage, less what was resident before the stage began: the interpreter,
its libraries, the weights. Needs Linux.
"""

import ctypes
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from clock import seconds
from report import write_table
from torch import Tensor
from works import HEAD_LEVELS, cumulative, orders, rows_of, smollm2

from headcount.engine import Masks, log_likelihoods
from headcount.models.language_model import LanguageModel
from headcount.scores import importance
from headcount.scores.documents import request_pairs

BOUNDS = (200, 1000)  # MB
COLUMNS = ["stage, bound", "held at most, MB", "seconds", "largest difference, relative"]
STAGES = ("head gradients", "unpruned", "FFN oracle", "10 levels of heads")


def peak_mb(function: Callable[[], object]) -> float:
    """By how much resident memory rises at most while `function` runs, in MB."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed since is given back
    before = resident_mb("VmRSS")
    forget_peak()
    function()
    return resident_mb("VmHWM") - before


def forget_peak() -> None:
    """Have the high-water mark of resident memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_mb(field: str) -> float:
    """What /proc says of this process: VmRSS, now, or VmHWM, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 2**20


def stage(name: str, model: LanguageModel) -> Callable[[], Tensor]:
    """What is measured; returns what the bounds must agree in."""
    rows = rows_of("arc_easy", 5, 12 if name in ("unpruned", "head gradients") else 4)
    if name == "head gradients":
        prompts = model.encode(request_pairs([row for row in rows if row["gold"]]))
        return lambda: torch.from_numpy(
            importance.gradient(model, prompts, "heads", "token").contributions
        )
    heads, ffns = orders(model)
    masks = {
        "unpruned": lambda: Masks.removing(model, [([], [])]),
        "FFN oracle": lambda: importance.each_removed(model, "ffns"),
        "10 levels of heads": lambda: cumulative(model, heads, ffns, [(h, 0) for h in HEAD_LEVELS]),
    }[name]()
    prompts = model.encode(request_pairs(rows))
    return lambda: log_likelihoods(model, prompts, masks)[0]


def measure(name: str, bound: int) -> tuple[float, float, np.ndarray]:
    """Peak in MB, seconds, and the result of a stage under a bound."""
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as directory:
        model = smollm2(Path(directory))
    model.memory = bound
    for weights in model.hf.parameters():
        weights.data = weights.data.clone()  # resident from now on, not read from the file later
    run = stage(name, model)
    log_likelihoods(model, model.encode([("A", " B")]), Masks.removing(model, [([], [])]))
    results, times = [], []
    peak = peak_mb(lambda: times.append(seconds(lambda: results.append(run()))))
    return peak, times[0], results[0].numpy()


def main() -> None:
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for name in STAGES:
            found = [pool.submit(measure, name, bound).result() for bound in BOUNDS]
            results = found[0][2], found[1][2]
            difference = abs(results[0] - results[1]).max() / abs(results[0]).max()
            for bound, (peak, took, _) in zip(BOUNDS, found, strict=True):
                rows.append(
                    [f"{name}, {bound} MB", f"{peak:.0f}", f"{took:.1f}", f"{difference:.0e}"]
                )
                print(*rows[-1], sep=" | ", flush=True)
            write_table("memory", COLUMNS, rows)


if __name__ == "__main__":
    main()
