"""Memory and time to request for a job of a study."""

import math
from collections.abc import Iterable

from headcount.study.machines import CORE, MACHINES, Machine
from headcount.study.plan import Size, Stage

START_MB = 1000  # of a process that has imported torch and lm-eval, with a margin


def megabytes(weights: float, model: dict) -> int:
    """Return the memory, in MB, for a job of `model`, an entry of the configuration.

    Without a `mem_mb` in the entry, it is the sum of `weights` (bytes) that are not on disk or
    GPUs, `memory`, and that of a process at its start.
    """
    if model["mem_mb"] is not None:
        return model["mem_mb"]
    elsewhere = model["device_map"] == "disk" or model["device_map"].startswith("cuda")
    held = 0 if elsewhere else max(0, weights - model["gpus"] * MACHINES[0].memory)
    return 100 * math.ceil((held / 1e6 + model["memory"] + START_MB) / 100)


def minutes(size: Size, model: dict, found: Iterable[Stage] = ()) -> int:
    """Return the minutes for a job of `model`, an entry of the configuration, and its stages.

    They are twice the estimate, a margin that measurements confirm (docs/opt-66b.md), plus ten
    minutes and two for each GB of weights to start, load and verify.
    """
    gpus, cores = model["gpus"], model["threads"]
    if gpus:
        machine = Machine("", gpus * MACHINES[0].memory, MACHINES[0].rate, MACHINES[0].stream)
    else:
        there = megabytes(size.bytes, model) * 1e6
        machine = Machine("", there, cores * CORE, MACHINES[0].stream)
    memory = model["memory"] * 2**20
    hours = sum(stage.hours(size, machine, memory) for stage in found)
    return math.ceil(10 + 2 * size.bytes / 1e9 + 2 * 60 * hours)
