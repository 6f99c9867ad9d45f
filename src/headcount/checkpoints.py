"""Checkpoints as people have them -> a directory that loads fast, offline and completely.

`fetch` finds a model's source. What transformers' plain modules would not compute from it as it
lies is converted, once:

| source | becomes |
| --- | --- |
| a GGUF file | its weights in float32 |
| quantised weights (bitsandbytes, FP8, MXFP4, compressed-tensors...) | the same in float32 |
| an adapter (LoRA...) | its base model with the adapter merged, in float32 |
| a vision-language model | its text decoder, in the dtype that it is stored in |

`read` loads such a directory and refuses it unless every weight came from its files: transformers
by itself draws missing ones at random.
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

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

from headcount.families import ModelError

logger = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
# Prefixes that programs put before the names of a model's weights, and how to be rid of them.
WRAPPERS = {
    "_orig_mod.": "the model was compiled (torch.compile) when it was saved",
    "module.": "the model was wrapped for several GPUs (DataParallel) when it was saved",
    "_fsdp_wrapped_module.": "the model was sharded (FSDP) when it was saved",
    "base_model.model.": "the model was wrapped by peft when it was saved",
}
# Names of the weights that a model of images or sound has beside its text decoder.
OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|image|audio|speech|multi_modal|mm)(_|\.|$)")


@contextmanager
def told(what: str | Path) -> Iterator[None]:
    """Inside, what goes wrong in transformers becomes a `ModelError` that names `what`."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{what} brings code of its own. Read it, and let it run with the key "
                "trust_remote_code: true of the model, below models in the configuration"
            ) from error
        raise ModelError(f"{what} does not load: {error}") from error


# --- reading ---


def read(path: str | Path, trust_remote_code: bool = False, **placement):
    """The model in the directory `path` and its tokenizer, both as transformers makes them.

    `placement` is for `from_pretrained`: dtype, device_map, max_memory. With `device_map={"":
    "meta"}` names and shapes are compared and no weight is kept.

    Raises `ModelError` when it does not load, when weights are missing, superfluous or of another
    shape, and when it is of a kind that has to be converted before.
    """
    path = Path(path)
    with told(path):
        if (path / ADAPTER).is_file():
            raise ModelError(f"{path} is an adapter: resolve the model, which merges it")
        if method := quantisation(_config_dict(path)):
            raise ModelError(f"{path} is quantised ({method}): resolve the model, which undoes it")
        trust = {"trust_remote_code": trust_remote_code}
        hf = complete(AutoModelForCausalLM, path, **trust, **placement)
        tokenizer = AutoTokenizer.from_pretrained(path, **trust)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer in {path} has neither a BOS nor an EOS token, and lm-eval begins an "
            "empty context with one: name it as eos_token in tokenizer_config.json"
        )
    return hf, tokenizer


def complete(auto_class: type, path: Path, **loading) -> PreTrainedModel:
    """`auto_class.from_pretrained(path, **loading)`; raises `ModelError` unless it is complete."""
    hf, report = auto_class.from_pretrained(
        path, **loading, output_loading_info=True, ignore_mismatched_sizes=True
    )
    found = {
        "missing": report["missing_keys"],
        "superfluous": _not_of_the_text(hf, report["unexpected_keys"]),
        "of another shape": [
            f"{name} {list(stored)} instead of {list(shape)}"
            for name, stored, shape in report["mismatched_keys"]
        ],
        "not read": report["error_msgs"],
    }
    problems = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
    if problems:
        raise ModelError(
            f"the weights in {path} are not those of {type(hf).__name__}. {'; '.join(problems)}. "
            f"{_remedy(found)}"
        )
    return hf


def _not_of_the_text(hf: PreTrainedModel, names: Collection[str]) -> list[str]:
    """Of `names`, weights without a place in `hf`, those that matter.

    A text decoder taken out of a model of images or sound leaves the weights of the others.
    """
    return [name for name in names if not OTHER_SENSES.search(name)]


def _some(names: Collection[str], at_most: int = 3) -> str:
    shown = sorted(names)[:at_most]
    return ", ".join(shown) + (", ..." if len(names) > at_most else "")


