"""What a checkpoint is, told from its files without importing transformers.

What counts is what transformers, or peft, would compute with: the weights, each by its name and
content; what the configuration and the tokenizer say, however it is written; code of the
checkpoint's own, by its meaning. Not: where the directory lies, what else lies in it, or how the
weights are distributed over files.
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
CONVERTED = "checkpoint-"  # begins the names of directories that converted checkpoints lie in
# The weights that are read, in transformers' order: the first that is there. peft's for an adapter.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Beside these, the files that transformers opens of a checkpoint that brings no code: those that
# the classes of tokenizers name in `vocab_files_names`, of each also its versions.
OPENED = re.compile(
    r"config\.json|adapter_config\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|tokenizer(\.\d[\d.]*)?\.json|tekken\.json|normalizer\.json|emoji\.json"
    r"|(entity_)?vocab(-src|-tgt)?\.json|target_vocab\.json|byte_maps\.json"
    r"|word_(shape|pronunciation)\.json|vocab\.txt|merges\.txt|dict\.txt|bpe\.codes"
    r"|(tokenizer|spiece|sentencepiece(\.bpe)?|spm(_char)?|tiktoken)\.model|tokenizer\.model\.v\d+\w*"
    r"|(source|target)\.spm|prophetnet\.tokenizer"
)
# Code may open what it likes: with it, all counts but what decides no number for sure, by the ends
# of names in lower case.
NO_MODEL = (
    # Weights count where they are read. Others are for other programs, or the state of an
    # optimiser, a schedule, a random generator; an index tells in which file a weight is.
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf"),
    *(".onnx_data", ".tflite", ".npz", ".pkl", ".index.json"),
    # Documentation and pictures.
    *(".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".html", ".ipynb"),
    *("license", "license.txt", "notice", "notice.txt", "use_policy", "modelcard.json"),
    # What training and evaluating wrote down.
    *("trainer_state.json", "_results.json", ".log"),
    # Code counts where the configuration names it.
    ".py",
    # How text is generated, and chats are written: log-likelihoods of prompts know neither.
    *("generation_config.json", ".jinja"),
)
# Hidden files (.gitattributes, .cache), and TensorBoard's.
NO_MODEL_BEGINNINGS = (".", "events.out.tfevents")
# Read one by one. Of other JSON files what they say counts as a whole.
READ = (CONFIG, ADAPTER, "tokenizer_config.json", "special_tokens_map.json")
# What decides no number of a configuration, and of those in it: who wrote it and from where it was
# loaded; a cache that is not used; a data type, which the study names.
SILENT = {"_name_or_path", "_commit_hash", "transformers_version", "use_cache", "dtype"}
SILENT |= {"torch_dtype"}
QUANTISED = ("quantization_config", "compression_config")  # in which all counts
# And of what a tokenizer's configuration says: how chats are written, and its places.
SILENT_OF_TOKENIZERS = {"chat_template", "name_or_path", "special_tokens_map_file"}


class CheckpointError(OSError):
    """The files of a checkpoint contradict each other; the message names them and the remedy."""


def fingerprint(directory: str | Path, gguf_file: str | None = None) -> str:
    """SHA-256 of the model in `directory`: weights, configuration, tokenizer and its own code.

    With `gguf_file` of that file alone. Of an adapter whose base model lies in a directory, of
    both. Large files are not read again while they are unchanged (`headcount.artifacts.hashes`).

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
    """What the adapter in `directory` says that it was trained on: a directory, or a hub name.

    Raises `CheckpointError` when that is an adapter as well.
    """
    of = read_json(directory / ADAPTER).get("base_model_name_or_path")
    if not of or not Path(of, ADAPTER).is_file():
        return of
    if Path(of).resolve() == directory.resolve():
        raise CheckpointError(
            f"{directory} is an adapter of the model in the same directory: move {ADAPTER} and "
            "adapter_model.* to a directory of their own; then this one is the model, and that one "
            "the model with the adapter"
        )
    raise CheckpointError(
        f"{directory} is an adapter of {of}, which is an adapter itself: merge that one with peft "
        f"(`merge_and_unload`), and name what it saves as base_model_name_or_path in "
        f"{directory / ADAPTER}"
    )


def weights(directory: Path) -> list[Path]:
    """The files of the weights that would be loaded from `directory`, as far as they are there."""
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
    """The files that an index of weights names."""
    named = read_json(index).get("weight_map") or {}
    return [index.parent / name for name in sorted({*named.values()})]


def damages(directory: Path, gguf_file: str | None = None) -> list[str]:
    """What is wrong with the files that are read of a checkpoint: a sentence each, with remedies.

    Of what is no directory nothing is said.
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
    """What a JSON file holds; nothing where it holds none, which is told when it is loaded."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _said(path: Path) -> dict[str, Any]:
    """What a configuration says of what is computed; without its bytes if they are no JSON."""
    content = read_json(path)
    if not content:
        return {"not parsed": file_hashes([path])[0]}
    if path.name in (CONFIG, ADAPTER):
        return _without(content, SILENT)
    return {key: value for key, value in content.items() if key not in SILENT_OF_TOKENIZERS}


def _without(config: dict[str, Any], silent: set[str]) -> dict[str, Any]:
    """A configuration, and those of the model's parts in it, without some keys."""
    return {
        key: _without(value, silent)
        if key.endswith("_config") and key not in QUANTISED and isinstance(value, dict)
        else value
        for key, value in config.items()
        if key not in silent
    }


def _hash(content: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _meaning(path: Path) -> str:
    """SHA-256 of a JSON file as it is parsed, or of its bytes if it is none."""
    try:
        return _hash(json.loads(path.read_bytes()))
    except ValueError:
        return hashes.read(path)


def _others(paths: list[Path]) -> dict[str, str]:
    """The names of further files and what they mean; a large vocabulary is parsed once."""
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
    """What the checkpoint's own code means, from the modules on that its files name."""
    maps = [content.get("auto_map") or {} for content in said.values()]
    listed = [one if isinstance(one, list) else [one] for each in maps for one in each.values()]
    names = {name.rpartition(".")[0] for several in listed for name in several if name}
    modules = [(directory, name) for name in sorted(names) if "--" not in name]
    try:
        return reached(modules).hash() if modules else None
    except SyntaxError as error:  # told when it is loaded
        return f"{error.msg}: {error.text}"
