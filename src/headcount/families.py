"""Where model families keep their heads and FFNs: facts that transformers does not declare.

One table, `LAYOUTS`. A layout fits a model when every decoder layer has the modules that it names,
so that a family that is built like a tested one works without a line here. What fits none is
refused with what was looked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# Packages, and a part of transformers, whose modules compute with other weights than `weight`.
WRAPPING = ("peft", "bitsandbytes", "gptqmodel", "auto_gptq", "awq", "hqq", "optimum", "torchao")
OTHER_LINEARS = "transformers.integrations"


class ModelError(ValueError):
    """A model that does not load, or whose heads and FFNs cannot be found."""


# --- which outputs of the query, key and value projections belong to some heads ---
# Each function: kept query heads [H'], kept key-value heads [K'], head_dim, numbers of query and
# key-value heads -> indices of the outputs to keep, by the name of the projection.


def channels(heads: Tensor, head_dim: int) -> Tensor:
    """Indices [len(heads) * head_dim] of the channels of `heads`, which lie side by side."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _separate(heads: Tensor, kv_heads: Tensor, head_dim: int, *_) -> dict[str, Tensor]:
    of_kv_heads = channels(kv_heads, head_dim)
    return {"q_proj": channels(heads, head_dim), "k_proj": of_kv_heads, "v_proj": of_kv_heads}


def _gpt2(heads: Tensor, _kv: Tensor, head_dim: int, num_heads: int, *_) -> dict[str, Tensor]:
    blocks = [heads + block * num_heads for block in range(3)]  # queries, keys, values
    return {"c_attn": channels(torch.cat(blocks), head_dim)}


def _gpt_neox(heads: Tensor, _kv: Tensor, head_dim: int, *_) -> dict[str, Tensor]:
    return {"query_key_value": channels(heads, 3 * head_dim)}  # [head, (query, key, value), e]


@dataclass(frozen=True)
class Layout:
    """Dotted names, inside a decoder layer, of the modules that headcount touches."""

    families: tuple[str, ...]  # `model_type`s that the tests run
    attention: str  # the module that calls transformers' attention interface
    attention_output: str  # reads z of every head, writes to the residual stream
    ffn: tuple[str, ...]  # the modules that together are the FFN, in the order that they run in
    ffn_output: str  # the last projection
    # How to keep some heads of the query, key and value projections; None: always all of them.
    inputs: Callable[..., dict[str, Tensor]] | None = None
    # Attributes of the attention module that count heads or their outputs, if it has some.
    head_count: str | None = None
    output_count: str | None = None


LAYOUTS = (
    Layout(
        families=("opt",),
        attention="self_attn",
        attention_output="self_attn.out_proj",
        ffn=("fc1", "fc2"),
        ffn_output="fc2",
        inputs=_separate,
        head_count="num_heads",
    ),
    Layout(
        # phi3 projects queries, keys and values at once, by sizes it takes from its configuration:
        # it lacks what `inputs` names, and computes all of them.
        families=("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"),
        attention="self_attn",
        attention_output="self_attn.o_proj",
        ffn=("mlp",),
        ffn_output="mlp.down_proj",
        inputs=_separate,
    ),
    Layout(
        families=("phi",),
        attention="self_attn",
        attention_output="self_attn.dense",
        ffn=("mlp",),
        ffn_output="mlp.fc2",
        inputs=_separate,
    ),
    Layout(
        families=("gpt2",),
        attention="attn",
        attention_output="attn.c_proj",
        ffn=("mlp",),
        ffn_output="mlp.c_proj",
        inputs=_gpt2,
        output_count="split_size",
    ),
    Layout(
        families=("gpt_neox",),
        attention="attention",
        attention_output="attention.dense",
        ffn=("mlp",),
        ffn_output="mlp.dense_4h_to_h",
        inputs=_gpt_neox,
    ),
)
# A norm between the FFN's last projection and the residual stream, where a layer has one (Gemma 2
# and 3): what the FFN adds to the stream is what leaves it.
FFN_POST_NORM = "post_feedforward_layernorm"


