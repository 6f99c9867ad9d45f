"""Where model families keep their heads and FFNs: facts that transformers does not declare.

In every decoder layer, the first name of `ATTENTION_OUTPUTS` that exists counts, and the first of
`FFN_OUTPUTS`. So a family built like others works without a line here. A model with none of the
names is refused with the list; a user can give names with `Layout` (config key
`models.NAME.layout`).

Layers may differ in the number and size of heads, and may lack attention (hybrids) or an FFN. The
FFN of a layer is all that it adds beside attention, convolutions and state spaces: in a mixture of
experts router, experts and shared experts, in one block or in several. A layer with a module that
belongs to none of these is refused.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headcount.models.projections import Inputs, Sizes, inputs_of, is_plain, narrow_inputs

# The last projection of softmax attention; its input is z of all heads, concatenated.
ATTENTION_OUTPUTS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.c_proj",
    "attn.out_proj",
    "attn.Wo",
    "attn.attention.out_proj",
    "attention.dense",
    "self_attention.dense",
    "multi_head_attention.dense",
    "norm_attn_norm.attn.out_proj",
    "temporal_block.o_proj",
    "mixer.o_proj",
)
# The last projection of an FFN, in the layer or in one of `BLOCKS`; or the whole block, if it
# holds experts. The outputs of several blocks add up.
EXPERTS = "experts"
BLOCKS = (
    *("mlp", "feed_forward", "ffn", "block_sparse_moe", "shared_mlp", EXPERTS),
    *("mlp_block", "moe", "mixer"),
)
FFN_OUTPUTS = (
    "down_proj",
    "dense_4h_to_h",
    "c_proj",
    "fc2",
    "fc_out",
    "w2",
    "Wo",
    "output_linear",
    "2",  # CTRL's is a sequence of two projections
)
IN_LAYER = ("fc2",)
# A norm or convolution between the FFN and the residual stream, in some layers: its output is the
# addition of the FFN.
AFTER_FFN = (
    *("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm", "post_norm2"),
    *("mlp_sconv", "post_mlp_convolution"),
)
# Modules beside attention and FFN, which stay when these are removed: inputs of each layer, several
# residual streams, bypasses; a router alone adds nothing.
BESIDE = (
    *("per_layer_input_gate", "per_layer_projection", "altup", "laurel", "attention_input"),
    *("attn_hyper_connection", "mlp_hyper_connection", "attn_hc", "ffn_hc", "router"),
)
CROSS_ATTENTION = ("encoder_attn", "cross_attn", "crossattention")
# `layer_types` of the configuration whose layers mix tokens without softmax attention.
NO_ATTENTION = ("linear", "conv", "mamba", "recurrent")
# Packages, and a part of transformers, whose modules do not compute with their `weight` as it is.
WRAPPING = ("peft", "bitsandbytes", "gptqmodel", "auto_gptq", "awq", "hqq", "optimum", "torchao")
OTHER_LINEARS = "transformers.integrations"


class ModelError(ValueError):
    """A model that does not load, or whose heads and FFNs cannot be found."""


@dataclass(frozen=True)
class Layout:
    """Dotted names, inside a decoder layer, of the modules that headcount changes.

    `attention_output` reads z of every head and writes to the residual stream. `ffn_output` is the
    last projection of the FFN, or a whole block, such as a mixture of experts. A layer without one
    of them has no heads or no FFN. Other modules stay as they are.
    """

    attention_output: str
    ffn_output: str


@dataclass(frozen=True)
class LayerParts:
    """The modules of one decoder layer, and how many heads it has: 0 if it has no attention."""

    layer: nn.Module
    d_model: int
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    attention: nn.Module | None = None
    attention_output: nn.Module | None = None  # reads z
    skips: bool = False  # attention need not run if no head is left
    # How to keep some heads of the query, key and value projections; None: all are computed.
    inputs: Inputs | None = None
    ffn_output: nn.Module | None = None  # if its parameters are zero, the FFN adds nothing
    # Its output and those of the modules beside it add up to the addition of the FFN.
    ffn_writes: nn.Module | None = None
    ffn_beside: tuple[nn.Module, ...] = ()
    ffn_inner: tuple[nn.Module, ...] = ()  # earlier modules of the FFN, read by nothing else


# --- finding them ---


def decoder(hf: PreTrainedModel, layout: Layout | None = None) -> tuple[str, list[LayerParts]]:
    """Return the path of the list of decoder layers in `hf`, and the parts of each layer.

    Raises `ModelError` with the reason for a model that is not decoder-only or has no attention,
    and when heads or FFNs are not found by `layout` or the lists of names.
    """
    name = f"{type(hf).__name__} ({hf.config.model_type})"
    try:
        config = hf.config.get_text_config()
    except ValueError as error:
        raise ModelError(f"{name} has no single text decoder: {error}") from error
    if hf.config.is_encoder_decoder or config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder; headcount takes decoder-only models")
    for size in ("num_hidden_layers", "hidden_size"):
        if not isinstance(getattr(config, size, None), int):
            raise ModelError(f"{name}: its configuration has no single {size}: not supported")
    if not hasattr(hf.get_output_embeddings(), "weight"):
        raise ModelError(f"{name} has no single unembedding (`get_output_embeddings()`)")
    lists = [
        (path, module)
        for path, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    of_lists = {path: _of_layers(module, layout, config, name) for path, module in lists}
    found = {path: parts for path, parts in of_lists.items() if parts}
    if not found:
        _refuse_encoder(name, [path for path, _ in lists])
        looked_for = (layout.attention_output,) if layout else ATTENTION_OUTPUTS
        raise ModelError(
            f"{name}: no list of {config.num_hidden_layers} decoder layers in which there is an "
            f"attention output projection; looked for {', '.join(looked_for)} (config key "
            "`models.NAME.layout` names others; models without attention are not supported)"
        )
    path, parts = next(iter(found.items()))
    _check(name, path, parts, layout)
    return path, parts


def _of_layers(
    layers: nn.ModuleList, layout: Layout | None, config: PreTrainedConfig, name: str
) -> list[LayerParts]:
    """Return the parts of every layer, [] if none has attention."""
    kinds = getattr(config, "layer_types", None) or [""] * len(layers)
    parts = []
    for layer, kind in zip(layers, kinds, strict=True):
        found = {} if kind.startswith(NO_ATTENTION) else _attention(layer, layout, config, name)
        parts.append(LayerParts(layer, config.hidden_size, **found, **_ffn(layer, layout)))
    return parts if any(part.heads for part in parts) else []


def _check(name: str, path: str, parts: list[LayerParts], layout: Layout | None) -> None:
    """Raise `ModelError` for a model with heads and FFNs that headcount cannot take."""
    _refuse_encoder(name, [path])
    for part in parts:
        if any(hasattr(part.layer, attention) for attention in CROSS_ATTENTION):
            raise ModelError(
                f"{name} is the decoder of an encoder-decoder, whose layers attend to an encoder; "
                "headcount takes decoder-only models"
            )
    if not any(part.ffn_output for part in parts):
        names = f"{', '.join(IN_LAYER)} and {', '.join(FFN_OUTPUTS)} in {', '.join(BLOCKS)}"
        raise ModelError(
            f"{name}: no FFN in the layers of {path}; looked for "
            f"{layout.ffn_output if layout else names} (config key `models.NAME.layout`)"
        )
    for index, part in enumerate(parts if layout is None else []):
        if unknown := _unknown(part):
            raise ModelError(
                f"{name}: headcount does not know whether {unknown} in layer {index} of {path} "
                "belongs to the FFN. If it is to stay when the FFN is removed, name the FFN: "
                "config key `models.NAME.layout`"
            )
    for role in ("attention_output", "ffn_output"):
        of_layers = [getattr(part, role).modules() for part in parts if getattr(part, role)]
        modules = [one for of_layer in of_layers for one in of_layer if [*one.parameters(False)]]
        if len(set(modules)) < len(modules):
            raise ModelError(f"{name}: several layers share one module ({role}): not supported")


def _unknown(part: LayerParts) -> str | None:
    """Return a module with weights in a layer that belongs to no known part."""
    modules = (part.attention, part.ffn_output, part.ffn_writes, *part.ffn_beside, *part.ffn_inner)
    known = {inside for module in modules if module for inside in module.modules()}
    linear = {path.partition(".")[0] for path in ATTENTION_OUTPUTS} if not part.heads else set()
    for name, module in part.layer.named_children():
        inside = set(module.modules())
        mixes_tokens = name in linear or any(isinstance(one, nn.Conv1d) for one in inside)
        if mixes_tokens or name in BESIDE or inside & known:
            continue
        is_norm = "norm" in type(module).__name__.lower()
        if not is_norm and any(p.dim() > 1 for p in module.parameters()):
            return f"{name} ({type(module).__name__})"
    return None


def _refuse_encoder(name: str, paths: list[str]) -> None:
    if any("encoder" in path.split(".") for path in paths):
        raise ModelError(f"{name} is an encoder (BERT-like); headcount takes decoder-only models")


def get(module: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule of `module` at the dotted `path`, if there is one."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _attention(
    layer: nn.Module, layout: Layout | None, config: PreTrainedConfig, name: str
) -> dict:
    """Return the fields of `LayerParts` for the attention of a layer; {} if it has none."""
    for path in (layout.attention_output,) if layout else ATTENTION_OUTPUTS:
        projection, attention = get(layer, path), get(layer, path.rpartition(".")[0])
        if projection is None or attention is layer:
            continue
        if not hasattr(projection, "weight"):  # a wrapper of a single projection (Moshi)
            projection = next(iter(projection.children()), projection)
        inputs = inputs_of(projection)
        if inputs is None:
            continue
        head_dim = _number(attention, "v_head_dim", "head_dim", "head_size")
        heads = _number(attention, "num_heads", "num_attention_heads", "n_heads", "n_head")
        if head_dim is None:
            heads = heads or _number(config, "num_attention_heads")
            if heads is None:
                raise ModelError(f"{name}: neither {path} nor the configuration counts heads")
            head_dim = inputs // heads
        heads = heads or inputs // head_dim
        if heads * head_dim != inputs:
            raise ModelError(
                f"{name}: {path} has {inputs} inputs, which are not {heads} heads of {head_dim}"
            )
        kv_heads = _kv_heads(attention, heads, config)
        if heads % kv_heads:
            raise ModelError(
                f"{name}: {heads} heads cannot share {kv_heads} key-value heads equally: correct "
                "num_attention_heads or num_key_value_heads in its configuration"
            )
        sizes = Sizes(heads, kv_heads, head_dim)
        return {
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "attention": attention,
            "attention_output": projection,
            "skips": is_plain(projection) and _returns_output_alone(attention),
            "inputs": narrow_inputs(attention, projection, sizes, config.model_type),
        }
    return {}


def _kv_heads(attention: nn.Module, heads: int, config: PreTrainedConfig) -> int:
    """Return the number of key-value heads of an attention module with `heads` query heads."""
    if count := _number(attention, "num_key_value_heads", "num_kv_heads"):
        return count
    if groups := _number(attention, "num_key_value_groups"):
        return heads // groups
    return getattr(config, "num_key_value_heads", None) or heads


def _returns_output_alone(attention: nn.Module) -> bool:
    """Whether an attention module returns nothing but its output and its weights.

    Its source is read. A module that returns more, or provides keys and values for later layers,
    must always run.
    """
    forward = type(attention).forward
    if "shared_kv_states" in inspect.signature(forward).parameters:
        return False
    return _source(forward).rstrip().endswith("return attn_output, attn_weights")


@cache
def _source(function: Callable) -> str:
    """Return the source of a function, cached for all layers; empty if there is none."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _number(module: nn.Module | PreTrainedConfig, *names: str) -> int | None:
    """Return the first of the attributes that is a positive number."""
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value), None)


