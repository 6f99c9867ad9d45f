"""Finding a checkpoint, and reading it whole.

`fetch` finds the directory of a model's source. `read` loads a directory with transformers and
refuses it unless every weight came from its files: transformers would initialise missing ones at
random.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from headcount.models.families import ModelError
from headcount.models.fingerprint import ADAPTER, damages

# Prefixes that programs put before the names of a model's weights, and why.
WRAPPERS = {
    "_orig_mod.": "the model was compiled (torch.compile) when it was saved",
    "module.": "the model was wrapped for several GPUs (DataParallel) when it was saved",
    "_fsdp_wrapped_module.": "the model was sharded (FSDP) when it was saved",
    "base_model.model.": "the model was wrapped by peft when it was saved",
}
# Names of weights for images or sound, beside a text decoder.
OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|image|audio|speech|multi_modal|mm)(_|\.|$)")


@contextmanager
def as_model_error(what: str | Path) -> Iterator[None]:
    """Raise `ModelError` that names `what` for any error in transformers."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # from transformers, and the libraries that read its files
        if found := damages(Path(what)):
            raise ModelError("; ".join(found)) from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{what} has code of its own. Read it, then allow it: trust_remote_code: true "
                "(config key `models`)"
            ) from error
        raise ModelError(f"{what} does not load: {error}") from error


# --- reading ---


def read(path: str | Path, trust_remote_code: bool = False, **placement: Any) -> Any:
    """Return the model in the directory `path` and its tokenizer, as transformers loads them.

    `placement` is for `from_pretrained`: dtype, device_map, max_memory. With `device_map={"":
    "meta"}` names and shapes are compared and no weight is kept.

    Raises `ModelError` when it does not load, when weights are missing, superfluous or of another
    shape, and when it has to be converted first.
    """
    path = Path(path)
    with as_model_error(path):
        if (path / ADAPTER).is_file():
            raise ModelError(f"{path} is an adapter: resolve the model, which merges it")
        if method := quantisation(config_dict(path)):
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


def complete(auto_class: type[AutoModelForCausalLM], path: Path, **loading: Any) -> PreTrainedModel:
    """Return `auto_class.from_pretrained(path, **loading)`; raise `ModelError` if incomplete."""
    hf, report = auto_class.from_pretrained(
        path, **loading, output_loading_info=True, ignore_mismatched_sizes=True
    )
    if "disk" in getattr(hf, "hf_device_map", {}).values():
        # transformers does not compare shapes of weights that it leaves on disk.
        complete(auto_class, path, **loading | {"device_map": {"": "meta"}, "max_memory": None})
    found = {
        "missing": report["missing_keys"],
        "superfluous": _of_the_text(report["unexpected_keys"]),
        "of another shape": [
            f"{name} {list(stored)} instead of {list(shape)}"
            for name, stored, shape in report["mismatched_keys"]
        ],
        "not read": report["error_msgs"],
    }
    problems = [f"{len(names)} {what}: {some(names)}" for what, names in found.items() if names]
    if problems:
        raise ModelError(
            f"the weights in {path} are not those of {type(hf).__name__}. {'; '.join(problems)}. "
            f"{_remedy(found)}"
        )
    return hf


def _of_the_text(names: Collection[str]) -> list[str]:
    """Return those of `names` that are not weights for images or sound.

    transformers extracts the text decoder from some models; the other weights are unexpected there.
    """
    return [name for name in names if not OTHER_SENSES.search(name)]


def some(names: Collection[str], at_most: int = 3) -> str:
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
    return "Save it again from the model itself, or fix its config.json"


def quantisation(config: dict) -> str | None:
    """Return how a model with this config.json is quantised; None if it is not."""
    for part in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            if part.get(key):
                return part[key].get("quant_method", "unknown method")
    return None


def config_dict(path: Path) -> dict:
    return PreTrainedConfig.get_config_dict(path)[0]


# --- finding ---


def fetch(source: str, revision: str | None, gguf_file: str | None) -> tuple[Path, str | None]:
    """Return the directory of a model's `source`, and its revision, pinned for a hub model.

    The snapshot of a hub model is downloaded, or its GGUF file alone.
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


def place(facts: dict, home: Path) -> Path:
    """Return the directory of a model that was resolved before, by its `facts` in `home`.

    A converted model is in `home` too. A hub model is looked for in the hub's cache, without
    network, before it is downloaded again.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if facts["converted"]:
        return home / facts["path"]
    if Path(facts["source"]).is_dir():
        return Path(facts["source"])
    try:
        snapshot = {"revision": facts["revision"], "local_files_only": True}
        return Path(snapshot_download(facts["source"], **snapshot))
    except LocalEntryNotFoundError:
        return fetch(facts["source"], facts["revision"], None)[0]


def _download(source: str, revision: str | None, gguf_file: str | None) -> Path:
    """Return the hub's snapshot of `source`, with safetensors or, without these, torch's files."""
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
            files = []  # the cache has what an earlier download chose
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
    except Exception as error:  # from the hub, the HTTP library, the network
        raise ModelError(
            f"models: source: {source} is neither a directory that exists nor a model of the hub "
            f"that can be reached (revision {revision or 'main'}): {error}"
        ) from error


def _no_gguf(source: str, gguf_file: str, there: list[str]) -> None:
    raise ModelError(
        f"models: gguf_file: {gguf_file} is not in {source} (there: "
        f"{', '.join(sorted(there)) or 'no GGUF file'})"
    )
