"""Projections of a layer, and the rows and columns of each head.

A plain projection is `nn.Linear`, or GPT-2's `Conv1D`, whose weight is transposed. Modules that
wrap or replace these (quantised, adapted, parametrised) are called; their weights are not used.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D


def is_plain(projection: nn.Module) -> bool:
    """Whether a projection computes `z @ weight + bias` itself."""
    return type(projection) in (nn.Linear, Conv1D) and not parametrize.is_parametrized(projection)


def matrix(projection: nn.Module) -> Tensor:
    """Return the weight of a projection as [outputs, inputs]."""
    return projection.weight.T if isinstance(projection, Conv1D) else projection.weight


def inputs_of(projection: nn.Module) -> int | None:
    """Return the number of inputs of a projection; None for another module."""
    if isinstance(projection, Conv1D):
        return projection.weight.shape[0]
    return getattr(projection, "in_features", None)


# --- which outputs of the query, key and value projections belong to some heads ---


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer's attention."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Inputs:
    """How to narrow the inputs of attention to queries, keys and values of some heads.

    `outputs` maps kept query heads [H'] and key-value heads [K'] to the outputs to keep, by name of
    the projection. `counts` maps their numbers H' and K' to attributes of the attention module that
    count heads or their outputs.
    """

    outputs: Callable[[Tensor, Tensor], dict[str, Tensor]]
    counts: Callable[[int, int], dict[str, int]]


def channels(heads: Tensor, head_dim: int) -> Tensor:
    """Return the indices [len(heads) * head_dim] of the channels of `heads`."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _separate(sizes: Sizes, heads: Tensor, kv_heads: Tensor) -> dict[str, Tensor]:
    of_kv_heads = channels(kv_heads, sizes.head_dim)
    of_heads = channels(heads, sizes.head_dim)
    return {"q_proj": of_heads, "k_proj": of_kv_heads, "v_proj": of_kv_heads}


def _gpt2(sizes: Sizes, heads: Tensor, _kv_heads: Tensor) -> dict[str, Tensor]:
    blocks = [heads + block * sizes.heads for block in range(3)]  # queries, keys, values
    return {"c_attn": channels(torch.cat(blocks), sizes.head_dim)}


def _gpt_neox(sizes: Sizes, heads: Tensor, _kv_heads: Tensor) -> dict[str, Tensor]:
    return {"query_key_value": channels(heads, 3 * sizes.head_dim)}  # [head, (q, k, v), e]


FUSED = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}  # by `model_type`


def _is_of_one_head(module: nn.Module, sizes: Sizes) -> bool:
    """Whether a module is a norm over the channels of a head, shared by all heads."""
    shapes = {tuple(parameter.shape) for parameter in module.parameters()}
    return "norm" in type(module).__name__.lower() and shapes == {(sizes.head_dim,)}


def narrow_inputs(
    attention: nn.Module, output: nn.Module, sizes: Sizes, model_type: str
) -> Inputs | None:
    """Return how to narrow an attention module, if all of its modules are known; else None."""
    outputs = partial(FUSED.get(model_type, _separate), sizes)
    rows = outputs(torch.arange(sizes.heads), torch.arange(sizes.kv_heads))
    projections = {name: getattr(attention, name, None) for name in rows}
    for name, projection in projections.items():
        if projection is None or not is_plain(projection):
            return None
        if len(matrix(projection)) != len(rows[name]):  # a gate in the same projection
            return None
    if not is_plain(output):
        return None
    if any(True for _ in attention.parameters(recurse=False)):  # such as sinks
        return None
    shared = {*projections.values(), output}
    shared |= {norm for norm in attention.children() if _is_of_one_head(norm, sizes)}
    if any(module not in shared for module in attention.modules() if [*module.parameters(False)]):
        return None  # a norm over all heads at once, or one for each
    if "shared_kv_states" in inspect.signature(type(attention).forward).parameters:
        return None  # a later layer reads its keys and values

    def counts(heads: int, kv_heads: int) -> dict[str, int]:
        found = {"num_heads": heads, "num_key_value_heads": kv_heads}
        found["split_size"] = heads * sizes.head_dim
        return {name: count for name, count in found.items() if hasattr(attention, name)}

    return Inputs(outputs, counts)