def _ffn(layer: nn.Module, layout: Layout | None) -> dict:
    """Return the fields of `LayerParts` for the FFN of a layer; {} if it has none."""
    found = {path: get(layer, path) for path in ([layout.ffn_output] if layout else _ffns(layer))}
    outputs = {path: output for path, output in found.items() if output is not None}
    if not outputs:
        return {}
    writes: list[nn.Module] = []
    inner: list[nn.Module] = []
    for path, output in outputs.items():
        block = layer.get_submodule(path.partition(".")[0])
        writes.append(block if _takes_one_tensor(block) else output)
        if path in IN_LAYER:
            inner += filter(None, [get(layer, "fc1")])
    for name in AFTER_FFN:
        if after := get(layer, name):
            inner += filter(_takes_one_tensor, writes)
            writes = [after]
    blocks = {path.partition(".")[0]: output for path, output in outputs.items()}
    return {
        "ffn_output": output if len(blocks) == 1 else nn.ModuleDict(blocks),
        "ffn_writes": writes[-1],
        "ffn_beside": tuple(writes[:-1]),
        "ffn_inner": tuple(inner),
    }


def _ffns(layer: nn.Module) -> list[str]:
    """Return the paths of an FFN's outputs: several if several blocks add up."""
    paths = []
    for name in BLOCKS:
        if (block := get(layer, name)) is None:
            continue
        if name == EXPERTS or holds_experts(block):
            paths.append(name)
        elif found := next((out for out in FFN_OUTPUTS if get(block, out)), None):
            paths.append(f"{name}.{found}")
    return paths or [name for name in IN_LAYER if get(layer, name)]


