"""Idea 2, shared layers: masks that agree up to a layer share the hidden states below it.

A state is the residual stream after the first l layers, for all masks that agree in them. The
states form a tree:

    layer        0      1      2
    whole     s0 --> s0 --> s0 --> s0
                \\      \\      \\--> s3   mask that removes something in layer 2
                 \\      \\--> s2 --> s2   in layer 1
                  \\--> s1 --> s1 --> s1   in layer 0

Removing each of L FFNs in turn costs L (L + 1) / 2 passes through a layer instead of L^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headcount.engine.removal import Ablation, Removal
from headcount.models.language_model import LanguageModel


@dataclass
class Masks:
    """Which components are kept: heads [M, H] of each of L layers, and ffns [M, L]; True keeps.

    Removed components leave the ablation's stand-ins, zero without one.
    """

    heads: list[Tensor]
    ffns: Tensor
    ablation: Ablation | None = None

    @classmethod
    def removing(
        cls,
        model: LanguageModel,
        removals: Sequence[Removal],
        ablation: Ablation | None = None,
    ) -> "Masks":
        """Return one mask for each removal."""
        heads = [torch.ones(len(removals), H, dtype=torch.bool) for H in model.heads]
        ffns = torch.ones(len(removals), model.num_layers, dtype=torch.bool)
        for mask, (removed_heads, removed_ffns) in enumerate(removals):
            for layer, head in removed_heads:
                heads[layer][mask, head] = False
            ffns[mask, list(removed_ffns)] = False
        return cls(heads, ffns, ablation)

    def __len__(self) -> int:
        return len(self.ffns)

    def of(self, mask: int) -> tuple[list[Tensor], Tensor]:
        """Return the heads `[L][H]` and FFNs [L] that one mask keeps."""
        return [of_layer[mask] for of_layer in self.heads], self.ffns[mask]

    def __getitem__(self, chosen: Any) -> "Masks":
        heads = [of_layer[chosen] for of_layer in self.heads]
        return Masks(heads, self.ffns[chosen], self.ablation)


@dataclass
class Step:
    """A pass through a layer: states that lose the same components there, before and after."""

    heads: Tensor  # [H] True keeps
    ffn: bool
    parents: list[int]  # states before the layer
    children: list[int]  # states after it, one each


@dataclass
class Tree:
    """The steps of every layer [L], and the state that each mask ends in [M]."""

    steps: list[list[Step]]
    leaves: list[int]

    @property
    def width(self) -> int:
        """The largest number of states between two layers."""
        return max(sum(len(step.children) for step in steps) for steps in self.steps)

    @property
    def passes(self) -> int:
        """The number of passes of a state through a layer."""
        return sum(len(step.parents) for steps in self.steps for step in steps)


def tree(masks: Masks) -> Tree:
    """Return the tree of states that the masks need."""
    state = [0] * len(masks)
    layers = []
    for layer, of_layer in enumerate(masks.heads):
        steps: dict[tuple, Step] = {}
        children: dict[tuple, int] = {}
        for mask, parent in enumerate(state):
            heads, ffn = of_layer[mask], bool(masks.ffns[mask, layer])
            pattern = (*heads.tolist(), ffn)
            if (parent, pattern) not in children:
                children[parent, pattern] = len(children)
                step = steps.setdefault(pattern, Step(heads, ffn, [], []))
                step.parents.append(parent)
                step.children.append(children[parent, pattern])
            state[mask] = children[parent, pattern]
        layers.append(list(steps.values()))
    return Tree(layers, state)