def _remedy(found: dict[str, Collection[str]]) -> str:
    for prefix, why in WRAPPERS.items():
        if any(name.startswith(prefix) for name in found["superfluous"]):
            return f"Take the prefix {prefix!r} off the names: {why}"
    if set(found["missing"]) == {"lm_head.weight"}:
        return (
            "It was saved without its unembedding: save it whole, or with `tie_word_embeddings: "
            "true` in its config.json if it shares the embedding's weights"
        )
    return "Save it again from the model itself, or mend its config.json"


# --- finding ---


def fetch(source: str, revision: str | None, gguf_file: str | None) -> tuple[Path, str | None]:
    """The directory of a model's `source`, and its revision, pinned when it is the hub's.

    Of a hub model the snapshot is downloaded, or the GGUF file alone.
    """
    path = Path(source)
    if path.is_file():
        raise ModelError(
            f"models: source: {source} is a file: give the directory that it is in, and the name "
            "of a GGUF file as gguf_file"
        )
    if not path.is_dir():
        path = _download(source, revision, gguf_file)
        revision = path.name  # a snapshot's directory is named by its commit
    if gguf_file and not (path / gguf_file).is_file():
        _no_gguf(source, gguf_file, [str(p.relative_to(path)) for p in path.rglob("*.gguf")])
    return path, revision


def _download(source: str, revision: str | None, gguf_file: str | None) -> Path:
    """The hub's snapshot of `source`: weights as safetensors, or PyTorch's where there are none."""
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        raise ModelError(f"models: source: the directory {source} does not exist") from None
    other = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx/*", "original/*"]
    try:
        try:
            files = list_repo_files(source, revision=revision)
        except OfflineModeIsEnabled:
            files = []  # the cache holds what an earlier download chose
        if gguf_file:
            if files and gguf_file not in files:
                _no_gguf(source, gguf_file, [name for name in files if name.endswith(".gguf")])
            return Path(snapshot_download(source, revision=revision, allow_patterns=[gguf_file]))
        if any(name.endswith(".safetensors") for name in files):
            other.append("*.bin")
        other.append("*.gguf")
        return Path(snapshot_download(source, revision=revision, ignore_patterns=other))
    except ModelError:
        raise
    except Exception as error:  # of the hub, of the HTTP library, of the network
        raise ModelError(
            f"models: source: {source} is neither a directory that exists nor a model of the hub "
            f"that can be reached (revision {revision or 'main'}): {error}"
        ) from error


def _no_gguf(source: str, gguf_file: str, there: list[str]) -> None:
    raise ModelError(
        f"models: gguf_file: {gguf_file} is not in {source} (there: "
        f"{', '.join(sorted(there)) or 'no GGUF file'})"
    )


def configuration(
    source: str, revision: str | None, gguf_file: str | None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """The configuration of what `source` is studied as; of a local model no weight is read."""
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(source).is_dir() or gguf_file:
        source, where["revision"] = fetch(source, revision, gguf_file)
        if (source / ADAPTER).is_file():
            base = json.loads((source / ADAPTER).read_text())
            return configuration(*_base(source, base), None, trust_remote_code)
    with told(source):
        config = AutoConfig.from_pretrained(
            source, **where, **({"gguf_file": gguf_file} if gguf_file else {})
        )
    return config.get_text_config() if _has_text_decoder(config) else config


# --- converting ---


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
        elif method := quantisation(_config_dict(path)):
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


def _write(hf: PreTrainedModel, tokenizer, target: Path) -> None:
    """Save a model as one that was never quantised; the directory `target` appears when complete.

    transformers refuses to save one that remembers its quantisation.
    """
    config = hf.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(hf)(type(hf.config).from_dict(config))
    plain.load_state_dict(hf.state_dict(), assign=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        plain.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        shutil.rmtree(target, ignore_errors=True)
        beside.chmod(0o755)
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read_gguf(path: Path, gguf_file: str) -> tuple[PreTrainedModel, str]:
    loading = {"gguf_file": gguf_file, "dtype": torch.float32}
    return complete(AutoModelForCausalLM, path, **loading), f"dequantised (GGUF {gguf_file})"


def quantisation(config: dict) -> str | None:
    """How the weights of a model with this config.json are quantised; None if they are not."""
    for part in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            if part.get(key):
                return part[key].get("quant_method", "unknown method")
    return None


def _config_dict(path: Path) -> dict:
    return PreTrainedConfig.get_config_dict(path)[0]


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
            f"counterpart: {_some(stored ^ used)}"
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
