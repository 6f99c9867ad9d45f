"""Smaller tensors for a pruned model, as far as its architecture's configuration can say so.

Configurations count heads and FFN channels once for all layers, so that a layer that lost more than
others has to be filled up with heads that write nothing. Two things can be said:

- **fewer heads in every layer**, where the size of a head is a setting of its own (Llama, Mistral,
  Qwen, Gemma, Phi; not OPT, GPT-2, GPT-NeoX, whose heads share d_model). Key-value heads go with
  the query heads that need them, or are repeated for groups that become smaller.
- **fewer layers**, where a layer lost all its heads and its FFN and has no bias that remains.

An FFN has as many channels in every layer, so that removing it in some of them saves nothing.
"""

import math
from collections.abc import Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from headcount import families
from headcount.model import LanguageModel
from headcount.pruning import Removal

# `model_type`s whose attention takes the setting `head_dim` and separate queries, keys and values.
FREE_HEADS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi")

Slots = list[tuple[int, list[int]]]  # of a layer: K' key-value heads, each with its query heads


@torch.no_grad()
def narrow(model: LanguageModel, removed: Removal) -> tuple[PreTrainedModel, dict[str, tuple]]:
    """A smaller model with the logits of `model`, whose removed components write nothing already.

    Returns `model.hf` itself where nothing can be saved, and what changes in the configuration:
    {setting: (before, after)}.
    """
    config = model.hf.config
    if config.get_text_config() is not config:  # a part of a larger model's
        return model.hf, {}
    heads, ffns = set(removed[0]), set(removed[1])
    kept = {
        layer: [head for head in range(H) if (layer, head) not in heads]
        for layer, H in enumerate(model.heads)
    }
    layers = [
        layer
        for layer in kept
        if kept[layer] or layer not in ffns or not _adds_nothing_else(model, layer)
    ] or [0]
    changes = _of_layers(config, layers)
    slots = None
    for group, kv_heads in _fewer_heads(model, [kept[layer] for layer in layers]):
        counts = {
            "num_attention_heads": group * kv_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": model.parts[0].head_dim,
        }
        if _is_valid(config, changes | counts):
            changes |= counts
            slots = {layer: _slots(model, kept[layer], group, kv_heads) for layer in layers}
            break
    if not changes:
        return model.hf, {}
    smaller = AutoModelForCausalLM.from_config(_changed(config, changes), dtype=model.hf.dtype)
    smaller.load_state_dict(_weights(model, layers, slots))
    smaller.generation_config = model.hf.generation_config
    before = {key: getattr(config, key, None) for key in changes if key != "layer_types"}
    shown = {key: (value, changes[key]) for key, value in before.items() if value != changes[key]}
    return smaller.eval(), shown


# --- the configuration ---


def _changed(config: PreTrainedConfig, changes: dict) -> PreTrainedConfig:
    return type(config).from_dict(config.to_dict() | changes)


def _is_valid(config: PreTrainedConfig, changes: dict) -> bool:
    """Whether transformers accepts the settings; some families want heads that divide d_model."""
    try:
        _changed(config, changes)
    except (ValueError, StrictDataclassError):
        return False
    return True


def _of_layers(config: PreTrainedConfig, layers: list[int]) -> dict:
    """Settings of a model of some of the layers."""
    if len(layers) == config.num_hidden_layers:
        return {}
    types = getattr(config, "layer_types", None)  # such as sliding windows in every second layer
    return {"num_hidden_layers": len(layers)} | (
        {"layer_types": [types[layer] for layer in layers]} if types else {}
    )


def _adds_nothing_else(model: LanguageModel, layer: int) -> bool:
    """Whether a layer without heads and FFN leaves the residual stream as it is."""
    pre_norm = getattr(model.hf.config, "do_layer_norm_before", True)
    return pre_norm and model.parts[layer].attention_output.bias is None


# --- heads ---


def _fewer_heads(model: LanguageModel, kept: Sequence[list[int]]) -> list[tuple[int, int]]:
    """(query heads to a key-value head, key-value heads) that hold what every layer keeps.

    Those with fewer weights than now, the fewest first.
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
    """The heads of each key-value head, at most `group` at a time."""
    part = model.parts[0]
    of_kv_head = part.heads // part.kv_heads
    chunks = []
    for kv_head in range(part.kv_heads):
        mine = [head for head in kept if head // of_kv_head == kv_head]
        chunks += [(kv_head, mine[i : i + group]) for i in range(0, len(mine), group)]
    return chunks


def _slots(model: LanguageModel, kept: list[int], group: int, kv_heads: int) -> Slots:
    """The chunks of a layer, filled up with a head that is removed: there is one."""
    chunks = _chunks(model, kept, group)
    chunks += [(0, [])] * (kv_heads - len(chunks))
    filler = next((head for head in range(model.heads[0]) if head not in kept), 0)
    return [(kv_head, heads + [filler] * (group - len(heads))) for kv_head, heads in chunks]


# --- weights ---


def _weights(
    model: LanguageModel, layers: list[int], slots: dict[int, Slots] | None
) -> dict[str, Tensor]:
    """The state dict of the smaller model."""
    path = next(name for name, module in model.hf.named_modules() if module is model.layers)
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


def _of_slots(model: LanguageModel, name: str, tensor: Tensor, slots: Slots) -> Tensor:
    """The parameter `name` of a layer for the heads in `slots` alone."""
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
