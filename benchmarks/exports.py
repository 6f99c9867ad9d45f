"""Size and speed of checkpoints, one beside the other, by plain transformers.

    python benchmarks/exports.py ORIGINAL EXPORT... [--tokens 512] [--repetitions 5]

Each repetition times all checkpoints in turn: a forward pass of `tokens` tokens, and the generation
of 32 tokens after 32. Medians, in tokens per second.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    models = {
        path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in arguments.checkpoints
    }
    tokens = torch.arange(arguments.tokens)[None] % 1000 + 10
    rates = {path: ([], []) for path in models}
    for _ in range(arguments.repetitions + 1):
        for path, model in models.items():
            rates[path][0].append(tokens.numel() / seconds(model, tokens))
            rates[path][1].append(32 / seconds(model.generate, tokens[:, :32], **GREEDY))
    print("| checkpoint | MB | parameters | read, tokens/s | generated, tokens/s |")
    print("| --- | --- | --- | --- | --- |")
    for path, model in models.items():
        size = sum(file.stat().st_size for file in path.glob("*.safetensors")) / 1e6
        read, generated = (
            statistics.median(rate[1:]) for rate in rates[path]
        )  # the first warms up
        print(
            f"| {path.name} | {size:.1f} | {model.num_parameters():,} | {read:.0f} "
            f"| {generated:.0f} |"
        )


GREEDY = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False, "pad_token_id": 0}


@torch.inference_mode()
def seconds(function, *arguments, **options) -> float:
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
