"""Heads and FFNs taken out of a decoder layer: what is removed is not computed.

The modules of a layer are given other `forward`s for a while: projections that leave out the rows
and columns of removed heads, an FFN that adds nothing. A removed component may leave a stand-in
(`headcount.sweep.ablation`); by default it leaves zero.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headcount import families
from headcount.model import LanguageModel, replaced


class StandIn(NamedTuple):
    """What removed components of a layer leave at N positions: z [N, H, head_dim], ffn [N, d]."""

    z: Tensor
    ffn: Tensor


@dataclass
class Ablation:
    """Stand-ins by layer and class: z [L, C, H, head_dim], ffn [L, C, d].

    The C classes are the first token and all others, or, for `resample`, the positions.
    """

    z: Tensor
    ffn: Tensor

    def at(self, layer: int, positions: Tensor) -> StandIn:
        """What removed components of a layer leave at N positions.

        Positions beyond the last class go through the classes again, the first one left out.
        """
        C = self.z.shape[1]
        rows = torch.where(positions < C, positions, 1 + (positions - 1) % max(C - 1, 1))
        return StandIn(self.z[layer, rows], self.ffn[layer, rows])


@contextmanager
def without(model: LanguageModel, heads: Tensor, ffns: Tensor) -> Iterator[None]:
    """Inside, the whole model runs without the heads [L, H] and FFNs [L] that are False.

    For code that runs the model by itself, such as generation; attention is computed for all
    heads. The sweep removes layer by layer.
    """
    with ExitStack() as stack:
        for layer in range(model.num_layers):
            stack.enter_context(removed(model, layer, heads[layer], bool(ffns[layer])))
        yield


@contextmanager
def removed(
    model: LanguageModel,
    layer: int,
    heads: Tensor,
    ffn: bool,
    stand_in: StandIn | None = None,
    narrow: bool = False,
) -> Iterator[Tensor | None]:
    """Inside, `layer` runs without the heads [H] that are False, and without its FFN if `ffn` is.

    With `narrow`, queries, keys and values of removed heads are not computed either, if the layout
    allows it. Then yields, for each query head that is left, the index of its key-value head among
    those left [H'], else None.
    """
    part = model.parts[layer]
    forwards: dict[nn.Module, Callable] = {}
    attributes: dict[str, int] = {}
    kv_of_query = None
    kept, gone = heads.nonzero()[:, 0], (~heads).nonzero()[:, 0]
    if len(gone):
        extra = None
        if stand_in is not None:
            z = stand_in.z[:, gone].flatten(1)  # [N, gone * head_dim]
            extra = z @ model.head_weight(layer)[gone].flatten(0, 1)  # [N, d]
        if len(kept) == 0:
            forwards[part.attention] = partial(_no_attention, part.attention_output, extra)
        else:
            if narrow and _narrows(model, layer):
                kv_heads, kv_of_query = _kv_heads(model, kept)
                forwards |= _narrow_inputs(model, layer, kept, kv_heads)
                attributes = _narrow_counts(model, len(kept))
            columns = families.channels(kept, model.head_dim)
            select = None if kv_of_query is not None else columns
            forwards[part.attention_output] = _narrow_output(
                part.attention_output, columns, select, extra
            )
    if not ffn:
        *inner, last = part.ffn
        forwards |= dict.fromkeys(inner, _nothing)
        added = None if stand_in is None else stand_in.ffn
        forwards[last] = partial(_no_ffn, model.d_model, added)
    with replaced(forwards), _counting(part.attention, attributes):
        yield kv_of_query


# --- attention ---


def _narrows(model: LanguageModel, layer: int) -> bool:
    """Whether queries, keys and values of some heads alone can be computed."""
    layout, attention = model.layout, model.parts[layer].attention
    if layout.inputs is None:
        return False
    names = layout.inputs(torch.arange(0), torch.arange(0), model.head_dim, 0, 0)
    # A norm over all heads at once sees what is removed; one over each head alone does not.
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return all(families.has(attention, name) for name in names) and all(
        norm is None or norm.weight.numel() == model.head_dim for norm in norms
    )


def _kv_heads(model: LanguageModel, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Key-value heads [K'] that the query heads [H'] need, and the index of each's in them [H']."""
    of_query = kept // (model.num_heads // model.num_kv_heads)
    return of_query.unique(return_inverse=True)


def _narrow_inputs(
    model: LanguageModel, layer: int, kept: Tensor, kv_heads: Tensor
) -> dict[nn.Module, Callable]:
    """Projections of queries, keys and values that compute the kept heads alone."""
    attention = model.parts[layer].attention
    sizes = model.head_dim, model.num_heads, model.num_kv_heads
    forwards = {}
    for name, outputs in model.layout.inputs(kept, kv_heads, *sizes).items():
        projection = attention.get_submodule(name)
        outputs = outputs.to(projection.weight.device)
        weight = families.matrix(projection)[outputs]
        bias = None if projection.bias is None else projection.bias[outputs]
        forwards[projection] = partial(F.linear, weight=weight, bias=bias)
    return forwards


def _narrow_counts(model: LanguageModel, kept: int) -> dict[str, int]:
    """Attributes of the attention module that say how many heads there are."""
    counts = {}
    if model.layout.head_count:
        counts[model.layout.head_count] = kept
    if model.layout.output_count:
        counts[model.layout.output_count] = kept * model.head_dim
    return counts


def _narrow_output(
    projection: nn.Module, columns: Tensor, select: Tensor | None, extra: Tensor | None
) -> Callable:
    """The output projection of some heads: of an input [.., H' * e], or selected from [.., H * e].

    The bias stays, and `extra` [N, d] is added.
    """
    weight = families.matrix(projection)
    weight = weight[:, columns.to(weight.device)]

    def forward(z: Tensor) -> Tensor:
        z = z if select is None else z[..., select.to(z.device)]
        out = F.linear(z, weight, projection.bias)
        return out if extra is None else out + extra

    return forward


def _no_attention(
    projection: nn.Module, extra: Tensor | None, *args, hidden_states: Tensor | None = None, **_
) -> tuple[Tensor, None]:
    """What an attention module returns without a head: the output projection's bias."""
    hidden = args[0] if hidden_states is None else hidden_states  # [B, T, d]
    out = torch.zeros_like(hidden)
    for term in (projection.bias, extra):
        out = out if term is None else out + term
    return out, None


# --- FFN ---


def _nothing(hidden: Tensor) -> Tensor:
    """In place of a projection whose output will not be read: no channels."""
    return hidden[..., :0]


def _no_ffn(d_model: int, added: Tensor | None, hidden: Tensor) -> Tensor:
    """What a removed FFN adds to the residual stream, at [B, T] positions, which OPT flattens."""
    if added is None:
        return hidden.new_zeros(*hidden.shape[:-1], d_model)
    rows = hidden.shape[:-1].numel() // len(added)
    return added.repeat(rows, 1).view(*hidden.shape[:-1], d_model)


@contextmanager
def _counting(attention: nn.Module, counts: dict[str, int]) -> Iterator[None]:
    """Inside, attributes of the attention module have other values."""
    before = {name: getattr(attention, name) for name in counts}
    try:
        for name, value in counts.items():
            setattr(attention, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(attention, name, value)
