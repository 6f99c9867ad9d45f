"""Attention over a packed block, which replaces transformers' own during a sweep.

The layers call `attend`. It knows a layer's queries, keys and values, a scale, a sliding window, a
soft cap and sinks. Any other keyword with a value is refused (`NotPacked`), and the model takes the
padded backend: no argument is ignored.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from headcount.engine._block import Block
from headcount.engine.trie import Unit
from headcount.models.language_model import LanguageModel

NAME = "headcount_packed"
STRIP = 96  # queries whose scores fit in a processor's cache
# Keywords without effect here: a block has the positions of its tokens.
HARMLESS = ("position_ids", "cache_position")


class NotPacked(Exception):  # noqa: N818 - a finding, not a fault
    """Why a model's attention cannot be given packed prompts."""


@contextmanager
def packed(model: LanguageModel) -> Iterator[None]:
    """Make the model's layers call `attend`; each call needs an `attending` around it."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


@dataclass
class Sight:
    """Which tokens each query of a block sees; the queries are all N tokens, or the scored ones."""

    ends: Tensor  # [N] token q sees k exactly when k <= q < ends[k]
    positions: Tensor  # [N]
    queries: Tensor  # [Q] indices of tokens; rising
    units: list[Unit]  # by rising queries, covering all of them
    kept: dict = field(default_factory=dict)  # masks and strips, reused in every layer

    @classmethod
    def of(cls, block: Block) -> "Sight":
        """Return the sight of all tokens of a packed block."""
        return cls(block.ends, block.positions[0], torch.arange(len(block)), block.units)

    @classmethod
    def of_scored(cls, block: Block) -> "Sight":
        """Return the sight of the S scored tokens, which is enough for the last layer."""
        units, first = [], 0
        for unit in block.units:
            inside = (block.scored >= unit.queries.start) & (block.scored < unit.queries.stop)
            if count := int(inside.sum()):
                units.append(Unit(slice(first, first + count), unit.keys))
                first += count
        return cls(block.ends, block.positions[0], block.scored, units)

    def mask(self, unit: Unit, window: int | None) -> Tensor:
        """Return whether each query of a unit sees each of its keys [queries, keys]."""
        query = self.queries[unit.queries][:, None]
        key = torch.cat([torch.arange(part.start, part.stop) for part in unit.keys])
        sees = (key <= query) & (query < self.ends[key])
        if window is not None:
            sees &= self.positions[query] - self.positions[key] < window
        return sees


@dataclass
class Call:
    """What a layer's attention is to do; set by `attending` while the layer runs."""

    sight: Sight
    window: int | None  # that the layer should pass
    # [H'] the key-value head of each query head if heads were removed; None: in equal groups
    kv_of_query: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None  # key, value [B, K, N, e] to use instead
    only_keys: bool = False  # keys and values are wanted alone
    found: tuple[Tensor, Tensor] | None = None  # key, value [B, K, N, e] that the layer passed
    times: int = 0


_call: ContextVar[Call | None] = ContextVar("call", default=None)


@contextmanager
def attending(call: Call) -> Iterator[None]:
    """Make `attend` serve this call."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the heads' outputs z [B, Q, H, e], by transformers' attention interface.

    query is [B, H, Q, e], key and value are [B, K, N, e]. `s_aux` [H] are sinks: scores that take a
    share of the softmax and have no value. Raises `NotPacked` for an unknown argument.
    """
    call = _call.get()
    call.times += 1
    call.found = key, value
    unknown = [k for k, v in others.items() if v is not None and v is not False]
    unknown = [name for name in unknown if name not in HARMLESS]
    unknown += ["attention_mask"] * (attention_mask is not None)
    unknown += ["dropout"] * bool(dropout) + ["is_causal=False"] * (is_causal is False)
    if unknown:
        raise NotPacked(f"its attention is called with {', '.join(unknown)}")
    if sliding_window != call.window:
        raise NotPacked(
            f"a window of {sliding_window} is passed where one of {call.window} should be"
        )
    if call.only_keys:
        B, H, Q, _ = query.shape
        return query.new_zeros(B, Q, H, value.shape[-1]), None
    if call.known is not None:
        key, value = call.known
    if call.kv_of_query is not None:
        key, value = key[:, call.kv_of_query], value[:, call.kv_of_query]  # [B, H, N, e]
    elif key.shape[1] != query.shape[1]:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    settings = AttentionSettings(scaling or query.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    # torch's own kernel takes neither soft cap nor sinks. On a CPU plain products are faster, but a
    # backward pass would have to keep their probabilities.
    if softcap is not None or s_aux is not None or (plain and not torch.is_grad_enabled()):
        z = _in_strips(query, key, value, call.sight, settings)
    else:
        z = _by_kernel(query, key, value, call.sight, settings)
    return z.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)


