"""A model larger than the memory that it may use, scored and pruned from disk.

    python benchmarks/larger_than_memory.py [--directory DIRECTORY]

Writes an OPT of random weights, 6.4 GB in float32, once; loads it with `device_map: disk`; scores
heads by gradients and FFNs by the oracle, and prunes heads at four levels, on an embedded task.
Beside the times stands what reading the weights from disk takes by itself, and what the model of
cost of `headcount plan` makes of it: that, and the FLOPs at a sustained rate. First, a small OPT is
scored and pruned from disk and in memory, and the results compared. Needs Linux.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import flops
import numpy as np
import torch
from clock import seconds, sustained_rate
from memory import forget_peak, resident_mb
from report import write_table
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig
from works import OPT_MINI, cumulative, orders, rows_of

from headcount.engine import Masks, log_likelihoods
from headcount.models import loading as model_loading
from headcount.models.language_model import LanguageModel, Prompt
from headcount.scores import importance
from headcount.scores.documents import request_pairs
from headcount.study import machines, plan

LAYERS, SMALL_LAYERS = 30, 3
TASK, SHOTS = "mini_reverse", 0
MEMORY = 500  # MB beside the weights of a layer
LEVELS = [0, 25, 50, 75]  # percent of heads


def save(directory: Path, layers: int, tokenizer) -> int:
    """Write an OPT of random weights; returns its size in bytes."""
    if not (directory / "config.json").exists():
        config = OPTConfig(
            num_hidden_layers=layers, hidden_size=2048, ffn_dim=8192, num_attention_heads=32,
            word_embed_proj_dim=2048,
        )  # fmt: skip
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config)
        hf.save_pretrained(directory, max_shard_size="1GB")
        tokenizer.save_pretrained(directory)
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def forget(directory: Path) -> None:
    """Have the files read from disk, not from the kernel's cache, the next time."""
    os.sync()
    for file in directory.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(directory: Path) -> None:
    """Read the weights, and nothing else: what a sweep cannot be faster than."""
    buffer = bytearray(64 * 2**20)
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def stages(
    model: LanguageModel, prompts: list[Prompt]
) -> list[tuple[plan.Stage, Callable[[], np.ndarray]]]:
    """Each stage as `headcount plan` knows it, and what it computes; all states fit in memory."""
    heads, ffns = orders(model)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    forward = tokens * model.num_layers * flops.layer_matrices(model)
    curve = cumulative(model, heads, ffns, [(level, 0) for level in LEVELS])
    stage = partial(plan.Stage, TASK, SHOTS, held=0, moved=0)

    def sweep(name: str, masks: Masks) -> tuple[plan.Stage, Callable[[], np.ndarray]]:
        cost = stage(name, flops=flops.sweep(model, prompts, masks), readings=1)
        return cost, lambda: log_likelihoods(model, prompts, masks)[0].numpy()

    return [
        (
            stage("heads by gradients", flops=2 * forward, readings=2, recomputed=forward),
            lambda: importance.gradient(model, prompts, "heads", "token").contributions,
        ),
        sweep("FFN oracle", importance.each_removed(model, "ffns")),
        sweep("pruning, 4 levels of heads", curve),
    ]


def compare(directory: Path, pairs: list) -> str:
    """Largest relative difference between disk and memory in the stages of a small model."""
    found = []
    for device_map in ("disk", "cpu"):
        model = model_loading.load(directory, device_map=device_map, memory=MEMORY)
        found.append([run() for _, run in stages(model, model.encode(pairs))])
    return f"{max(abs(a - b).max() / abs(b).max() for a, b in zip(*found, strict=True)):.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="keep the models here")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.directory or Path(temporary))


def run(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(OPT_MINI / "model")
    pairs = request_pairs(rows_of(TASK, SHOTS, 3))
    large, small = directory / "large", directory / "small"
    size = save(large, LAYERS, tokenizer)
    save(small, SMALL_LAYERS, tokenizer)
    difference = compare(small, pairs)
    model = model_loading.load(large, device_map="disk", memory=MEMORY)
    prompts = model.encode(pairs)
    dimensions, bound = plan.Size.of(model.hf.config, "float32"), MEMORY * 2**20
    forget_peak()  # saving held the whole model
    rows = []
    for stage, compute in stages(model, prompts):
        forget(large)
        once = seconds(lambda: read(large))
        # No memory beside the bound: all weights stream, at the rate at which they were read.
        here = machines.Machine("here", bound, sustained_rate(), dimensions.bytes / once)
        planned = 3600 * stage.hours(dimensions, here, bound)
        forget(large)
        took = seconds(compute)
        peak = resident_mb("VmHWM") / 1024
        times = (f"{time:.0f}" for time in (stage.readings * once, planned, took))
        rows.append([stage.name, str(stage.readings), *times, f"{peak:.2f}"])
        print(*rows[-1], sep=" | ", flush=True)
    columns = ["stage", "readings", "reading alone, s", "planned, s", "stage, s", "resident, GiB"]
    note = (
        f"{size / 1e9:.1f} GB of weights, {sum(len(p.tokens) for p in prompts)} tokens in "
        f"{len(prompts)} prompts, memory: {MEMORY}. A model of {SMALL_LAYERS} such layers from "
        f"disk and in memory: results differ by at most {difference} of the largest."
    )
    write_table("larger", columns, rows, note)


if __name__ == "__main__":
    main()