@dataclass(frozen=True)
class Parts:
    """The modules of one decoder layer."""

    layer: nn.Module
    attention: nn.Module
    attention_output: nn.Module
    ffn: tuple[nn.Module, ...]
    ffn_output: nn.Module
    ffn_writes: nn.Module  # its output is what the FFN adds to the residual stream


def parts(layer: nn.Module, layout: Layout) -> Parts:
    """The modules that `layout` names in `layer`."""
    ffn = tuple(layer.get_submodule(name) for name in layout.ffn)
    post_norm = getattr(layer, FFN_POST_NORM, None)
    return Parts(
        layer=layer,
        attention=layer.get_submodule(layout.attention),
        attention_output=layer.get_submodule(layout.attention_output),
        ffn=ffn + ((post_norm,) if post_norm else ()),
        ffn_output=layer.get_submodule(layout.ffn_output),
        ffn_writes=post_norm or layer.get_submodule(layout.ffn_output),
    )


def decoder(hf: PreTrainedModel) -> tuple[str, Layout]:
    """Path of the list of decoder layers in `hf`, and the layout that fits them.

    Raises `ModelError`, which names what was looked for, when there is none: mixtures of experts,
    encoder-decoders and models without attention among them.
    """
    config = hf.config.get_text_config()
    name = f"{type(hf).__name__} ({config.model_type})"
    if config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder; headcount takes decoder-only models")
    if experts := [n for n, _ in hf.named_modules() if n.rsplit(".", 1)[-1] == "experts"]:
        raise ModelError(f"{name} is a mixture of experts ({experts[0]}), which is not supported")
    lists = {
        path: module
        for path, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    }
    for path, layers in lists.items():
        for layout in LAYOUTS:
            if all(has(layer, layout.attention_output) for layer in layers):
                if all(has(layer, layout.ffn_output) for layer in layers):
                    return path, layout
                looked_for = _named(lambda layout: layout.ffn_output)
                raise ModelError(
                    f"{name}: no FFN output projection in every layer of {path}; looked for "
                    f"{looked_for}"
                )
    looked_for = _named(lambda layout: layout.attention_output)
    raise ModelError(
        f"{name}: no list of {config.num_hidden_layers} decoder layers that each have an attention "
        f"output projection; looked for {looked_for}"
    )


def has(module: nn.Module, path: str) -> bool:
    """Whether `module` has a submodule at the dotted `path`."""
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _named(part: Callable[[Layout], str]) -> str:
    return ", ".join(dict.fromkeys(part(layout) for layout in LAYOUTS))


# --- projections: nn.Linear, or GPT-2's Conv1D whose weight is transposed ---


def refuse_wrapped(layer: nn.Module) -> None:
    """Raise `ModelError` when a module of `layer` does not compute with its `weight` as it is.

    Quantised, adapted (LoRA) and parametrised modules, which the sweep would take for plain ones.
    """
    for name, module in layer.named_modules():
        home = type(module).__module__
        kind = f"{home}.{type(module).__qualname__}"
        if is_parametrized(module):
            raise ModelError(f"{name} in a decoder layer is parametrised ({kind})")
        if isinstance(module, nn.Linear | Conv1D) and type(module) not in (nn.Linear, Conv1D):
            wrapped = not home.startswith(("transformers.models.", "transformers_modules."))
        else:
            wrapped = home.partition(".")[0] in WRAPPING or home.startswith(OTHER_LINEARS)
        if wrapped:
            raise ModelError(
                f"{name} in a decoder layer is no plain projection but {kind}: give the model "
                "without quantisation or adapters"
            )


def matrix(projection: nn.Module) -> Tensor:
    """Weight of a projection as [outputs, inputs]."""
    return projection.weight.T if isinstance(projection, Conv1D) else projection.weight
