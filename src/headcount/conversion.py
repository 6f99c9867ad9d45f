"""Checkpoints of many kinds -> directories that transformers' plain modules compute from.

What they would not compute from a checkpoint as it lies is converted once, when it is resolved:

| checkpoint | becomes |
| --- | --- |
| a GGUF file | its weights in float32 |
| quantised weights (bitsandbytes, FP8, MXFP4, compressed-tensors...) | the same in float32 |
| an adapter (LoRA...) | its base model with the adapter merged, in float32 |
| a vision-language model | its text decoder, in the dtype that it is stored in |

What transformers, or peft, cannot convert is refused by name. A method that rounds activations too,
as bitsandbytes' 8 bits do, is not imitated: only weights are what it made of them.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.quantizers.auto import AutoQuantizationConfig

from headcount import temporaries
from headcount.checkpoint_files import ADAPTER
from headcount.checkpoints import (
    complete,
    config_dict,
    fetch,
    quantisation,
    read,
    some,
    told,
)
from headcount.families import ModelError

logger = logging.getLogger(__name__)


def convert(
    path: Path, gguf_file: str | None, target: Path, trust_remote_code: bool = False
) -> tuple[Path, str | None]:
    """The directory to load for the checkpoint in `path`, and what it is if it is converted.

    A checkpoint that loads as it lies is left there. Others are written to the directory `target`.
    Raises `ModelError` for what cannot be converted.
    """
    trust = {"trust_remote_code": trust_remote_code}
    if trust_remote_code:
        _refuse_code_elsewhere(path)
    with told(path):
        if gguf_file:
            hf, made = _read_gguf(path, gguf_file)
            tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=gguf_file)
        elif (path / ADAPTER).is_file():
            hf, tokenizer, made = _merge(path, trust_remote_code)
        elif method := quantisation(config_dict(path)):
            hf, made = _dequantise(path, method, trust), f"dequantised ({method})"
            tokenizer = AutoTokenizer.from_pretrained(path, **trust)
        elif _has_text_decoder(config := AutoConfig.from_pretrained(path, **trust)):
            hf, made = _text_decoder(path, config, trust)
            tokenizer = AutoTokenizer.from_pretrained(path, **trust)
        else:
            return path, None
        if target.resolve() == path.resolve():
            raise ModelError(f"{path} has to be converted ({made}) into a directory of its own")
        _write(hf, tokenizer, target)
    logger.warning("%s: %s, written to %s", path, made, target)
    return target, made


def configuration(
    source: str, revision: str | None, gguf_file: str | None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """The configuration of what `source` is studied as; of a local model no weight is read."""
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(source).is_dir() or gguf_file:
        path, where["revision"] = fetch(source, revision, gguf_file)
        if (path / ADAPTER).is_file():
            base = json.loads((path / ADAPTER).read_text())
            return configuration(*_base(path, base), None, trust_remote_code)
        source = str(path)
    with told(source):
        config = AutoConfig.from_pretrained(
            source, **where, **({"gguf_file": gguf_file} if gguf_file else {})
        )
    return config.get_text_config() if _has_text_decoder(config) else config


def _refuse_code_elsewhere(path: Path) -> None:
    """Raise `ModelError` when the checkpoint runs code that is not pinned with it."""
    for file in (path / "config.json", path / "tokenizer_config.json"):
        described = json.loads(file.read_text()) if file.is_file() else {}
        for name in str(described.get("auto_map", "")).split("'"):
            if "--" in name:
                raise ModelError(
                    f"{file} names code of another repository, {name}: copy the code into {path} "
                    "and take what stands before -- off the name"
                )


def _write(hf: PreTrainedModel, tokenizer: Any, target: Path) -> None:
    """Save a model as one that was never quantised; the directory `target` appears when complete.

    transformers refuses to save one that remembers its quantisation.
    """
    config = hf.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(hf)(type(hf.config).from_dict(config))
    plain.load_state_dict(hf.state_dict(), assign=True)
    with temporaries.appearing(target) as beside:
        plain.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        shutil.rmtree(target, ignore_errors=True)


def _read_gguf(path: Path, gguf_file: str) -> tuple[PreTrainedModel, str]:
    loading = {"gguf_file": gguf_file, "dtype": torch.float32}
    return complete(AutoModelForCausalLM, path, **loading), f"dequantised (GGUF {gguf_file})"


def _dequantise(path: Path, method: str, trust: dict) -> PreTrainedModel:
    """The quantised model in `path` in float32, by whichever of transformers' ways there is."""
    config = AutoConfig.from_pretrained(path, **trust)
    loading = {"config": config, "dtype": torch.float32, "device_map": "cpu", **trust}
    try:
        if hasattr(AutoQuantizationConfig.from_dict(config.quantization_config), "dequantize"):
            config.quantization_config["dequantize"] = True
            return complete(AutoModelForCausalLM, path, **loading)
        return complete(AutoModelForCausalLM, path, **loading).dequantize(torch.float32)
    except ModelError:
        raise
    except Exception as error:  # of transformers, or of the library of the method
        raise ModelError(
            f"{path} is quantised ({method}), and transformers cannot undo that here: {error}. "
            "Give the model that it was made from as source"
        ) from error


def _base(path: Path, adapter: dict) -> tuple[str, str | None]:
    """Source and revision of the model that the adapter in `path` was trained on."""
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{path / ADAPTER} does not say base_model_name_or_path")
    return base, adapter.get("revision")


def _merge(path: Path, trust_remote_code: bool) -> tuple[PreTrainedModel, object, str]:
    """The base model of the adapter in `path` with the adapter merged into its weights."""
    base, revision = _base(path, json.loads((path / ADAPTER).read_text()))
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise ModelError(
            f"{path} is an adapter of {base}: install peft, which merges it, or merge it yourself "
            "(`merge_and_unload`) and give what that saves as source"
        ) from error
    where, revision = fetch(base, revision, None)
    hf, tokenizer = read(where, trust_remote_code, dtype=torch.float32)
    if any(path.glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    adapted = PeftModel.from_pretrained(hf, path)
    stored = set(load_peft_weights(path, device="cpu"))
    used = set(get_peft_model_state_dict(adapted))
    if stored != used:
        raise ModelError(
            f"the adapter in {path} does not fit {base}: {len(stored ^ used)} weights have no "
            f"counterpart: {some(stored ^ used)}"
        )
    at = f"{base} at {revision}" if revision else base
    return adapted.merge_and_unload(), tokenizer, f"an adapter merged into {at}"


def _has_text_decoder(config: PreTrainedConfig) -> bool:
    """Whether a causal language model is one part of what `config` describes."""
    text = config.get_text_config()
    return (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _text_decoder(path: Path, config: PreTrainedConfig, trust: dict) -> tuple[PreTrainedModel, str]:
    """The causal language model inside the vision-language model in `path`."""
    whole = complete(AutoModelForImageTextToText, path, dtype="auto", **trust)
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    text = config.get_text_config()
    text.tie_word_embeddings = head.weight.data_ptr() == embedding.weight.data_ptr()
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(text, **trust)
    body = _first_of(type(decoder.base_model), whole)
    decoder.base_model.load_state_dict(body.state_dict(), assign=True)
    decoder.get_output_embeddings().load_state_dict(head.state_dict(), assign=True)
    return decoder, f"the text decoder of {type(whole).__name__}"


def _first_of(kind: type, whole: PreTrainedModel) -> nn.Module:
    for module in whole.modules():
        if type(module) is kind:
            return module
    raise ModelError(
        f"no {kind.__name__} in {type(whole).__name__}: its text decoder is no model of its own"
    )
