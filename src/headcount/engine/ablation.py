"""Stand-ins for removed components: zero, their mean, or their output on another token.

- `zero` (Bansal et al. 2023; Michel et al. 2019): nothing.
- `mean`: the mean of the output over the tokens of the calibration prompts.
- `resample` (Chan et al. 2022, "Causal Scrubbing"): the output at a random token of the calibration
  prompts. The token is drawn once for each position and is the same for all components, so that the
  stand-ins of several heads belong together.

The first token is a class of its own, for means and draws: attention sinks there, and its
activations are many times those of other tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import headcount
from headcount.artifacts.source_code import reached
from headcount.engine._backend import choose_backend
from headcount.engine._wave import Wave
from headcount.engine.layers import is_offloaded, resident
from headcount.engine.memory import Budget
from headcount.engine.removal import Ablation
from headcount.models.language_model import LanguageModel, Prompt

KINDS = ("zero", "mean", "resample")


def fit(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    kind: str,
    seed: int,
) -> Ablation | None:
    """Return the stand-ins of `kind`, fitted on activations of the whole model on `prompts`.

    None for zero. Raises `ValueError` for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"ablation {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "zero":
        return None
    budget = Budget.of(model)
    backend = choose_backend(model, max(len(prompt.tokens) for prompt in prompts))
    packing = backend.blocks(model, prompts, budget.rows, share=False)
    positions = torch.cat([block.positions.flatten()[block.real] for block in packing])
    terms = _means(positions) if kind == "mean" else _draws(positions, seed)
    L, C = model.num_layers, int(terms.classes.max()) + 1
    z = [torch.zeros(C, part.heads, part.head_dim) for part in model.parts]
    sums = Ablation(z, torch.zeros(L, C, model.d_model), _made(prompts, kind, seed))
    of_blocks, first = [], 0
    for block in packing:
        of_blocks.append(terms.between(first, first + len(block.real)))
        first += len(block.real)
    with backend.attention(model), torch.inference_mode():
        if is_offloaded(model):
            _add(Wave(model, backend, packing, budget), of_blocks, sums)
        else:
            for block, of_block in zip(packing, of_blocks, strict=True):
                _add(Wave(model, backend, [block], budget), [of_block], sums)
    dtype = model.hf.dtype
    return Ablation([of_layer.to(dtype) for of_layer in sums.z], sums.ffn.to(dtype), sums.made)


def _made(prompts: Sequence[Prompt], kind: str, seed: int) -> str:
    """Return a hash of what decides the stand-ins of a model, this code included."""
    drawn = seed if kind == "resample" else None
    library = Path(headcount.__file__).parents[1]
    code = reached([(library, __name__)]).hash()
    made = hashlib.sha256(f"{kind} {drawn} {code}".encode())
    for prompt in prompts:
        made.update(prompt.key)
    return made.hexdigest()


@dataclass
class _Terms:
    """Terms of sums over tokens: each adds the activation at `tokens`, times `weights`."""

    classes: Tensor  # the sum that it is added to
    tokens: Tensor  # index among the prompts' tokens
    weights: Tensor

    def between(self, first: int, end: int) -> "_Terms":
        """Return the terms of some tokens, renumbered from 0."""
        here = (self.tokens >= first) & (self.tokens < end)
        return _Terms(self.classes[here], self.tokens[here] - first, self.weights[here])


def _means(positions: Tensor) -> _Terms:
    """Return terms of the means over the first tokens (class 0) and all others (class 1)."""
    classes = (positions > 0).long()
    return _Terms(classes, torch.arange(len(positions)), 1 / classes.bincount()[classes])


def _draws(positions: Tensor, seed: int) -> _Terms:
    """Return one token for each position (class), drawn from the first tokens or the others."""
    generator = np.random.default_rng(seed)
    first, others = np.flatnonzero(positions == 0), np.flatnonzero(positions > 0)
    C = int(positions.max()) + 1
    drawn = np.append(generator.choice(first), generator.choice(others, C - 1) if C > 1 else [])
    return _Terms(torch.arange(C), torch.from_numpy(drawn.astype(int)), torch.ones(C))


def _add(wave: Wave, terms: list[_Terms], sums: Ablation) -> None:
    """Add the terms of every block of a wave to the sums, layer by layer."""
    model = wave.model
    here: _Terms
    real: Tensor

    def add(to: Tensor, activations: Tensor) -> None:  # [C, ..], [N, ..]
        tokens = real[here.tokens].to(activations.device)
        weights = here.weights.view(-1, *[1] * (activations.dim() - 1))
        to.index_add_(0, here.classes, activations[tokens].float().cpu() * weights)

    def add_z(layer: int, z: Tensor) -> Tensor:
        add(sums.z[layer], z.flatten(0, 1))  # [B, T, H, e]
        return z

    def add_ffn(layer: int, output: Tensor) -> Tensor:
        add(sums.ffn[layer], output.reshape(-1, model.d_model))
        return output

    with wave:
        for layer in range(model.num_layers):
            with (
                resident(*model.layers[layer].modules()),
                model.hooked(add_z, add_ffn, layers=[layer]),
            ):
                for index, block in enumerate(wave.blocks):
                    here, real = terms[index], block.real
                    state = wave.held.get((layer, 0, index))
                    wave.held.drop((layer, 0, index))
                    after = wave.passages[index].whole(layer, state)
                    wave.held.put((layer + 1, 0, index), after)
