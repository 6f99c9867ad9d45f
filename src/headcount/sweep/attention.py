"""Attention over a packed block, in place of transformers' own for the time of a sweep."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from headcount.model import LanguageModel
from headcount.sweep.trie import Block, Unit

NAME = "headcount_packed"


@contextmanager
def packed(model: LanguageModel) -> Iterator[None]:
    """Inside, decoder layers that are called with `block=` attend within its units."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    block: Block,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    kv_of_query: Tensor | None = None,
    **_,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, H, N, e], key and value [B, K, N, e].

    `kv_of_query` [H] names the key-value head of each query head where heads were removed; else
    they are in equal groups. Returns the heads' outputs z [B, N, H, e].
    """
    if kv_of_query is not None:
        key, value = key[:, kv_of_query], value[:, kv_of_query]  # [B, H, N, e]
    elif key.shape[1] != query.shape[1]:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    parts = []
    for unit in block.units:
        q = query[:, :, unit.queries]  # [B, H, Q, e]
        k, v = _chosen(key, unit.keys), _chosen(value, unit.keys)  # [B, H, K, e]
        mask = _mask(unit, block, sliding_window)
        mask = None if mask is None else mask.to(q.device)
        if softcap is None:
            z = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling
            )
        else:
            z = _softcapped(q, k, v, mask, scaling, softcap)
        parts.append(z)
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, attend)


def _chosen(tensor: Tensor, ranges: list[slice]) -> Tensor:
    if len(ranges) == 1:
        return tensor[:, :, ranges[0]]
    return torch.cat([tensor[:, :, part] for part in ranges], dim=2)


def _mask(unit: Unit, block: Block, window: int | None) -> Tensor | None:
    """[Q, K], with what a sliding window of so many tokens hides; None: causal."""
    if window is None or block.positions[unit.queries].max() < window:
        return unit.mask
    query = block.positions[unit.queries]
    key = torch.cat([block.positions[part] for part in unit.keys])
    mask = unit.mask
    if mask is None:
        mask = torch.ones(len(query), len(key), dtype=torch.bool).tril()
    return mask & (query[:, None] - key < window)


def _softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """Gemma 2's attention: scores are squashed to at most `softcap` before the mask."""
    scores = q @ k.transpose(-1, -2) * scaling  # [B, H, Q, K]
    scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
