"""What a removed component leaves: nothing, its mean, or its output on another token.

- `zero` (Bansal et al. 2023; Michel et al. 2019): nothing.
- `mean`: the mean of its output over the tokens of the calibration prompts.
- `resample` (Chan et al. 2022, "Causal Scrubbing"): its output at a random token of the calibration
  prompts, drawn once for each position and the same for all components, so that what is put in
  place of several heads belongs together.

The first token is a class of its own, in the mean and in the draw: attention rests on it, and its
activations are many times those of other tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headcount.model import LanguageModel, Prompt
from headcount.sweep.attention import packed
from headcount.sweep.layers import enter, is_offloaded, outside, resident
from headcount.sweep.memory import Budget
from headcount.sweep.removal import Ablation
from headcount.sweep.states import States
from headcount.sweep.trie import Block, blocks

KINDS = ("zero", "mean", "resample")


def fit(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    kind: str,
    seed: int,
) -> Ablation | None:
    """The stand-ins of `kind` from the activations of the whole model on `prompts`; zero: None.

    Raises `ValueError` for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"ablation {kind!r} is none of {', '.join(KINDS)}")
    if kind == "zero":
        return None
    budget = Budget.of(model)
    packing = blocks(prompts, budget.rows, share=False)
    positions = torch.cat([block.positions for block in packing])
    terms = _means(positions) if kind == "mean" else _draws(positions, seed)
    L, C = model.num_layers, int(terms.classes.max()) + 1
    sums = Ablation(
        torch.zeros(L, C, model.num_heads, model.head_dim), torch.zeros(L, C, model.d_model)
    )
    waves = [packing] if is_offloaded(model) else [[block] for block in packing]
    first = 0
    with packed(model), torch.inference_mode():
        for wave in waves:
            of_blocks = []
            for block in wave:
                of_blocks.append(terms.between(first, first + len(block)))
                first += len(block)
            _add(model, wave, of_blocks, sums, budget)
    return Ablation(sums.z.to(model.hf.dtype), sums.ffn.to(model.hf.dtype))


@dataclass
class _Terms:
    """Sums over tokens: each of the terms adds an activation at `tokens`, times `weights`."""

    classes: Tensor  # which sum
    tokens: Tensor  # index among the packed tokens
    weights: Tensor

    def between(self, first: int, end: int) -> "_Terms":
        """The terms of some tokens, which are numbered from 0 on."""
        here = (self.tokens >= first) & (self.tokens < end)
        return _Terms(self.classes[here], self.tokens[here] - first, self.weights[here])


def _means(positions: Tensor) -> _Terms:
    """Means over the first tokens (class 0) and over all others (class 1)."""
    classes = (positions > 0).long()
    return _Terms(classes, torch.arange(len(positions)), 1 / classes.bincount()[classes])


def _draws(positions: Tensor, seed: int) -> _Terms:
    """For each position (class) one token, drawn from the first tokens or from the others."""
    generator = np.random.default_rng(seed)
    first, others = np.flatnonzero(positions == 0), np.flatnonzero(positions > 0)
    C = int(positions.max()) + 1
    drawn = np.append(generator.choice(first), generator.choice(others, C - 1) if C > 1 else [])
    return _Terms(torch.arange(C), torch.from_numpy(drawn.astype(int)), torch.ones(C))


def _add(
    model: LanguageModel,
    wave: list[Block],
    terms: list[_Terms],
    sums: Ablation,
    budget: Budget,
) -> None:
    """Add the terms of every block of a wave to the sums, layer by layer."""
    of_block = terms[0]

    def add(to: Tensor, activations: Tensor) -> None:  # [C, ..], [N, ..]
        chosen = activations[of_block.tokens.to(activations.device)].float().cpu()
        weights = of_block.weights.view(-1, *[1] * (chosen.dim() - 1))
        to.index_add_(0, of_block.classes, chosen * weights)

    def add_z(layer: int, z: Tensor) -> Tensor:
        add(sums.z[layer], z[0])
        return z

    def add_ffn(layer: int, output: Tensor) -> Tensor:
        add(sums.ffn[layer], output.reshape(-1, model.d_model))
        return output

    with States(budget.states) as held:
        calls = []
        with resident(*outside(model)):
            for i, block in enumerate(wave):
                hidden, of_layers = enter(model, block)
                held.put(i, hidden)
                calls.append(of_layers)
        for layer in range(model.num_layers):
            with (
                resident(*model.layers[layer].modules()),
                model.hooked(add_z, add_ffn, layers=[layer]),
            ):
                for i, block in enumerate(wave):
                    of_block = terms[i]
                    hidden = held.get(i).view(1, len(block), model.d_model)
                    held.drop(i)
                    call = calls[i][layer]
                    out = model.layers[layer](hidden, *call.args, **call.kwargs, block=block)
                    held.put(i, out[0])
