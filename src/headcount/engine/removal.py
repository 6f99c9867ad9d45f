"""Removal of heads and FFNs from a decoder layer: they are not computed where that is safe.

The `forward` of a layer's modules is replaced for a while: projections leave out the rows and
columns of removed heads, an FFN adds nothing. A removed component may leave a stand-in
(`headcount.engine.ablation`); by default it leaves zero.

A head is its slice of the input of the output projection, after anything between attention and that
projection, such as a gate or a norm over all heads (BitNet).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headcount.models import families, projections
from headcount.models.families import LayerParts
from headcount.models.language_model import LanguageModel, replaced

Removal = tuple[Sequence[tuple[int, int]], Sequence[int]]  # heads (layer, head); FFNs' layers


class StandIn(NamedTuple):
    """Stand-ins of a layer's removed components at positions [..]: z [.., H, e], ffn [.., d]."""

    z: Tensor
    ffn: Tensor


@dataclass
class Ablation:
    """Stand-ins by class: z [C, H, e] of each of L layers, ffn [L, C, d].

    The C classes are the first token and all others, or, for `resample`, the positions.
    """

    z: list[Tensor]
    ffn: Tensor
    made: str  # a hash of what decided them

    def at(self, layer: int, positions: Tensor) -> StandIn:
        """Return the stand-ins of a layer's removed components at `positions`.

        Positions beyond the last class repeat the classes, without the first.
        """
        C = self.ffn.shape[1]
        rows = torch.where(positions < C, positions, 1 + (positions - 1) % max(C - 1, 1))
        return StandIn(self.z[layer][rows], self.ffn[layer, rows])


@contextmanager
def without(model: LanguageModel, heads: Sequence[Tensor], ffns: Tensor) -> Iterator[None]:
    """Make the whole model run without the heads `[L][H]` and FFNs [L] that are False.

    This is for code that calls the model itself, such as generation; attention is computed for all
    heads. A sweep removes layer by layer.
    """
    with ExitStack() as stack:
        for layer in range(model.num_layers):
            stack.enter_context(layer_without(model, layer, heads[layer], bool(ffns[layer])))
        yield


@contextmanager
def layer_without(
    model: LanguageModel,
    layer: int,
    heads: Tensor,
    ffn: bool,
    stand_in: StandIn | None = None,
    narrow: bool = False,
) -> Iterator[Tensor | None]:
    """Make `layer` run without the heads [H] that are False, and without its FFN if `ffn` is.

    With `narrow`, queries, keys and values of removed heads are not computed either, if the layer
    allows it. Then the value yielded is the index of the key-value head of each remaining query
    head, among those that remain [H']; else it is None.
    """
    part = model.parts[layer]
    forwards: dict[nn.Module, Callable] = {}
    counts: dict[str, int] = {}
    kv_of_query = None
    kept, gone = heads.nonzero()[:, 0], (~heads).nonzero()[:, 0]
    if len(gone):
        z = None if stand_in is None else stand_in.z
        if not projections.is_plain(part.attention_output):
            forwards[part.attention_output] = _masked_output(part, heads, z)
        elif len(kept) == 0 and part.skips:
            extra = _written(model, layer, gone, z)
            forwards[part.attention] = partial(_no_attention, part.attention_output, extra)
        else:
            narrow = narrow and part.inputs is not None and len(kept) > 0
            if narrow:
                kv_heads, kv_of_query = _kv_heads(part, kept)
                forwards |= _narrow_inputs(part, kept, kv_heads)
                counts = part.inputs.counts(len(kept), len(kv_heads))
            columns = projections.channels(kept, part.head_dim)
            forwards[part.attention_output] = _narrow_output(
                part.attention_output,
                columns,
                None if narrow else columns,
                _written(model, layer, gone, z),
            )
    if not ffn and part.ffn_writes is not None:
        forwards |= dict.fromkeys(part.ffn_inner, _nothing)
        added = None if stand_in is None else stand_in.ffn
        for module in (*part.ffn_beside, part.ffn_writes):
            experts = module.forward if families.holds_experts(module) else None
            here = added if module is part.ffn_writes else None
            forwards[module] = partial(_no_ffn, part.d_model, experts, here)
    with replaced(forwards), _counting(part.attention, counts):
        yield kv_of_query


