"""Emptied decoder layers: without heads and FFN, only the residual stream must be left.

This holds for every decoder layer, whatever its modules are called: its additions to the residual
stream come from heads, FFN and constants. So the engine removes all heads and the FFN, norms are
replaced by the identity, and the layer runs on random hidden states. Each output channel must equal
its input channel plus the same constant at every token. An expert, a gate or a head that was missed
mixes channels or tokens, and shows.

What an architecture adds to the stream by design beside heads and FFN is listed here by feature,
independently of the engine's lists (`headcount.models.families`).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headcount.engine.layers import Arguments, enter, outside, resident, run
from headcount.engine.removal import layer_without
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, replaced

# Classes and names of modules that write to the stream beside heads and FFN; their output is
# zeroed.
CLASSES_BESIDE = re.compile(
    r"(Mixer|MambaLayer"  # state spaces
    r"|DeltaNet|DeltaAttention|LightningAttention"  # linear attention
    r"|RecurrentBlock"  # a gated recurrence
    r"|ShortConv|ShortConvolution)$"
)
NAMES_BESIDE = (
    "per_layer_projection",  # embeddings of every layer
    "linear_right",  # a residual of low rank (LAuReL)
    "modality_router",  # which mixes several streams (AltUp)
)
# Attributes of layers that multiply the stream itself, channel by channel.
MULTIPLIERS = (
    "layer_scalar",
    "input_residual",  # a weight a channel
    "attn_alpha_factor",
    "attn_residual_add_idx",  # closer to 1 in deeper layers
    "is_block_boundary",  # where a block of layers begins with an empty stream
    "altup",  # half of the sum of two copies, times the square root of 2
)
ROUNDINGS = 16  # units in the last place: a few sums of hidden states of variance 1


class Left(NamedTuple):
    """The remaining effect of an emptied layer."""

    mixture: Tensor  # [tokens, d] beyond the stream itself and constants: zero up to rounding
    modules: str  # names of the modules that it comes from; "" if it is rounding


@torch.no_grad()
def left(model: LanguageModel, tokens: Tensor, seed: int = 0) -> Iterator[Left]:
    """Yield the remaining effect of each layer without its heads and FFN.

    `tokens` [R, T] decide the layers' arguments other than hidden states.
    """
    generator = torch.Generator().manual_seed(seed)
    with resident(*outside(model)):
        state, calls = enter(model, tokens)
    for layer, arguments in enumerate(calls):
        # If there are several streams, they are equal.
        shape = state.hidden.shape[-3:]  # [R, T, d]
        hidden = torch.randn(shape, generator=generator).to(state.hidden)
        state = state._replace(hidden=hidden.expand_as(state.hidden))
        run_emptied = partial(_emptied, model, layer, state, arguments)
        with resident(*model.layers[layer].modules()):
            mixture, after = run_emptied()
            largest = mixture.abs().max()
            modules = []
            rounding = ROUNDINGS * torch.finfo(hidden.dtype).eps
            if not largest <= rounding:  # nor where it is not a number
                for name, module in model.layers[layer].named_children():
                    if run_emptied(module)[0].abs().max() < largest / 2:
                        modules.append(name)
        yield Left(mixture, ", ".join(modules))
        state = state._replace(carried=after.carried)


def _emptied(
    model: LanguageModel, layer: int, state: State, arguments: Arguments, *silenced: nn.Module
) -> tuple[Tensor, State]:
    """Return mixture [tokens, d] and state of a layer without heads, FFN and `silenced`."""
    of_layer = model.layers[layer]
    norms = [m for m in of_layer.modules() if "Norm" in type(m).__name__ and not any(m.children())]
    silent = {*silenced, *(m for name, m in of_layer.named_modules() if _is_beside(name, m))}
    forwards: dict[nn.Module, Callable] = {norm: partial(_passed, norm) for norm in norms}
    forwards |= {module: partial(_silent, module.forward) for module in silent}
    heads = torch.zeros(model.heads[layer], dtype=torch.bool)
    entered = state._replace(hidden=state.hidden.clone())  # some families change it in place
    with _unbiased(of_layer), replaced(forwards), layer_without(model, layer, heads, ffn=False):
        after = run(model, layer, entered, arguments)
    # [tokens, d]; a layer may be on another device than its input
    before, out = (s.hidden.flatten(0, -2).cpu().double() for s in (state, after))
    mixture = _centred(out) - _centred(before)
    if any(hasattr(of_layer, name) for name in MULTIPLIERS):
        mixture = _centred(out) - _centred(before) * _slopes(before, out)
    return mixture, after


@contextmanager
def _unbiased(layer: nn.Module) -> Iterator[None]:
    """Set the biases of a layer to zero: a gate could multiply them, token by token."""
    biases = {m: m.bias for m in layer.modules() if isinstance(m._parameters.get("bias"), Tensor)}
    try:
        for module, bias in biases.items():
            module.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        yield
    finally:
        for module, bias in biases.items():
            module.bias = bias


def _is_beside(name: str, module: nn.Module) -> bool:
    of_class = CLASSES_BESIDE.search(type(module).__name__)
    return bool(of_class) or name.rpartition(".")[2] in NAMES_BESIDE


def _passed(norm: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
    """Replace a norm: return its input, in the type of its weights."""
    hidden = args[0] if args else next(iter(kwargs.values()))
    return hidden.to(next(norm.parameters(), hidden).dtype)


def _silent(forward: Callable, *args: Any, **kwargs: Any) -> Any:
    """Replace a module: return its output, times zero."""
    out = forward(*args, **kwargs)
    if isinstance(out, tuple | list):
        return type(out)([torch.zeros_like(out[0]), *out[1:]])
    return torch.zeros_like(out)


def _centred(hidden: Tensor) -> Tensor:
    return hidden - hidden.mean(0)


def _slopes(before: Tensor, out: Tensor) -> Tensor:
    """Return the slope of each channel [d], by least squares."""
    x, y = _centred(before), _centred(out)
    return (x * y).sum(0) / (x * x).sum(0)
