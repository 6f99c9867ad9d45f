"""The identity of a checkpoint, by its files and without transformers.

Everything counts that transformers, or peft, would compute with: the weights, by name and content;
the content of configuration and tokenizer, however it is written; the meaning of the checkpoint's
own code. The location of the directory, other files in it, and the distribution of weights over
files do not count.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from headcount.artifacts import hashes
from headcount.artifacts.hashes import file_hashes
from headcount.artifacts.source_code import reached
from headcount.models import _weights

CONFIG, ADAPTER = "config.json", "adapter_config.json"
CONVERTED = "checkpoint-"  # prefix of the directories of converted checkpoints
# Files of weights in transformers' order: the first that exists is read. peft's for an adapter.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Other files that transformers opens in a checkpoint without code: those that tokenizer classes
# name in `vocab_files_names`, and their versions.
OPENED = re.compile(
    r"config\.json|adapter_config\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|tokenizer(\.\d[\d.]*)?\.json|tekken\.json|normalizer\.json|emoji\.json"
    r"|(entity_)?vocab(-src|-tgt)?\.json|target_vocab\.json|byte_maps\.json"
    r"|word_(shape|pronunciation)\.json|vocab\.txt|merges\.txt|dict\.txt|bpe\.codes"
    r"|(tokenizer|spiece|sentencepiece(\.bpe)?|spm(_char)?|tiktoken)\.model|tokenizer\.model\.v\d+\w*"
    r"|(source|target)\.spm|prophetnet\.tokenizer"
)
# Code may open any file. In a checkpoint with code, all files count except these, which certainly
# decide no number, by the ends of their names in lower case.
NO_MODEL = (
    # Weights that are read count by their content. Others are for other programs, or the state of
    # an optimiser, a schedule or a random generator; an index maps weights to files.
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf"),
    *(".onnx_data", ".tflite", ".npz", ".pkl", ".index.json"),
    # Documentation and pictures.
    *(".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".html", ".ipynb"),
    *("license", "license.txt", "notice", "notice.txt", "use_policy", "modelcard.json"),
    # Records of training and evaluation.
    *("trainer_state.json", "_results.json", ".log"),
    # Code counts if the configuration names it.
    ".py",
    # Settings of generation, and templates of chats: log-likelihoods of prompts use neither.
    *("generation_config.json", ".jinja"),
)
# Hidden files (.gitattributes, .cache), and TensorBoard's.
NO_MODEL_BEGINNINGS = (".", "events.out.tfevents")
# JSON files that are read key by key; others count as a whole.
READ = (CONFIG, ADAPTER, "tokenizer_config.json", "special_tokens_map.json")
# Keys of a configuration, nested ones too, that decide no number: who wrote it and where it was
# loaded from; a cache that is not used; a data type, which the study sets.
SILENT = {"_name_or_path", "_commit_hash", "transformers_version", "use_cache", "dtype"}
SILENT |= {"torch_dtype"}
QUANTISED = ("quantization_config", "compression_config")  # all of their keys count
# The same for a tokenizer's configuration: chat templates and paths.
SILENT_OF_TOKENIZERS = {"chat_template", "name_or_path", "special_tokens_map_file"}


class CheckpointError(OSError):
    """The files of a checkpoint contradict each other; the message names them and the remedy."""


def fingerprint(directory: str | Path, gguf_file: str | None = None) -> str:
    """Return the SHA-256 of the model in `directory`: weights, configuration, tokenizer and code.

    With `gguf_file`, only that file counts. If the base model of an adapter is a directory, both
    count. Large files are not read again while they are unchanged (`headcount.artifacts.hashes`).

    Raises `OSError` when the directory or a file cannot be read, `CheckpointError` as `base` does.
    """
    directory = Path(directory)
    if gguf_file:
        return file_hashes([directory / gguf_file])[0]
    files = [path for path in sorted(directory.iterdir()) if path.is_file()]
    said = {path.name: _said(path) for path in files if path.name in READ}
    if ADAPTER in said:
        of = base(directory)
        said[ADAPTER]["base_model_name_or_path"] = (
            fingerprint(of) if of and Path(of).is_dir() else of
        )
    code = _code(directory, said)
    others = [
        path
        for path in files
        if path.name not in READ and (OPENED.fullmatch(path.name) or (code and not _no_model(path)))
    ]
    meaning = {
        "weights": _weights.content(weights(directory)),
        "said": said,
        "others": _others(others),
        "code": code,
    }
    return _hash(meaning)


def base(directory: Path) -> str | None:
    """Return the base model that the adapter in `directory` names: a directory or a hub name.

    Raises `CheckpointError` when that is an adapter too.
    """
    of = read_json(directory / ADAPTER).get("base_model_name_or_path")
    if not of or not Path(of, ADAPTER).is_file():
        return of
    if Path(of).resolve() == directory.resolve():
        raise CheckpointError(
            f"{directory} is an adapter of the model in the same directory: move {ADAPTER} and "
            "adapter_model.* to a directory of their own, and give that one for the model with the "
            "adapter, this one for the model without it"
        )
    raise CheckpointError(
        f"{directory} is an adapter of {of}, which is an adapter itself: merge that one with peft "
        f"(`merge_and_unload`), and name what it saves as base_model_name_or_path in "
        f"{directory / ADAPTER}"
    )


def weights(directory: Path) -> list[Path]:
    """Return the files of weights that would be loaded from `directory`, if they exist."""
    names = ADAPTER_WEIGHTS if (directory / ADAPTER).is_file() else WEIGHTS
    if chosen := read_json(directory / "config.json").get("transformers_weights"):
        names = (chosen, *names)
    first = next((name for name in names if (directory / name).is_file()), None)
    if first is None:
        return []
    if not first.endswith(".index.json"):
        return [directory / first]
    return [path for path in shards(directory / first) if path.is_file()]


def shards(index: Path) -> list[Path]:
    """Return the files that an index of weights names."""
    named = read_json(index).get("weight_map") or {}
    return [index.parent / name for name in sorted({*named.values()})]


def damages(directory: Path, gguf_file: str | None = None) -> list[str]:
    """Return what is wrong with the files of a checkpoint: a sentence for each, with its remedy.

    Nothing if `directory` is not a directory.
    """
    if not directory.is_dir():
        return []
    if gguf_file:
        files = [directory / gguf_file]
    else:
        opened = [path for path in sorted(directory.iterdir()) if OPENED.fullmatch(path.name)]
        indices = [directory / name for name in WEIGHTS if name.endswith(".index.json")]
        files = [path for path in (*opened, *indices) if path.is_file()] + weights(directory)
    return [problem for path in files if (problem := _weights.damage(path))]


# --- meaning ---


def _no_model(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(NO_MODEL) or name.startswith(NO_MODEL_BEGINNINGS)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; {} if it is not valid, which loading will report."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _said(path: Path) -> dict[str, Any]:
    """Return the keys of a configuration that decide numbers; a hash if it is not JSON."""
    content = read_json(path)
    if not content:
        return {"not parsed": file_hashes([path])[0]}
    if path.name in (CONFIG, ADAPTER):
        return _without(content, SILENT)
    return {key: value for key, value in content.items() if key not in SILENT_OF_TOKENIZERS}


def _without(config: dict[str, Any], silent: set[str]) -> dict[str, Any]:
    """Return a configuration, and its nested ones, without the `silent` keys."""
    return {
        key: _without(value, silent)
        if key.endswith("_config") and key not in QUANTISED and isinstance(value, dict)
        else value
        for key, value in config.items()
        if key not in silent
    }


def _hash(content: Any) -> str:
    """Return the SHA-256 of JSON content, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _meaning(path: Path) -> str:
    """Return the SHA-256 of a JSON file's content, or of its bytes if it is not JSON."""
    try:
        return _hash(json.loads(path.read_bytes()))
    except ValueError:
        return hashes.read(path)


def _others(paths: list[Path]) -> dict[str, str]:
    """Return hashes of further files by name; a large vocabulary is parsed once."""
    memory = hashes.Memory()
    found = {
        path.name: memory.recall(path, "parsed ", _meaning, above=2**20)
        if path.suffix == ".json"
        else memory.recall(path, "", hashes.read)
        for path in paths
    }
    memory.save()
    return found


def _code(directory: Path, said: dict[str, dict]) -> str | None:
    """Return the meaning of the checkpoint's own code, from the modules that its files name."""
    maps = [content.get("auto_map") or {} for content in said.values()]
    listed = [one if isinstance(one, list) else [one] for each in maps for one in each.values()]
    names = {name.rpartition(".")[0] for several in listed for name in several if name}
    modules = [(directory, name) for name in sorted(names) if "--" not in name]
    try:
        return reached(modules).hash() if modules else None
    except SyntaxError as error:  # loading it will report this
        return f"{error.msg}: {error.text}"
