"""A tiny random model of every type of transformers' causal language models.

`config` shrinks the type's own configuration: every size that it has, by name (`SMALL`), its kinds
of layers one after the other, and what else a type needs (`EXCEPTIONS`). `variants` are what else a
type can be asked for: every switch of its configuration the other way, and unusual sizes.
"""

import inspect
import re

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 96
LAYERS = 3
SMALL = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    "decoder_layers": LAYERS,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    "decoder_attention_heads": 4,
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "v_head_dim", "query_pre_attn_scalar"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "mlp_hidden_size", "moe_intermediate_size", "ff_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    "hidden_size_per_layer_input": 8,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("ssm_state_size", "mamba_d_state", "state_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "sliding_window": 6,  # shorter than the prompts
    **dict.fromkeys(("bos_token_id", "eos_token_id"), 2),
    "pad_token_id": 1,
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "dropout", "activation_dropout"), 0.0),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob"), 0.0),
    "attention_probs_dropout_prob": 0.0,
    "is_decoder": True,
}
# Multi-head latent attention: only the rotary part of a head has positions.
LATENT = {"head_dim": 4, "num_key_value_heads": 4, "rope_parameters": None}
SPARSE = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 2}  # an indexer chooses keys
GROUPS = {"n_group": 1, "topk_group": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
GEMMA = {"num_kv_shared_layers": 2, "num_hidden_layers": 4}
GEMMA |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
HYBRID = ["linear_attention", "full_attention", "linear_attention"]
BYTES = {"vocab_size": 260, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
BYTES |= {"intermediate_size": 48, "cross_attn_k": 1, "hidden_size_global": 32}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 4, "image_size": 32, "crop_size": 32, "patch_size": 16}
INDEXED = {"layer_types": ["indexed_attention"] * LAYERS, "per_layer_config": {}}
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4}
INDEXER |= {"indexer_compress_ratio": 2, "ngram_vocab_size_base": 96, "ple_layer_ids": None}
ZAMBA = {"layers_block_type": ["hybrid", "linear_attention", "hybrid"]}
ZAMBA |= {"attention_hidden_size": 64, "attention_head_dim": 16}
EXCEPTIONS: dict[str, dict] = {
    "axk1": LATENT | GROUPS,
    "axk2": LATENT | GROUPS | SPARSE,
    "bailing_hybrid": LATENT | GROUPS | {"layer_types": HYBRID},
    "blt": {
        "patcher_config": BYTES,
        "encoder_config": BYTES,
        "decoder_config": BYTES,
        "global_config": BYTES,
        "encoder_hash_byte_group_vocab": 64,
    },
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "beam": GROUPS,
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * LAYERS,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": LATENT | {"topk_group": None, "n_group": None},
    "deepseek_v3": LATENT | GROUPS,
    "deepseek_v32": LATENT | GROUPS | SPARSE,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": LATENT | SPARSE | INDEXED,
    "dots3_note_text": LATENT | SPARSE | INDEXED,
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "gemma3n": GEMMA | {"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
    "gemma3n_text": GEMMA | {"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
    "git": {"vision_config": VISION},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT | SPARSE,
    "gpt_neo": {
        "attention_types": [[["global", "local", "global"], 1]],
        "attention_layers": ["global", "local", "global"],
    },
    "granitemoehybrid": MAMBA | {"layer_types": HYBRID},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LATENT | GROUPS,
    "laguna": {"num_attention_heads_per_layer": [4, 2, 4]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": LATENT | {"qk_head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": LATENT,
    "mpt": {"max_seq_len": 256},  # a window of 2,048 tokens, lm-eval says
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "chunk_size": 8, "n_groups": 1},
    "phi4_multimodal": {
        "vision_config": VISION,
        "audio_config": {"hidden_size": 32, "num_blocks": 1, "num_attention_heads": 2}
        | {"intermediate_size": 48, "ext_pw_out_channel": 32, "nemo_conv_channels": 8}
        | {"depthwise_separable_out_channel": 32},
    },
    "qwen4_exp": INDEXER,
    "qwen4_exp_text": INDEXER,
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8},
    "roc_bert": {"pronunciation_vocab_size": 96, "shape_vocab_size": 96},
    "xlnet": {"d_head": 8},
    "xlstm": {"embedding_dim": 32, "num_blocks": LAYERS},
    "xmod": {"default_language": "en_XX"},
    "youtu": LATENT,
    "zamba": ZAMBA,
    "zamba2": ZAMBA | {"mamba_headdim": 8, "hybrid_layer_ids": [0, 2]},
    "zaya": {"num_experts_per_tok": 1},
}


# Drafts of a larger model, whose keys and values every layer reads: none is built by itself.
NOT_BUILT = dict.fromkeys(
    ("gemma4_assistant", "gemma4_unified_assistant"), "a draft of a larger model, not tried"
)


# Switches that decide nothing of what a decoder computes from its tokens.
NO_SWITCHES = re.compile(
    "output_|return_dict|is_decoder|is_encoder|use_cache|add_cross|summary_|classifier_|.*mamba_kernels|.*mambapy"
    "|rescale_prenorm|.*associative_scan|disable_ngram|apply_spec|.*_prompt|use_weighted_layer"
)
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups")
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_num_active_primary_experts", "moe_k", "top_k_experts")
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "sliding_window_size")
SIZES = {
    "three query heads to a key-value head": dict.fromkeys(HEADS, 6)
    | dict.fromkeys(KEY_VALUE_HEADS, 2)
    | dict.fromkeys(WIDTHS, 48),
    "one head": dict.fromkeys((*HEADS, *KEY_VALUE_HEADS), 1),
    "heads wider than the stream": {"head_dim": 12},
    "windows of three tokens": dict.fromkeys(WINDOWS, 3) | {"use_sliding_window": True},
    "half of a head rotated": dict.fromkeys(("partial_rotary_factor", "rotary_pct"), 0.5),
    "one expert": dict.fromkeys((*EXPERTS, *CHOSEN), 1),
    "another epsilon": dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "norm_eps"), 0.1),
}
# Numbers by a part of their names, and what they become.
SCALES = {
    "soft caps": (("softcap", "soft_cap"), lambda _: 2.0),
    "multipliers": (
        (
            "multiplier",
            "scaling",
            "_factor",
            "logit_scale",
            "route_scale",
            "scale_emb",
            "attn_scale",
        ),
        lambda value: 0.7 * value,
    ),
}


