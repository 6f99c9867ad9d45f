"""Machines that a study could run on: typical ones, and this one."""

import os
from dataclasses import dataclass

from headcount.artifacts import gpus
from headcount.messages import unit


@dataclass(frozen=True)
class Machine:
    """A machine: fast memory (bytes), sustained FLOP/s, bytes/s at which weights stream."""

    name: str
    memory: float
    rate: float
    stream: float
    cores: int = 1


MACHINES = (
    Machine("1 GPU of 80 GB", 80e9, 150e12, 3e9),  # half of an A100's bf16 peak; an NVMe disk
    Machine("8 GPUs of 80 GB", 640e9, 150e12, 3e9),  # layers in turn: memory of eight, rate of one
    Machine("CPU node, 64 cores, 512 GB", 512e9, 2e12, 3e9),
)
CORE = MACHINES[2].rate / 64  # FLOP/s


def here() -> Machine:
    """Return this machine, as the system describes it; a GPU counts as that of `MACHINES`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if number := len(gpus.visible()):
        gpu = MACHINES[0]
        return Machine(f"here, {number} GPU", number * gpu.memory, gpu.rate, gpu.stream, cores)
    name = f"here, {cores} cores, {unit(memory, 'B')}"
    return Machine(name, memory, cores * CORE, MACHINES[2].stream, cores)
