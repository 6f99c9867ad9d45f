"""Waves: blocks of prompts that pass through the layers together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headcount.engine._block import Block
from headcount.engine._packed import Packed
from headcount.engine.layers import outside, resident
from headcount.engine.memory import Budget
from headcount.engine.padded import Padded
from headcount.engine.removal import Ablation
from headcount.engine.states import State, States
from headcount.models.language_model import LanguageModel


@dataclass
class Wave:
    """A model, the blocks that pass it together, and their states between layers.

    On entering, every block is embedded, and its state before the first layer is held under
    `(0, 0, index)`. The caller puts and drops all other states.
    """

    model: LanguageModel
    backend: type[Packed] | type[Padded]
    blocks: Sequence[Block]
    budget: Budget

    def __enter__(self) -> "Wave":
        self.held = States(self.budget.states)
        self.passages: list[Packed | Padded] = []
        with torch.no_grad(), resident(*outside(self.model)):
            for index, block in enumerate(self.blocks):
                state, passage = self.backend.begin(self.model, block)
                self.held.put((0, 0, index), state)
                self.passages.append(passage)
        return self

    def __exit__(self, *error: Any) -> None:
        self.held.__exit__(*error)

    def through(
        self,
        layer: int,
        index: int,
        states: Sequence[State],
        heads: Tensor,
        ffn: bool = True,
        ablation: Ablation | None = None,
    ) -> list[State]:
        """Return a block's states after a layer, without the heads [H] and FFN that are False."""
        return self.passages[index].through(layer, states, heads, ffn, ablation)
