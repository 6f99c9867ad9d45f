"""What a job of a study is allowed: memory and time."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from headcount.study.machines import CORE, MACHINES, Machine
from headcount.study.plan import Size, Stage

if TYPE_CHECKING:  # it takes seconds, which every start of a study would wait for
    pass
START_MB = 1000  # of a process that has imported torch and lm-eval, with room to spare


def megabytes(weights: float, model: dict) -> int:
    """The memory to allow a job of `model`, an entry of the configuration, in MB.

    If the entry does not say: `weights`, in bytes, unless they stay on disk or find room on GPUs,
    `memory`, and what a process starts with.
    """
    if model["mem_mb"] is not None:
        return model["mem_mb"]
    elsewhere = model["device_map"] == "disk" or model["device_map"].startswith("cuda")
    held = 0 if elsewhere else max(0, weights - model["gpus"] * MACHINES[0].memory)
    return 100 * math.ceil((held / 1e6 + model["memory"] + START_MB) / 100)


def minutes(size: Size, model: dict, found: Iterable[Stage] = ()) -> int:
    """The time to allow a job of `model`, an entry of the configuration, for some of its stages.

    Twice what they cost: estimates are within that of the clock (docs/opt-66b.md). Ten minutes
    more, and two for each GB of weights, cover its start, loading, and verification.
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
