"""Conversion of checkpoints to directories that transformers' plain modules can load.

Checkpoints that these cannot load as they are get converted once, when a model is resolved:

| checkpoint | becomes | and must compute the same as |
| --- | --- | --- |
| a GGUF file | its weights in float32 | transformers' reading of it |
| quantised weights (bitsandbytes, FP8...) | the same in float32 | the quantised model |
| an adapter (LoRA...) | its base model, merged, in float32 | peft without merging |
| a vision-language model | its text decoder, in the type of its weights | the whole model |

Before the new directory appears, it is loaded and its logits are compared on a few tokens. A
difference beyond rounding is refused, as is, by name, a checkpoint that transformers or peft cannot
convert. A quantised model that does not compute on this machine gets a warning instead. A method
that rounds activations too, as bitsandbytes does with 8 bits, is not imitated: only the weights are
those of the method.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
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

from headcount.artifacts import temporaries
from headcount.models import _weights, fingerprint
from headcount.models.checkpoints import (
    as_model_error,
    complete,
    config_dict,
    fetch,
    quantisation,
    read,
    some,
)
from headcount.models.families import ModelError
from headcount.models.fingerprint import ADAPTER, CheckpointError, weights

logger = logging.getLogger(__name__)

CEILING = 0.1  # standard deviations of the logits


@dataclass
class Converted:
    """A model to be written, and the logits that it must have."""

    hf: PreTrainedModel
    tokenizer: Any
    made: str  # description of the conversion
    logits: Tensor  # [2, T, vocabulary], for `_some_tokens`


def convert(
    path: Path, gguf_file: str | None, target: Path, trust_remote_code: bool = False
) -> tuple[Path, str | None]:
    """Return the directory to load for the checkpoint in `path`, and what was converted.

    A checkpoint that loads as it is stays in place; then the second result is None. Others are
    written to the directory `target`. Raises `ModelError` for a checkpoint that cannot be
    converted, or that then computes something else.
    """
    if trust_remote_code:
        _refuse_code_elsewhere(path)
    with as_model_error(path):
        converted = _convert(path, gguf_file, {"trust_remote_code": trust_remote_code})
        if converted is None:
            return path, None
        made = converted.made
        if target.resolve() == path.resolve():
            raise ModelError(f"{path} has to be converted ({made}) into a directory of its own")
        with temporaries.atomic_directory(target) as beside:
            _save(converted, beside)
            _compare(path, converted, beside, trust_remote_code)
            shutil.rmtree(target, ignore_errors=True)
    logger.warning("%s: %s, written to %s", path, made, target)
    return target, made


def _convert(path: Path, gguf_file: str | None, trust: dict) -> Converted | None:
    """Return the converted checkpoint in `path`; None if it loads as it is."""
    if gguf_file:
        return _read_gguf(path, gguf_file)
    if (path / ADAPTER).is_file():
        return _merge(path, trust)
    if method := quantisation(config_dict(path)):
        return _dequantise(path, method, trust)
    if _has_text_decoder(config := AutoConfig.from_pretrained(path, **trust)):
        return _text_decoder(path, config, trust)
    return None


def configuration(
    source: str, revision: str | None, gguf_file: str | None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Return the configuration under which `source` is studied; no local weight is read."""
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(source).is_dir() or gguf_file:
        path, where["revision"] = fetch(source, revision, gguf_file)
        if (path / ADAPTER).is_file():
            return configuration(*_base(path), None, trust_remote_code)
        source = str(path)
    with as_model_error(source):
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


# --- comparison with the source ---


def _rounding(dtype: torch.dtype) -> float:
    """Return by how many standard deviations logits may differ due to the order of arithmetic.

    It allows for 8,192 roundings, such as those of 64 layers of sums over 16,384 channels, whose
    errors add up like a random walk. The limit is a tenth, which short types reach.
    """
    return min(CEILING, 2**13 * torch.finfo(dtype).eps)


