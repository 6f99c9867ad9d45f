"""Smaller tensors for a pruned model, as far as its configuration can express them.

Configurations have one number of heads and of FFN channels for all layers, so that a layer that
lost more than others is filled up with heads that write nothing. Two reductions can be expressed:

- **fewer heads in every layer**, if the size of a head is a separate setting (Llama, Mistral, Qwen,
  Gemma, Phi; not OPT, GPT-2, GPT-NeoX, whose heads divide d_model). Key-value heads go with the
  query heads that need them, or are repeated for smaller groups.
- **fewer layers**, if a layer lost all its heads and its FFN and has no bias that remains.

An FFN has the same number of channels in every layer, so that removing some FFNs saves nothing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from headcount.engine.removal import Removal
from headcount.models import families
from headcount.models.language_model import LanguageModel

# `model_type`s whose attention takes the setting `head_dim` and separate queries, keys and values.
FREE_HEADS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi")

Slots = list[tuple[int, list[int]]]  # a layer's K' key-value heads, each with its query heads


class Narrowed(NamedTuple):
    """A model to save, changes of its configuration, and a note on what could not be reduced."""

    hf: PreTrainedModel
    changed: dict[str, tuple]  # setting: (before, after)
    note: str


@torch.no_grad()
def narrow(model: LanguageModel, removed: Removal) -> Narrowed:
    """Return a smaller model with the logits of `model`, whose removed components write zero.

    It is `model.hf` itself if nothing can be reduced. Otherwise it shares unchanged tensors, and
    lacks those that no checkpoint has: it can be saved, and runs after it is loaded again.
    """
    config = model.hf.config
    if config.get_text_config() is not config:  # part of a larger configuration
        return Narrowed(model.hf, {}, "")
    heads, ffns = set(removed[0]), set(removed[1])
    kept = {
        layer: [head for head in range(H) if (layer, head) not in heads]
        for layer, H in enumerate(model.heads)
    }
    layers = [
        layer
        for layer in kept
        if kept[layer] or layer not in ffns or not _adds_nothing_else(model, layer)
    ]
    if not any(model.heads[layer] for layer in layers):  # keep a layer with attention
        layers = sorted({*layers, next(layer for layer in kept if model.heads[layer])})
    note = ""
    if not _says(model, layers):
        layers, note = list(kept), "the configuration cannot say which layers are left"
    changes = _of_layers(config, layers)
    slots = None
    for group, kv_heads in _fewer_heads(model, [kept[layer] for layer in layers]):
        counts = {
            "num_attention_heads": group * kv_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": model.parts[0].head_dim,
        }
        if _skeleton(model.hf, changes | counts):
            changes |= counts
            slots = {layer: _slots(model, kept[layer], group, kv_heads) for layer in layers}
            break
    smaller = _skeleton(model.hf, changes) if changes else None
    if smaller is None:
        return Narrowed(model.hf, {}, note)
    smaller.load_state_dict(_weights(model, layers, slots), assign=True)
    smaller.generation_config = model.hf.generation_config
    before = {key: getattr(config, key, None) for key in changes}
    shown = {
        key: (value, changes[key])
        for key, value in before.items()
        if value != changes[key] and not isinstance(value, list)
    }
    return Narrowed(smaller, shown, note)


# --- the configuration ---


def _skeleton(hf: PreTrainedModel, changes: dict) -> PreTrainedModel | None:
    """Return a model like `hf` with other settings and without weights; None if impossible.

    Some families require heads that divide d_model, or have settings that fit only the old ones.
    """
    try:
        config = type(hf.config).from_dict(hf.config.to_dict() | changes)
        with torch.device("meta"):
            return type(hf)(config).eval()
    except Exception:  # raised by a family's own code for settings that it does not support
        return None


def _of_layers(config: PreTrainedConfig, layers: list[int]) -> dict:
    """Return the settings of a model of some of the layers, with those listed by layer."""
    L = config.num_hidden_layers
    if len(layers) == L:
        return {}
    by_layer = {  # such as `layer_types`: sliding windows in every second layer
        key: [value[layer] for layer in layers]
        for key, value in config.to_dict().items()
        if "layer" in key and isinstance(value, list) and len(value) == L
    }
    return by_layer | {"num_hidden_layers": len(layers)}


def _says(model: LanguageModel, layers: list[int]) -> bool:
    """Whether a configuration can express these layers alone, each built as it is now."""
    if len(layers) == model.num_layers:
        return True
    smaller = _skeleton(model.hf, _of_layers(model.hf.config, layers))
    left = None if smaller is None else families.get(smaller, _path(model))
    if not isinstance(left, nn.ModuleList) or len(left) != len(layers):
        return False
    return all(
        _built_alike(model.layers[before], before, left[after], after)
        for after, before in enumerate(layers)
    )


def _built_alike(layer: nn.Module, number: int, other: nn.Module, others: int) -> bool:
    """Whether two layers have the same settings and sizes, except for their own numbers.

    Settings are compared, since short inputs do not show some of them, such as windows.
    """
    mine, theirs = _built(layer), _built(other)
    return mine.keys() == theirs.keys() and all(
        value == theirs[key] or (value, theirs[key]) == (number, others)
        for key, value in mine.items()
    )


def _built(layer: nn.Module) -> dict:
    """Return the types and settings of a layer's modules, and the sizes of its weights."""
    made: dict = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    for path, module in layer.named_modules():
        made[path, ""] = type(module)
        made |= {
            (path, name): value
            for name, value in vars(module).items()
            if isinstance(value, str | int | float | None) and name[0] != "_" and name != "training"
        }
    return made