# --- attention ---


def _kv_heads(part: LayerParts, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the key-value heads [K'] that query heads need, and the index of each's [H']."""
    of_query = kept // (part.heads // part.kv_heads)
    return of_query.unique(return_inverse=True)


def _narrow_inputs(part: LayerParts, kept: Tensor, kv_heads: Tensor) -> dict[nn.Module, Callable]:
    """Return projections of queries, keys and values that compute only the kept heads."""
    forwards: dict[nn.Module, Callable] = {}
    for name, outputs in part.inputs.outputs(kept, kv_heads).items():
        projection = part.attention.get_submodule(name)
        outputs = outputs.to(projection.weight.device)
        weight = projections.matrix(projection)[outputs]
        bias = None if projection.bias is None else projection.bias[outputs]
        forwards[projection] = partial(F.linear, weight=weight, bias=bias)
    return forwards


def _narrow_output(
    projection: nn.Module, columns: Tensor, select: Tensor | None, extra: Tensor | None
) -> Callable:
    """Return the output projection of some heads, for an input [.., H' * e].

    With `select`, the input is [.., H * e], of which these channels are taken. The bias stays, and
    `extra` [.., d] is added.
    """
    weight = projections.matrix(projection)
    weight = weight[:, columns.to(weight.device)]

    def forward(z: Tensor) -> Tensor:
        z = z if select is None else z[..., select.to(z.device)]
        out = F.linear(z, weight, projection.bias)
        return out if extra is None else out + extra

    return forward


def _masked_output(part: LayerParts, heads: Tensor, stand_in: Tensor | None) -> Callable:
    """Return a projection of any kind that reads zero, or stand-ins [.., H, e], for some heads."""
    forward = part.attention_output.forward

    def masked(z: Tensor) -> Tensor:
        z = z.unflatten(-1, (part.heads, part.head_dim))
        instead = z.new_zeros(()) if stand_in is None else stand_in.to(z)
        return forward(torch.where(heads.to(z.device)[:, None], z, instead).flatten(-2))

    return masked


def _written(model: LanguageModel, layer: int, gone: Tensor, z: Tensor | None) -> Tensor | None:
    """Return the output of stand-ins z [.., H, e] of removed heads to the residual stream."""
    if z is None:
        return None
    weight = model.head_weight(layer)
    gone, z = gone.to(weight.device), z.to(weight.device)
    return z[..., gone, :].flatten(-2) @ weight[gone].flatten(0, 1)


def _no_attention(
    projection: nn.Module,
    extra: Tensor | None,
    *args: Any,
    hidden_states: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the result of an attention module without heads: the output projection's bias."""
    hidden = args[0] if hidden_states is None else hidden_states  # [B, T, d]
    out = hidden.new_zeros(*hidden.shape[:-1], len(projections.matrix(projection)))
    for term in (projection.bias, extra):
        out = out if term is None else out + term
    return out, None


# --- FFN ---


def _nothing(hidden: Tensor) -> Tensor:
    """Replace a module whose output is not read: return one channel, which broadcasts."""
    return hidden[..., :1]


def _no_ffn(
    d: int,
    experts: Callable | None,
    added: Tensor | None,
    hidden: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor | tuple:
    """Return the result of a module that adds nothing, or `added` [.., d], to the stream.

    A mixture of experts may return more than its output: a forward pass of one token per row
    provides the rest.
    """
    out = hidden.new_zeros(*hidden.shape[:-1], d)  # OPT flattens the positions [B, T]
    if added is not None:
        added = added.to(out).reshape(-1, d)
        out = added.repeat(out[..., 0].numel() // len(added), 1).view_as(out)
    if experts is None:
        return out
    first = hidden if args or kwargs else hidden[..., :1, :]
    returned = experts(first, *args, **kwargs)
    return (out, *returned[1:]) if isinstance(returned, tuple) else out


@contextmanager
def _counting(attention: nn.Module, counts: dict[str, int]) -> Iterator[None]:
    """Give attributes of the attention module other values for a while."""
    before = {name: getattr(attention, name) for name in counts}
    try:
        for name, value in counts.items():
            setattr(attention, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(attention, name, value)
