"""Idea 3, layer-major order: all prompts and masks go through a layer before the next begins.

transformers' own code runs: the model is called once with decoder layers that only note what they
are called with (`enter`), then each layer is called by itself (`through`), and at the end the model
once more with layers that hand on the finished hidden states (`leave`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headcount.model import LanguageModel, replaced
from headcount.sweep.attention import KeysAndValues
from headcount.sweep.removal import Ablation, removed
from headcount.sweep.trie import Block


@dataclass
class Call:
    """What a decoder layer is called with beside the hidden states."""

    args: tuple
    kwargs: dict[str, Any]


def enter(model: LanguageModel, block: Block) -> tuple[Tensor, list[Call]]:
    """Embed a block: hidden states [N, d] before the first layer, and the call of every layer."""
    calls: list[Call] = []
    seen: list[Tensor] = []

    def note(hidden: Tensor, *args, **kwargs) -> Tensor:
        seen.append(hidden)
        calls.append(Call(args, kwargs))
        return hidden

    with replaced(dict.fromkeys(model.layers, note)):
        model.hf.base_model(
            input_ids=block.tokens[None].to(model.device),
            position_ids=block.positions[None].to(model.device),
            use_cache=False,
        )
    return seen[0][0], calls


@dataclass
class Passage:
    """A block on its way through the layers; in the last one only the scored tokens matter."""

    block: Block
    calls: list[Call]  # of every layer
    scored: Block  # the scored tokens alone
    last: Call  # of the last layer, with the scored tokens alone

    @classmethod
    def begin(cls, model: LanguageModel, block: Block) -> tuple[Tensor, "Passage"]:
        """The hidden states [N, d] before the first layer, and what is needed from there on."""
        hidden, calls = enter(model, block)
        scored = block.scored_alone()
        return hidden, cls(block, calls, scored, enter(model, scored)[1][-1])


def through(
    model: LanguageModel,
    layer: int,
    hidden: Tensor,
    passage: Passage,
    heads: Tensor,
    ffn: bool,
    ablation: Ablation | None = None,
) -> Tensor:
    """Hidden states [B, N, d] after a layer that lacks the heads [H] and the FFN that are False.

    The last layer takes the keys and values of all tokens, and else the scored ones: [B, S, d].
    """
    is_last = layer == model.num_layers - 1
    block, call = passage.block, passage.calls[layer]
    if is_last:
        block, call = passage.scored, passage.last
    stand_in = ablation and ablation.at(layer, block.positions)
    with removed(model, layer, heads, ffn, stand_in, narrow=True) as kv_of_query:
        known = None
        if is_last:
            known = _keys_and_values(model, layer, hidden, passage) if heads.any() else None
            hidden = hidden[:, passage.block.scored.to(hidden.device)]  # [B, S, d]
        return model.layers[layer](
            hidden, *call.args, **call.kwargs, block=block, kv_of_query=kv_of_query, known=known
        )


def _keys_and_values(
    model: LanguageModel, layer: int, hidden: Tensor, passage: Passage
) -> KeysAndValues:
    """Those of all tokens, for which a layer runs as far as its attention."""
    call = passage.calls[layer]
    try:
        model.layers[layer](hidden, *call.args, **call.kwargs, block=None)
    except KeysAndValues as found:
        return found
    raise AssertionError("the layer did not call transformers' attention interface")


def leave(model: LanguageModel, hidden: Tensor) -> Tensor:
    """Logits [S, vocabulary] of hidden states [S, d] after the last layer."""
    first, *others = model.layers
    nowhere = torch.zeros(1, len(hidden), dtype=torch.long, device=model.device)
    forwards = dict.fromkeys(others, lambda hidden, *_, **__: hidden)
    forwards[first] = lambda *_, **__: hidden[None]
    with replaced(forwards):
        out = model.hf(input_ids=nowhere, position_ids=nowhere, use_cache=False)
    return out.logits[0]


# --- weights that accelerate keeps on disk or in another memory ---


@contextmanager
def resident(*modules: nn.Module) -> Iterator[None]:
    """Inside, offloaded weights of `modules` are loaded: once, however often the modules run."""
    with ExitStack() as stack:
        for module in modules:
            hook = _offload_hook(module)
            if hook is None:
                continue
            hook.pre_forward(module)
            stack.callback(hook.post_forward, module, torch.empty(0))
            stack.enter_context(replaced({module: module._old_forward}))
        yield


def is_offloaded(model: LanguageModel) -> bool:
    """Whether accelerate loads weights of the model when they are needed."""
    return any(_offload_hook(module) is not None for module in model.hf.modules())


def outside(model: LanguageModel) -> list[nn.Module]:
    """The modules before and after the decoder layers."""
    inside = {module for layer in model.layers for module in layer.modules()}
    return [module for module in model.hf.modules() if module not in inside]


def _offload_hook(module: nn.Module):
    """The accelerate hook that loads the module's weights before it runs and drops them after."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])
    return next((h for h in hooks if getattr(h, "offload", False)), None)