def holds_experts(block: nn.Module) -> bool:
    """Whether a block of a layer is a mixture of experts."""
    return any(name.rpartition(".")[2] == EXPERTS for name, _ in block.named_modules())


def _takes_one_tensor(block: nn.Module) -> bool:
    """Whether a module takes hidden states alone (those of BLOOM and MPT add the residual)."""
    parameters = inspect.signature(type(block).forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) == 2  # self, hidden states


def refuse_wrapped(layer: nn.Module) -> None:
    """Raise `ModelError` when a module of `layer` does not compute with its `weight` as it is.

    These are quantised, adapted (LoRA) and parametrised modules, which the engine would take for
    plain ones.
    """
    for name, module in layer.named_modules():
        home = type(module).__module__
        kind = f"{home}.{type(module).__qualname__}"
        if parametrize.is_parametrized(module):
            raise ModelError(f"{name} in a decoder layer is parametrised ({kind})")
        if isinstance(module, nn.Linear | Conv1D) and not is_plain(module):
            wrapped = not home.startswith(("transformers.models.", "transformers_modules."))
        else:
            wrapped = home.partition(".")[0] in WRAPPING or home.startswith(OTHER_LINEARS)
        if wrapped:
            raise ModelError(
                f"{name} in a decoder layer is not a plain projection but {kind}: give the model "
                "without quantisation or adapters"
            )
