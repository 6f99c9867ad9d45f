"""Attention over a packed block, in place of transformers' own for the time of a sweep."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from headcount.model import LanguageModel
from headcount.sweep.trie import Block, Unit

NAME = "headcount_packed"
STRIP = 96  # queries whose scores fit in a processor's cache


@contextmanager
def packed(model: LanguageModel) -> Iterator[None]:
    """Inside, decoder layers that are called with `block=` attend within its units."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


class KeysAndValues(Exception):  # noqa: N818 - ends a layer early; nothing is wrong
    """What a layer was run for, where nothing else of it is wanted: key and value [B, K, N, e]."""

    def __init__(self, key: Tensor, value: Tensor):
        self.key, self.value = key, value


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    block: Block | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    kv_of_query: Tensor | None = None,
    known: KeysAndValues | None = None,
    **_,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, H, Q, e], key and value [B, K, N, e].

    The queries are the tokens of `block`, which see the tokens of the same block, or, in a block
    of scored tokens alone, those of `known`. `kv_of_query` [H] names the key-value head of each
    query head where heads were removed; else they are in equal groups. Returns the heads' outputs
    z [B, Q, H, e]. Raises `KeysAndValues` when there is no block.
    """
    if block is None:
        raise KeysAndValues(key, value)
    if known is not None:
        key, value = known.key, known.value
    if kv_of_query is not None:
        key, value = key[:, kv_of_query], value[:, kv_of_query]  # [B, H, N, e]
    elif key.shape[1] != query.shape[1]:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scaling = scaling or query.shape[-1] ** -0.5
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    # torch's own kernel takes no soft cap. On a CPU it is slower than plain products, whose
    # probabilities a backward pass would have to keep, though.
    if softcap is not None or (plain and not torch.is_grad_enabled()):
        return _in_strips(query, key, value, block, scaling, sliding_window, softcap), None
    sizes = [len(unit) for unit in block.units]
    queries = query.split(sizes, dim=2)  # not slices, each of which would have a whole gradient
    if all(unit.keys == [unit.queries] for unit in block.units):
        keys, values = key.split(sizes, dim=2), value.split(sizes, dim=2)
    else:
        keys, values = (
            [_chosen(tensor, unit.keys) for unit in block.units] for tensor in (key, value)
        )
    parts = []
    for unit, q, k, v in zip(block.units, queries, keys, values, strict=True):  # [B, H, .., e]
        mask = _mask(unit, block, sliding_window)
        mask = None if mask is None else mask.to(q.device)
        causal = mask is None
        parts.append(F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, attend)


def _chosen(tensor: Tensor, ranges: list[slice]) -> Tensor:
    if len(ranges) == 1:
        return tensor[..., ranges[0], :]
    return torch.cat([tensor[..., part, :] for part in ranges], dim=-2)


def _mask(unit: Unit, block: Block, window: int | None) -> Tensor | None:
    """[q, k], with what a sliding window of so many tokens hides; None: causal."""
    if window is None or block.positions[unit.queries].max() < window:
        return unit.mask
    query = block.positions[unit.queries]
    key = torch.cat([block.seen[part] for part in unit.keys])
    return unit.sees() & (query[:, None] - key < window)


# --- plain products ---


@dataclass
class Strip:
    """Some consecutive queries of a unit and the keys that they see."""

    queries: slice  # of the unit's
    free: int  # the first so many keys, which all the queries see
    end: int  # behind the last key that one of them sees
    hidden: Tensor  # [queries, end - free] -inf where a query does not see a key, else 0


def _in_strips(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: Block,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """softmax(q k^T) v of all heads [B, H, .., e] for some queries at a time: z [B, Q, H, e].

    Gemma 2's soft cap squashes scores to at most so much before the mask.
    """
    B, H, Q, e = query.shape
    query = (query * scaling).reshape(B * H, Q, e)
    key, value = key.reshape(B * H, -1, e), value.reshape(B * H, -1, e)  # [B * H, N, e]
    parts = []
    for unit in block.units:
        q = query[:, unit.queries]
        k, v = _chosen(key, unit.keys), _chosen(value, unit.keys)
        for strip in _strips(unit, block, window, q.device):
            scores = q[:, strip.queries].bmm(k[:, : strip.end].mT)  # [B * H, queries, end]
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            scores[..., strip.free :] += strip.hidden
            p = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
            parts.append(p.bmm(v[:, : strip.end]))
    return torch.cat(parts, dim=1).unflatten(0, (B, H)).transpose(1, 2)


def _strips(unit: Unit, block: Block, window: int | None, device: torch.device) -> list[Strip]:
    """The strips of a unit, made when a layer first asks for them."""
    if (window, device) not in unit.strips:
        mask = _mask(unit, block, window)
        mask = unit.sees() if mask is None else mask
        parts = mask.chunk(math.ceil(len(mask) / STRIP))  # of equal size, but the last
        size = len(parts[0])
        unit.strips[window, device] = [
            _strip(part, i * size, device) for i, part in enumerate(parts)
        ]
    return unit.strips[window, device]


def _strip(mask: Tensor, first: int, device: torch.device) -> Strip:
    """The strip whose first query is `first` and whose queries see what `mask` [q, k] says."""
    end = int(mask.any(0).nonzero().max()) + 1
    not_by_all = (~mask[:, :end].all(0)).nonzero()
    free = int(not_by_all.min()) if len(not_by_all) else end
    hidden = torch.zeros(len(mask), end - free).masked_fill(~mask[:, free:end], -math.inf)
    return Strip(slice(first, first + len(mask)), free, end, hidden.to(device))