def _some_tokens(tokenizer: Any, vocabulary: int) -> Tensor:
    """Return two rows of ordinary tokens with an embedding [2, 16], the same at every call."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = sorted({i for i in tokenizer.get_vocab().values() if i < vocabulary} - special)
    drawn = torch.randint(len(ids), (2, 16), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ids)[drawn]


@torch.no_grad()
def _logits(hf: nn.Module, tokenizer: Any) -> Tensor:
    """Return logits [2, T, vocabulary] of `_some_tokens`."""
    hf.eval()
    tokens = _some_tokens(tokenizer, hf.get_input_embeddings().weight.shape[0])
    return hf(input_ids=tokens, use_cache=False).logits.float()


def _compare(path: Path, converted: Converted, written: Path, trust_remote_code: bool) -> None:
    """Raise `ModelError` unless what was written computes the logits of the source."""
    dtype = converted.hf.dtype
    del converted.hf  # else it would be in memory twice
    found = _logits(read(written, trust_remote_code, dtype=dtype)[0], converted.tokenizer)
    difference = (found - converted.logits).abs().max() / converted.logits.std()
    _refuse_another(path, converted.made, difference.item(), _rounding(dtype))


def _refuse_another(path: Path, made: str, difference: float, tolerance: float) -> None:
    """Raise `ModelError` if logits differ by more than `tolerance` of their standard deviation."""
    if not difference <= tolerance:  # nor when it is not a number
        raise ModelError(
            f"{path}, {made}, is another model: its logits differ by {difference:.2g} of their "
            f"standard deviation, and rounding explains {tolerance:.1g}. Convert it with the "
            "program that made it, and give the result as source"
        )


def _save(converted: Converted, directory: Path) -> None:
    """Save a dequantised model, which transformers itself refuses."""
    hf = converted.hf
    config = hf.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(hf)(type(hf.config).from_dict(config))
    plain.load_state_dict(hf.state_dict(), assign=True)
    plain.save_pretrained(directory)
    converted.tokenizer.save_pretrained(directory)


# --- kinds of conversion ---


def _read_gguf(path: Path, gguf_file: str) -> Converted:
    of_file = {"gguf_file": Path(gguf_file).name}
    with temporaries.Directory() as alone:  # transformers would read a tokenizer beside it
        Path(alone, of_file["gguf_file"]).symlink_to((path / gguf_file).resolve())
        try:
            hf = complete(AutoModelForCausalLM, Path(alone), **of_file, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(alone, **of_file)
        except Exception as error:  # from the library that reads it
            raise ModelError(
                f"{path / gguf_file} is cut short or damaged, or of a kind that transformers does "
                f"not read: {error}. Copy or download it again, or give the model that it was "
                "made from as source"
            ) from error
    made = f"dequantised (GGUF {gguf_file})"
    return Converted(hf, tokenizer, made, _logits(hf, tokenizer))


def _dequantise(path: Path, method: str, trust: dict) -> Converted:
    """Return the quantised model in `path` in float32, by the method that transformers has."""
    tokenizer = AutoTokenizer.from_pretrained(path, **trust)
    config = AutoConfig.from_pretrained(path, **trust)
    loading = {"dtype": torch.float32, "device_map": "cpu", **trust}
    try:
        quantised = _quantised_logits(path, tokenizer, loading)
        if hasattr(AutoQuantizationConfig.from_dict(config.quantization_config), "dequantize"):
            config.quantization_config["dequantize"] = True
            hf = complete(AutoModelForCausalLM, path, config=config, **loading)
        else:
            hf = complete(AutoModelForCausalLM, path, **loading).dequantize(torch.float32)
    except ModelError:
        raise
    except Exception as error:  # from transformers, or from the library of the method
        raise ModelError(
            f"{path} is quantised ({method}), and transformers cannot undo that here: {error}. "
            "Give the model that it was made from as source"
        ) from error
    made = f"dequantised ({method})"
    logits = _logits(hf, tokenizer)
    if quantised is not None:  # activations may be rounded: all logits differ, some a lot
        difference = (logits - quantised).square().mean().sqrt() / quantised.std()
        _refuse_another(path, made, difference.item(), CEILING)
    return Converted(hf, tokenizer, made, logits)


def _quantised_logits(path: Path, tokenizer: Any, loading: dict) -> Tensor | None:
    """Return the logits of the quantised model in `path`; None if its kernels do not run here."""
    try:
        return _logits(complete(AutoModelForCausalLM, path, **loading), tokenizer)
    except Exception as error:  # from the library of the method, or its compiler
        logger.warning(
            "%s: the quantised model does not run here (%s): the dequantised one cannot be "
            "compared with it",
            path,
            error,
        )
        return None


def _base(path: Path) -> tuple[str, str | None]:
    """Return source and revision of the base model of the adapter in `path`."""
    try:
        base = fingerprint.base(path)
    except CheckpointError as error:
        raise ModelError(str(error)) from None
    if not base:
        raise ModelError(f"{path / ADAPTER} does not say base_model_name_or_path")
    return base, fingerprint.read_json(path / ADAPTER).get("revision")


def _merge(path: Path, trust: dict) -> Converted:
    """Return the base model of the adapter in `path`, with the adapter merged into it."""
    base, revision = _base(path)
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise ModelError(
            f"{path} is an adapter of {base}: install peft, which merges it, or merge it yourself "
            "(`merge_and_unload`) and give what that saves as source"
        ) from error
    where, revision = fetch(base, revision, None)
    hf, tokenizer = read(where, **trust, dtype=torch.float32)
    if any(path.glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(path, **trust)
    adapted = PeftModel.from_pretrained(hf, path)
    stored = set(load_peft_weights(path, device="cpu"))
    used = set(get_peft_model_state_dict(adapted))
    if stored != used:
        raise ModelError(
            f"the adapter in {path} does not fit {base}: {len(stored ^ used)} weights have no "
            f"counterpart: {some(stored ^ used)}"
        )
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.active_peft_config.peft_type.value
        raise ModelError(
            f"the adapter in {path} ({kind}) cannot be merged into weights: give a model without it"
        )
    logits = _logits(adapted, tokenizer)
    tied = _untie(adapted)
    merged = adapted.merge_and_unload()
    if tied:
        _tie(merged)
    at = f"{base} at {revision}" if revision else base
    made = f"an adapter merged into {at}"
    return Converted(merged, tokenizer, made, logits)


def _untie(hf: nn.Module) -> bool:
    """Give each module weights of its own; return whether some were shared.

    An adapter changes only the weights of its module.
    """
    seen: set[int] = set()
    shared = False
    for module in hf.modules():
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(weight) in seen:
                setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
                shared = True
            seen.add(id(weight))
    return shared


def _tie(hf: PreTrainedModel) -> None:
    """Tie the unembedding to the embedding if they are still equal, and configure that."""
    head, embedding = hf.get_output_embeddings(), hf.get_input_embeddings()
    same = torch.equal(head.weight, embedding.weight)
    if same:
        head.weight = embedding.weight
    for config in (hf.config, hf.config.get_text_config()):
        config.tie_word_embeddings = same


def _has_text_decoder(config: PreTrainedConfig) -> bool:
    """Whether `config` describes a model that contains a causal language model."""
    text = config.get_text_config()
    return (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _text_decoder(path: Path, config: PreTrainedConfig, trust: dict) -> Converted:
    """Return the causal language model inside the vision-language model in `path`."""
    tokenizer = AutoTokenizer.from_pretrained(path, **trust)
    whole = complete(AutoModelForImageTextToText, path, dtype=_stored_type(path), **trust)
    logits = _logits(whole, tokenizer)
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    text = config.get_text_config()
    text.tie_word_embeddings = head.weight.data_ptr() == embedding.weight.data_ptr()
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(text, **trust)
    body = _first_of(type(decoder.base_model), whole)
    decoder.base_model.load_state_dict(body.state_dict(), assign=True)
    decoder.get_output_embeddings().load_state_dict(head.state_dict(), assign=True)
    made = f"the text decoder of {type(whole).__name__}"
    return Converted(decoder, tokenizer, made, logits)


def _stored_type(path: Path) -> torch.dtype:
    """Return the half-precision type that all weights are stored in, else float32.

    The configuration may name another type, which would round them.
    """
    try:
        tensors = [one for file in weights(path) for one in _weights.stored(file)]
    except ValueError:  # not safetensors
        return torch.float32
    for name, short in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        if {tensor.dtype for tensor in tensors} == {name}:
            return short
    return torch.float32


def _first_of(kind: type, whole: PreTrainedModel) -> nn.Module:
    for module in whole.modules():
        if type(module) is kind:
            return module
    raise ModelError(
        f"{type(whole).__name__} contains no {kind.__name__}: its text decoder cannot be extracted"
    )
