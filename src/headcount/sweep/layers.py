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
from headcount.sweep.removal import StandIn, removed
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


def through(
    model: LanguageModel,
    layer: int,
    hidden: Tensor,
    call: Call,
    block: Block,
    heads: Tensor,
    ffn: bool,
    stand_in: StandIn | None = None,
) -> Tensor:
    """Hidden states [B, N, d] after a layer that lacks the heads [H] and the FFN that are False."""
    with removed(model, layer, heads, ffn, stand_in, narrow=True) as kv_of_query:
        return model.layers[layer](
            hidden, *call.args, **call.kwargs, block=block, kv_of_query=kv_of_query
        )


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
