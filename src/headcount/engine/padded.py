"""The model's own way through the layers: rows of padded prompts, its own attention.

For models whose attention cannot be given packed prompts. Everything but shared prefixes remains:
layer-major order, layers shared between masks, nothing unembedded that is not scored. A state at a
time, since what the layers are called with is made for the rows of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headcount.engine import _rows as rows_of
from headcount.engine._block import Block
from headcount.engine.layers import Arguments, enter, leave, run
from headcount.engine.removal import Ablation, layer_without
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, Prompt, replaced

DYNAMIC = ("dynamic", "longrope")


def depends_on_length(model: LanguageModel) -> bool:
    """Whether rotary tables depend on the longest prompt of a batch."""
    rope = getattr(model.hf.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in DYNAMIC for kind in kinds)


def feels_later_tokens(model: LanguageModel) -> bool:
    """Whether tokens after a prompt, padding too, may change what it comes to.

    As where rotary tables depend on length, or attention goes to the best keys alone: then what is
    masked may decide between equals.
    """
    chooses_keys = any("Indexer" in type(module).__name__ for module in model.layers.modules())
    return chooses_keys or depends_on_length(model)


@dataclass
class Padded:
    """Rows of prompts on their way through the layers."""

    model: LanguageModel
    block: Block
    calls: list[Arguments]  # of every layer

    @staticmethod
    def blocks(model: LanguageModel, prompts: Sequence[Prompt], rows: int, share: bool) -> Any:
        """The prompts in blocks of at most `rows` tokens."""
        return rows_of.blocks(prompts, rows, share, equal=feels_later_tokens(model))

    @staticmethod
    @contextmanager
    def attention(model: LanguageModel) -> Iterator[None]:
        """Inside, the model's layers take rows: as they are."""
        yield

    @classmethod
    def begin(cls, model: LanguageModel, block: Block) -> tuple[State, "Padded"]:
        """The state before the first layer, and what is needed from there on."""
        state, calls = enter(model, block.tokens)
        return state, cls(model, block, calls)

    def through(
        self,
        layer: int,
        states: Sequence[State],
        heads: Tensor,
        ffn: bool,
        ablation: Ablation | None = None,
    ) -> list[State]:
        """States after a layer that lacks the heads [H] and the FFN that are False."""
        stand_in = ablation.at(layer, self.block.positions) if ablation else None
        with layer_without(self.model, layer, heads, ffn, stand_in):
            return [run(self.model, layer, state, self.calls[layer]) for state in states]

    def whole(self, layer: int, state: State) -> State:
        """The state of all N tokens after a layer."""
        return run(self.model, layer, state, self.calls[layer])

    def logits(self, state: State, part: slice) -> Tensor:
        """Logits [s, vocabulary] of some of the S scored tokens, from the last state."""
        head = self.model.hf.get_output_embeddings()
        forward, chosen = head.forward, self.block.scored[part]

        def of_chosen(hidden: Tensor, *args: Any) -> Tensor:  # [R, T, d]
            return forward(hidden.flatten(0, 1)[chosen.to(hidden.device)][None], *args)

        with replaced({head: of_chosen}):
            return leave(self.model, state.hidden, self.block.tokens)[0]
