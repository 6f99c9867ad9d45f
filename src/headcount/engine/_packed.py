"""The packed backend: tries of prompts in a row, with the attention of `engine.attention`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from headcount.engine import trie
from headcount.engine._block import Block
from headcount.engine.attention import Call, NotPacked, Sight, attending, packed
from headcount.engine.layers import Arguments, enter, leave, run
from headcount.engine.removal import Ablation, layer_without
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, Prompt, replaced


def window_of(model: LanguageModel, layer: int) -> int | None:
    """Return the sliding window that the configuration gives a layer, or None."""
    config = model.hf.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


@dataclass
class Packed:
    """A packed block on its way through the layers; the last layer needs only scored tokens."""

    model: LanguageModel
    block: Block
    sight: Sight
    calls: list[Arguments]  # of every layer
    sight_of_scored: Sight
    last: Arguments  # of the last layer, with the scored tokens alone

    @staticmethod
    def blocks(model: LanguageModel, prompts: Sequence[Prompt], rows: int, share: bool) -> Any:
        """Return the prompts in blocks of at most `rows` tokens."""
        return trie.blocks(prompts, rows, share)

    @staticmethod
    @contextmanager
    def attention(model: LanguageModel) -> Iterator[None]:
        """Inside, the model's layers take packed blocks."""
        with packed(model):
            yield

    @classmethod
    def begin(cls, model: LanguageModel, block: Block) -> tuple[State, "Packed"]:
        """Return the state before the first layer, and the block's passage through the layers."""
        state, calls = enter(model, block.tokens, block.positions)
        scored = (of_token[:, block.scored] for of_token in (block.tokens, block.positions))
        last = enter(model, *scored)[1][-1]
        return state, cls(model, block, Sight.of(block), calls, Sight.of_scored(block), last)

    def through(
        self,
        layer: int,
        states: Sequence[State],
        heads: Tensor,
        ffn: bool,
        ablation: Ablation | None = None,
    ) -> list[State]:
        """Return the states after a layer without the heads [H] and the FFN that are False.

        The last layer computes keys and values of all N tokens, and all else of the S scored ones.
        """
        model, is_last = self.model, layer == self.model.num_layers - 1
        state = _together(states)
        call = Call(self.sight, window_of(model, layer))
        arguments, positions = self.calls[layer], self.block.positions[0]
        if is_last:
            call.sight, arguments = self.sight_of_scored, self.last
            positions = positions[self.block.scored]
        stand_in = ablation.at(layer, positions) if ablation else None
        with layer_without(model, layer, heads, True, stand_in, narrow=True) as call.kv_of_query:
            if is_last:
                if heads.any() or not model.parts[layer].skips:
                    call.known = self._keys_and_values(layer, state)
                scored = self.block.scored.to(state.hidden.device)
                state = State(state.hidden[:, scored], state.carried)  # [P, S, d]
            with (
                layer_without(model, layer, torch.ones_like(heads), ffn, stand_in),
                attending(call),
            ):
                return _apart(run(model, layer, state, arguments), len(states))

    def whole(self, layer: int, state: State) -> State:
        """Return the state of all N tokens after a layer.

        Raises `NotPacked` if its attention is not called once, or not in a way `attend` knows.
        """
        call = Call(self.sight, window_of(self.model, layer))
        with attending(call):
            after = run(self.model, layer, state, self.calls[layer])
        if call.times != 1:
            raise NotPacked(f"a layer calls the attention interface {call.times} times")
        return after

    def _keys_and_values(self, layer: int, state: State) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tokens [P, K, N, e], by running the layer up to them."""
        part = self.model.parts[layer]
        call = Call(self.sight, window_of(self.model, layer), only_keys=True)
        nothing = {part.attention_output: lambda z: z.new_zeros(*z.shape[:-1], part.d_model)}
        whole = torch.ones(part.heads, dtype=torch.bool)
        with layer_without(self.model, layer, whole, ffn=False), replaced(nothing), attending(call):
            run(self.model, layer, state, self.calls[layer])
        assert call.found is not None  # `whole` showed that its attention is called
        return call.found

    def logits(self, state: State, part: slice) -> Tensor:
        """Return logits [s, vocabulary] of some of the S scored tokens, from the last state."""
        hidden = state.hidden[:, part]  # [1, s, d]
        nowhere = torch.zeros(hidden.shape[:2], dtype=torch.long, device=self.model.device)
        return leave(self.model, hidden, nowhere, position_ids=nowhere)[0]


def _together(states: Sequence[State]) -> State:
    """Return P states of a block as one, concatenated on the first axis."""
    if len(states) == 1:
        return states[0]
    return tree_map(lambda *tensors: torch.cat(tensors), *states)


def _apart(state: State, count: int) -> list[State]:
    """Return the states that `_together` concatenated."""
    return [tree_map(lambda tensor, i=i: tensor[i : i + 1], state) for i in range(count)]
