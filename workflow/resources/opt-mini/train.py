"""Trains opt-mini, a small OPT that learns in context, or a smaller sister, on two CPU cores.

    python workflow/resources/opt-mini/train.py [--size micro]

Unlabelled text comes first, until induction heads have formed; then the mixture of tasks. The
number of steps is fixed, so a run is reproducible.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from language import BOS, PAD, TOKEN, UNKNOWN, task_sequence, text_sequence
from network import POSITIONS, SIZES, Gates, build_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import OPTForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
WORKERS = 2  # processes of one thread: on busy cores far faster than one process of two threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--output", type=Path, help="the directory of the size, unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--task-steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--text-length", type=int, default=64)
    parser.add_argument("--task-length", type=int, default=80)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--save-every", type=int, default=1000, metavar="STEPS")
    arguments = parser.parse_args()
    arguments.output = arguments.output or HERE / SIZES[arguments.size].directory
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"  # a file, not a port: none can be taken already
        torch.multiprocessing.spawn(train, (meeting, arguments), nprocs=WORKERS)


def train(rank: int, meeting: str, arguments: argparse.Namespace) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORKERS)
    size = SIZES[arguments.size]
    model = build_model(size, arguments.seed)
    gates = Gates(model, size, arguments.seed)
    optimizer = make_optimizer(model, arguments)
    rng = random.Random(f"{arguments.seed} {rank}")
    torch.manual_seed(arguments.seed * WORKERS + rank)
    steps = arguments.text_steps + arguments.task_steps
    log = Log(rank)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * schedule(step, steps)
        tokens, weights = draw_batch(rng, step, arguments)
        gates.draw(len(tokens))
        loss = weighted_loss(model, tokens, weights, rng, log)
        loss.backward()
        average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log.step(step + 1)
        if rank == 0 and ((step + 1) % arguments.save_every == 0 or step + 1 == steps):
            save(model, arguments.output)
    dist.destroy_process_group()


def make_optimizer(model: OPTForCausalLM, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    decoder = model.model.decoder
    tables = {decoder.embed_tokens.weight, decoder.embed_positions.weight}
    matrices = [p for p in model.parameters() if p.dim() == 2 and p not in tables]
    others = [p for p in model.parameters() if p.dim() < 2 or p in tables]
    groups = [
        {"params": matrices, "weight_decay": arguments.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def schedule(step: int, steps: int, warm: int = 100) -> float:
    """Warm-up, then constant, then linearly down over the last two fifths."""
    return min((step + 1) / warm, 1.0, max(0.02, (1 - step / steps) / 0.4))


def draw_batch(
    rng: random.Random, step: int, arguments: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """Text alone at first, then tasks with a remainder of text."""
    size = arguments.batch // WORKERS
    if step < arguments.text_steps:
        rows = [text_sequence(rng, arguments.text_length) for _ in range(size)]
    else:
        done = (step - arguments.text_steps) / arguments.task_steps
        share = 0.3 - 0.2 * min(1.0, done / 0.5)
        draws = [text_sequence if rng.random() < share else task_sequence for _ in range(size)]
        rows = [draw(rng, arguments.task_length) for draw in draws]
    tokens, weights = zip(*rows, strict=True)
    return torch.tensor(tokens), torch.tensor(weights)


def weighted_loss(
    model: OPTForCausalLM, tokens: Tensor, weights: Tensor, rng: random.Random, log: "Log"
) -> Tensor:
    length = tokens.shape[1] - 1
    # A quarter of the sequences begin anywhere, so that all positions are learned.
    starts = [rng.choice([0, 0, 0, rng.randrange(POSITIONS - length)]) for _ in tokens]
    positions = torch.tensor(starts)[:, None] + torch.arange(length)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens[:, :-1], position_ids=positions, use_cache=False).logits
    targets, weights = tokens[:, 1:], weights[:, 1:]
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    log.add(losses.detach(), weights)
    return (losses * weights).sum() / weights.sum()


def average_gradients(model: OPTForCausalLM) -> None:
    parameters = [p for p in model.parameters() if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= WORKERS
    for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(grad.view_as(p))


class Log:
    """Every hundred steps: mean loss of answers, of repeated words and of the rest."""

    def __init__(self, rank: int):
        self.speaks = rank == 0
        self.start = time.monotonic()
        self.sums: dict[float, list[float]] = {}

    def add(self, losses: Tensor, weights: Tensor) -> None:
        for weight in weights.unique().tolist():
            chosen = losses[weights == weight]
            sums = self.sums.setdefault(round(weight, 2), [0.0, 0.0])
            sums[0] += chosen.sum().item()
            sums[1] += chosen.numel()

    def step(self, step: int) -> None:
        if self.speaks and step % 100 == 0:
            means = {f"loss x {w}": round(s / n, 3) for w, (s, n) in sorted(self.sums.items())}
            minutes = round((time.monotonic() - self.start) / 60, 2)
            print(json.dumps({"step": step, "minutes": minutes, **means}), flush=True)
            self.sums = {}


def save(model: OPTForCausalLM, output: Path) -> None:
    """Half the bytes in bfloat16, in which the model was trained."""
    weights = {name: w.to(torch.bfloat16) for name, w in model.state_dict().items()}
    model.save_pretrained(output, state_dict=weights)
    config = json.loads((output / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = Tokenizer(models.WordLevel(TOKEN, unk_token=UNKNOWN))
    words = Regex(r"\n\n|\n|[^\s]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, TOKEN[BOS])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=BOS,
        model_max_length=POSITIONS,
    ).save_pretrained(output)


if __name__ == "__main__":
    main()
