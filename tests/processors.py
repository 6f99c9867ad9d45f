"""The numerical tests on what other processors would compute: `make test-cpus`.

PyTorch, MKL and oneDNN choose their kernels by the instructions of the processor, and the kernels
of a matrix product by the threads there are: each adds in an order of its own. A run of pytest for
each of `PROCESSORS`, since the libraries read the environment once, when they are loaded.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
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

    In the directory `results` each run leaves its counts, as JUnit's XML.
    """
    here = torch.backends.cpu.get_cpu_capability().lower()
    failed = []
    for processor in PROCESSORS:
        told = processor.environment()
        print(f"== {processor.name}:", *(f"{name}={value}" for name, value in told.items()))
        if LEVELS.index(processor.aten) > LEVELS.index(here):
            print(f"== {processor.name}: not run, this processor knows no more than {here}")
            continue
        command = [sys.executable, "-m", "pytest", "-q", "-m", "numerical and not slow"]
        if results:
            command.append(f"--junitxml={results / processor.name.replace(' ', '-')}.xml")
        start = time.monotonic()
        if subprocess.run(command, env={**os.environ, **told}).returncode:
            failed.append(processor.name)
        print(f"== {processor.name}: {time.monotonic() - start:.0f} s", flush=True)
    print("== failed:", ", ".join(failed)) if failed else print("== all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
