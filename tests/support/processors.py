"""The numerical tests on what other processors would compute: `make test-cpus`.

PyTorch, MKL and oneDNN choose their kernels by the instructions of the processor, and the kernels
of a matrix product by the threads there are: each adds in an order of its own. A run of pytest for
each of `PROCESSORS`, since the libraries read the environment once, when they are loaded.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch


@dataclass(frozen=True)
class Processor:
    """What the libraries are told to be on."""

    name: str
    aten: str  # the loops of PyTorch itself
    mkl: str  # matrix products; heard on Intel's processors alone, but for SSE4_2
    onednn: str
    threads: int

    def environment(self) -> dict[str, str]:
        environment = {
            "ATEN_CPU_CAPABILITY": self.aten,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "passive",  # other runs need the cores
        }
        if self.mkl == "SSE4_2":
            environment["MKL_CBWR"] = "COMPATIBLE"  # what every manufacturer's processor hears
        return environment


# Each value of each library with one thread or two, alone or beside a lower one: on AMD's
# processors with AVX-512, say, MKL goes by AVX2.
PROCESSORS = (
    Processor("sse", "default", "SSE4_2", "SSE41", 1),
    Processor("sse with AVX2 products", "default", "AVX2", "AVX2", 2),
    Processor("avx2", "avx2", "AVX2", "AVX2", 1),
    Processor("avx2 with SSE products", "avx2", "SSE4_2", "SSE41", 2),
    Processor("avx512", "avx512", "AVX512", "AVX512_CORE", 1),
    Processor("avx512 with AVX2 products", "avx512", "AVX2", "AVX512_CORE", 2),
)
LEVELS = ("default", "avx2", "avx512")


def main(results: Path | None) -> int:
    """Run the tests on every processor that this one can be; 1 when one of them fails.

    As many at a time as there are cores. In the directory `results` each run leaves its counts, as
    JUnit's XML.
    """
    here = LEVELS.index(torch.backends.cpu.get_cpu_capability().lower())
    able = [processor for processor in PROCESSORS if LEVELS.index(processor.aten) <= here]
    for processor in PROCESSORS:
        if processor not in able:
            print(f"== {processor.name}: not run, this processor knows {LEVELS[here]} at most")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(partial(run, results=results), able))
    print(f"== the numerical tests passed on {sum(passed)} of {len(able)} processors")
    return sum(passed) < len(able)


def run(processor: Processor, results: Path | None) -> bool:
    """Whether the tests pass on a processor; prints what pytest does when it is through."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "numerical and not slow"]
    if results:
        command.append(f"--junitxml={results / processor.name.replace(' ', '-')}.xml")
    told = processor.environment()
    start = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **told},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    setting = " ".join(f"{name}={value}" for name, value in told.items())
    seconds = time.monotonic() - start
    print(f"== {processor.name}: {setting}\n{done.stdout}== {seconds:.0f} s\n", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
