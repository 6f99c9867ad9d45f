"""What takes how long on this machine."""

import time
from collections.abc import Callable

import torch

SHARE = 0.65  # of the best matrix product, which `make bench` finds to be kept up


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def gemm_rate(size: int = 2048) -> float:
    """FLOP/s of a large fp32 matrix product, the best of some."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(5))


def sustained_rate() -> float:
    """FLOP/s that headcount can be expected to keep up now."""
    return SHARE * gemm_rate()