@dataclass(frozen=True)
class AttentionSettings:
    """How queries and keys give attention scores."""

    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None  # [H]


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, sight: Sight, settings: AttentionSettings
) -> Tensor:
    """Return z [B, H, Q, e] by torch's own kernel, unit by unit."""
    sizes = [unit.queries.stop - unit.queries.start for unit in sight.units]
    queries = query.split(sizes, dim=2)  # the gradient of a slice would have the whole size
    if all(unit.keys == [unit.queries] for unit in sight.units):
        keys, values = key.split(sizes, dim=2), value.split(sizes, dim=2)
    else:
        keys, values = (
            [_chosen(tensor, unit.keys) for unit in sight.units] for tensor in (key, value)
        )
    parts = []
    for unit, q, k, v in zip(sight.units, queries, keys, values, strict=True):  # [B, H, .., e]
        mask = _mask(sight, unit, settings.window, q.device)
        causal = mask is None
        parts.append(
            F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=settings.scaling)
        )
    return torch.cat(parts, dim=2)


def _chosen(tensor: Tensor, ranges: list[slice]) -> Tensor:
    if len(ranges) == 1:
        return tensor[..., ranges[0], :]
    return torch.cat([tensor[..., part, :] for part in ranges], dim=-2)


def _mask(sight: Sight, unit: Unit, window: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of a unit [queries, keys], made once for all layers; None: causal."""
    key = "mask", unit.queries.start, window, device
    if key not in sight.kept:
        mask = sight.mask(unit, window)
        causal = unit.keys == [unit.queries] and torch.equal(mask, mask.new_ones(mask.shape).tril())
        sight.kept[key] = None if causal else mask.to(device)
    return sight.kept[key]


# --- plain products ---


@dataclass
class Strip:
    """Some consecutive queries of a unit and the keys that they see."""

    queries: slice  # of the unit's
    free: int  # number of first keys that all the queries see
    end: int  # end of the keys that any of them sees
    hidden: Tensor  # [queries, end - free] -inf if a query does not see a key, else 0


def _in_strips(
    query: Tensor, key: Tensor, value: Tensor, sight: Sight, settings: AttentionSettings
) -> Tensor:
    """Return z [B, H, Q, e] = softmax(q k^T) v of all heads, for some queries at a time.

    Gemma 2's soft cap bounds the scores smoothly, before the mask.
    """
    B, H = query.shape[:2]
    query = (query * settings.scaling).flatten(0, 1)  # [B * H, Q, e]
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # [B * H, N, e]
    sinks = (
        None if settings.sinks is None else settings.sinks.repeat(B)[:, None, None]
    )  # [B * H, 1, 1]
    parts = []
    for unit in sight.units:
        q = query[:, unit.queries]
        k, v = _chosen(key, unit.keys), _chosen(value, unit.keys)
        for strip in _strips(sight, unit, settings.window, q.device):
            s = q[:, strip.queries].bmm(k[:, : strip.end].mT)  # [B * H, queries, end]
            if settings.softcap is not None:
                s = torch.tanh(s / settings.softcap) * settings.softcap
            s[..., strip.free :] += strip.hidden
            p = _softmax(s, sinks).to(s.dtype)
            parts.append(p.bmm(v[:, : strip.end]))
    return torch.cat(parts, dim=1).unflatten(0, (B, H))


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return probabilities in float32, without those of the sinks."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    beside = sinks.to(scores).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, beside], dim=-1).softmax(-1, dtype=torch.float32)[..., :-1]


def _strips(sight: Sight, unit: Unit, window: int | None, device: torch.device) -> list[Strip]:
    """Return the strips of a unit, made once for all layers."""
    key = unit.queries.start, window, device
    if key not in sight.kept:
        mask = sight.mask(unit, window)
        parts = mask.chunk(math.ceil(len(mask) / STRIP))  # of equal size, but the last
        size = len(parts[0])
        sight.kept[key] = [_strip(part, i * size, device) for i, part in enumerate(parts)]
    return sight.kept[key]


def _strip(mask: Tensor, first: int, device: torch.device) -> Strip:
    """Return the strip that begins at query `first`, with what `mask` [q, k] lets it see."""
    end = int(mask.any(0).nonzero().max()) + 1
    not_by_all = (~mask[:, :end].all(0)).nonzero()
    free = int(not_by_all.min()) if len(not_by_all) else end
    hidden = torch.zeros(len(mask), end - free).masked_fill(~mask[:, free:end], -math.inf)
    return Strip(slice(first, first + len(mask)), free, end, hidden.to(device))