def _adds_nothing_else(model: LanguageModel, layer: int) -> bool:
    """Whether a layer without heads and FFN is known to leave the residual stream unchanged.

    A layer without attention has a convolution or a state space, which still writes to it.
    """
    pre_norm = getattr(model.hf.config, "do_layer_norm_before", True)
    output = model.parts[layer].attention_output
    return pre_norm and output is not None and getattr(output, "bias", None) is None


# --- heads ---


def _fewer_heads(model: LanguageModel, kept: Sequence[list[int]]) -> list[tuple[int, int]]:
    """Return (query heads per key-value head, key-value heads) that suffice for every layer.

    Only options with fewer weights than now are listed, the fewest first.
    """
    if model.hf.config.model_type not in FREE_HEADS:
        return []
    part = model.parts[0]  # in these families all layers have the same heads
    largest = part.heads // part.kv_heads
    now = part.heads + part.kv_heads
    options = []
    for group in range(1, largest + 1):
        needed = max(len(_chunks(model, heads, group)) for heads in kept)
        fewer = range(max(1, needed), math.ceil(now / (group + 1)))
        options += [((group + 1) * kv_heads, group, kv_heads) for kv_heads in fewer]
    return [(group, kv_heads) for _, group, kv_heads in sorted(options)]


def _chunks(model: LanguageModel, kept: list[int], group: int) -> Slots:
    """Return the kept heads of each key-value head, at most `group` at a time."""
    part = model.parts[0]
    of_kv_head = part.heads // part.kv_heads
    chunks = []
    for kv_head in range(part.kv_heads):
        mine = [head for head in kept if head // of_kv_head == kv_head]
        chunks += [(kv_head, mine[i : i + group]) for i in range(0, len(mine), group)]
    return chunks


def _slots(model: LanguageModel, kept: list[int], group: int, kv_heads: int) -> Slots:
    """Return the chunks of a layer, filled up with a removed head, which exists."""
    chunks = _chunks(model, kept, group)
    chunks += [(0, [])] * (kv_heads - len(chunks))
    filler = next((head for head in range(model.heads[0]) if head not in kept), 0)
    return [(kv_head, heads + [filler] * (group - len(heads))) for kv_head, heads in chunks]


# --- weights ---


def _weights(
    model: LanguageModel, layers: list[int], slots: dict[int, Slots] | None
) -> dict[str, Tensor]:
    """Return the state dict of the smaller model."""
    path = _path(model)
    number = {str(layer): str(index) for index, layer in enumerate(layers)}
    weights = {}
    for name, tensor in model.hf.state_dict().items():
        if not name.startswith(f"{path}."):
            weights[name] = tensor
            continue
        layer, _, rest = name.removeprefix(f"{path}.").partition(".")
        if layer in number:
            if slots:
                tensor = _of_slots(model, rest, tensor, slots[int(layer)])
            weights[f"{path}.{number[layer]}.{rest}"] = tensor
    return weights


def _path(model: LanguageModel) -> str:
    """Return the path of the list of layers in the model."""
    return next(name for name, module in model.hf.named_modules() if module is model.layers)


def _of_slots(model: LanguageModel, name: str, tensor: Tensor, slots: Slots) -> Tensor:
    """Return the parameter `name` of a layer for the heads in `slots` alone."""
    heads = torch.tensor([head for _, group in slots for head in group])  # [H']
    kv_heads = torch.tensor([kv_head for kv_head, _ in slots])  # [K']
    part = model.parts[0]
    outputs = part.inputs.outputs(heads, kv_heads)
    module, _, _ = name.rpartition(".")
    for projection, rows in outputs.items():
        if families.get(part.layer, module) is families.get(part.attention, projection):
            return tensor[rows]  # of a weight [outputs, d] or a bias [outputs]
    if families.get(part.layer, module) is part.attention_output and name.endswith("weight"):
        return tensor[:, outputs["q_proj"]]  # its inputs are the queries' outputs
    return tensor
