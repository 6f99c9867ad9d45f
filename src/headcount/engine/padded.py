"""The padded backend: rows of padded prompts, with the model's own attention.

It is for models whose attention cannot take packed prompts. All but shared prefixes remains:
layer-major order, layers shared between masks, only scored tokens unembedded. States pass one at a
time, since the layers' arguments fit the rows of one.
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
    """Whether tokens after a prompt, padding too, may change its result.

    They may if rotary tables depend on length, or if attention chooses the best keys: masked tokens
    may decide between equal ones.
    """
    chooses_keys = any("Indexer" in type(module).__name__ for module in model.layers.modules())
    return chooses_keys or depends_on_length(model)


@dataclass
class Padded:
    """A block of padded rows on its way through the layers."""

    model: LanguageModel
    block: Block
    calls: list[Arguments]  # of every layer

    @staticmethod
    def blocks(model: LanguageModel, prompts: Sequence[Prompt], rows: int, share: bool) -> Any:
        """Return the prompts in blocks of at most `rows` tokens."""
        return rows_of.blocks(prompts, rows, share, equal=feels_later_tokens(model))

    @staticmethod
    @contextmanager
    def attention(model: LanguageModel) -> Iterator[None]:
        """Do nothing: the model's layers take rows as they are."""
        yield

    @classmethod
    def begin(cls, model: LanguageModel, block: Block) -> tuple[State, "Padded"]:
        """Return the state before the first layer, and the block's passage through the layers."""
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
        """Return the states after a layer without the heads [H] and the FFN that are False."""
        stand_in = ablation.at(layer, self.block.positions) if ablation else None
        with layer_without(self.model, layer, heads, ffn, stand_in):
            return [run(self.model, layer, state, self.calls[layer]) for state in states]

    def whole(self, layer: int, state: State) -> State:
        """Return the state of all N tokens after a layer."""
        return run(self.model, layer, state, self.calls[layer])

    def logits(self, state: State, part: slice) -> Tensor:
        """Return logits [s, vocabulary] of some of the S scored tokens, from the last state."""
        head = self.model.hf.get_output_embeddings()
        forward, chosen = head.forward, self.block.scored[part]

        def of_chosen(hidden: Tensor, *args: Any) -> Tensor:  # [R, T, d]
            return forward(hidden.flatten(0, 1)[chosen.to(hidden.device)][None], *args)

        with replaced({head: of_chosen}):
            return leave(self.model, state.hidden, self.block.tokens)[0]