def variants(model_type: str) -> dict[str, dict]:
    """Settings of a type that are not those of `config`, by what is unusual about them."""
    small = config(model_type)
    values = small.to_dict()
    known = {*values, *type(small).attribute_map}
    found = {
        f"{name}: {not value}": {name: not value}
        for name, value in values.items()
        if isinstance(value, bool) and not NO_SWITCHES.match(name)
    }
    for what, settings in SIZES.items():
        here = {name: value for name, value in settings.items() if name in known}
        if any(values.get(name) != value for name, value in here.items()):
            found[what] = here
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        found["half of a head rotated"] = {"rope_parameters": rope | {"partial_rotary_factor": 0.5}}
    for what, (parts, scaled) in SCALES.items():
        here = {
            name: scaled(value)
            for name, value in values.items()
            if any(part in name for part in parts) and (what == "soft caps" or type(value) is float)
        }
        if here:
            found[what] = here
    return found


def config(model_type: str, **settings) -> PreTrainedConfig:
    """A small configuration of a type, of its text decoder where it has more; with `settings`."""
    default = CONFIG_MAPPING[model_type]()
    # Where there are several, the decoder is the one that generates.
    text = getattr(default, "decoder", None) or default.get_text_config()
    names = {*text.to_dict(), *type(text).attribute_map}
    values = text.to_dict() | {name: value for name, value in SMALL.items() if name in names}
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if kinds := list(dict.fromkeys(values.get(name) or ())):
            values[name] = (kinds * LAYERS)[:LAYERS]
    values |= EXCEPTIONS.get(model_type, {}) | settings
    for alias, name in type(text).attribute_map.items():
        if alias in values:
            values[name] = values.pop(alias)
    for name in ("model_type", "transformers_version", "architectures"):
        values.pop(name, None)
    settable = {
        name: value
        for name, value in values.items()
        if not isinstance(inspect.getattr_static(type(text), name, None), property)
    }
    return type(text)(**settable)


def build(model_type: str, **settings) -> PreTrainedModel:
    """A random model of a type, whose weights are large, so that every part has an effect.

    `settings` change its configuration.
    """
    torch.manual_seed(0)
    small, eager = config(model_type, **settings), {"attn_implementation": "eager"}
    if type(small) in AutoModelForCausalLM._model_mapping:
        hf = AutoModelForCausalLM.from_config(small, **eager).eval()
    else:  # the text decoder of a model that is more
        name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        hf = getattr(transformers, name)._from_config(small, **eager).eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
            else:
                one = "norm" in name and name.endswith("weight") and parameter.mean() > 0.5
                parameter.normal_(float(one), 0.1)
    return hf


# Right, whatever else is refused.
RIGHT = {
    *(
        "gpt2",
        "gptj",
        "gpt_neo",
        "gpt_neox",
        "opt",
        "bloom",
        "falcon",
        "mpt",
        "codegen",
        "stablelm",
    ),
    *("llama", "llama4", "llama4_text", "mistral", "mixtral", "gemma", "gemma2", "gemma3"),
    *("gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "qwen2", "qwen2_moe"),
    *("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe", "olmo", "olmo2", "olmo3"),
    *("olmoe", "phi", "phi3", "phimoe", "starcoder2", "gpt_bigcode", "cohere", "cohere2"),
    *("granite", "granite_swa", "granitemoe", "granitemoe_swa", "nemotron", "deepseek_v2"),
    *("deepseek_v3", "gpt_oss", "smollm3", "exaone4", "glm4", "glm4_moe", "persimmon", "xglm"),
    *("bitnet", "lfm2", "modernbert-decoder", "nanochat"),
}
