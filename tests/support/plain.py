"""Models computed plainly, one prompt and one mask at a time: what the engine is held against."""

import functools
import random

import polars as pl
import rounding
import torch

from headcount.models.language_model import Prompt
from headcount.models.projections import matrix
from headcount.scores import rankings
from headcount.scores.importance import components

TOKENS = torch.tensor([[2, *range(8, 30)], [2, *range(47, 25, -1)]])


REMOVALS = [([], []), ([(0, 1), (2, 3)], []), ([], [1]), ([(1, 0), (1, 1), (1, 2)], [0, 2])]


def random_prompts(count, seed=0):
    """Prompts with common inputs, single-token and longer targets, all lengths."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        tokens = [2, *draw.choices(range(8, 48), k=draw.randint(3, 20))]
        for _ in range(draw.randint(1, 3)):
            targets = draw.choices(range(8, 48), k=draw.choice([1, 1, 3]))
            prompts.append(Prompt(tokens + targets[:-1], targets, truncated=False))
    return prompts


def naive(model, prompt, removed_heads, removed_ffns):
    """Zero the weights' columns by hand, run one prompt, sum the log-probabilities.

    And the margin by which greedy decoding would produce every target, below zero where not.
    """
    saved = {name: value.clone() for name, value in model.hf.state_dict().items()}
    with torch.inference_mode():
        for layer, head in removed_heads:
            part = model.parts[layer]
            columns = slice(head * part.head_dim, (head + 1) * part.head_dim)
            matrix(part.attention_output)[:, columns] = 0
        for layer in removed_ffns:
            for parameter in model.parts[layer].ffn_output.parameters():
                parameter.zero_()
        logits = model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0].log_softmax(-1)
    model.hf.load_state_dict(saved)
    predicted = logits[-len(prompt.targets) :]
    each = range(len(prompt.targets))
    chosen = predicted[each, prompt.targets]
    others = predicted.clone()
    others[each, prompt.targets] = -torch.inf
    return chosen.sum().item(), (chosen - others.amax(-1)).min().item()


@functools.cache
def tolerance(model):
    """Nats that two computations of a log-likelihood may be apart, under any of `REMOVALS`."""
    asked = random_prompts(2)

    def compute(model):
        return [naive(model, prompt, *gone)[0] for gone in REMOVALS for prompt in asked]

    return rounding.bound(model, compute)


def within(memory, function, model, *arguments):
    """Call the function with the model's memory limited to so many MB."""
    before, model.memory = model.memory, memory
    try:
        return function(model, *arguments)
    finally:
        model.memory = before


@torch.inference_mode()
def logits(hf, tokens=TOKENS):
    return hf(input_ids=tokens, use_cache=False).logits


def everything(model):
    heads = [torch.ones(H, dtype=torch.bool) for H in model.heads]
    return heads, torch.ones(model.num_layers, dtype=torch.bool)


def module_name(model, module):
    return next(name for name, candidate in model.hf.named_modules() if candidate is module)


def order(model, component, seed=0):
    table = pl.DataFrame(
        components(model, component),
        schema={"layer": pl.Int32, "head": pl.Int32},
        orient="row",
    )
    return rankings.random_order(table, seed, 0)
