"""What a checkpoint is, told from its files without importing transformers.

What counts is what transformers, or peft, would read of a directory, by content: not where the
directory lies, nor how it or the shards of the weights are called.
"""

import hashlib
import json
from pathlib import Path

from headcount.hashes import file_hashes
from headcount.source_code import reached

ADAPTER = "adapter_config.json"
# The weights that are read, in transformers' order: the first that is there. peft's for an adapter.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# What decides no number, by the ends of names in lower case. What is not known counts: tokenizers
# have files of many names.
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
# JSON that counts as it is parsed. In the first two the order of keys says nothing.
SORTED = ("config.json", ADAPTER)
PARSED = (*SORTED, "tokenizer_config.json", "special_tokens_map.json")


def fingerprint(directory: str | Path, gguf_file: str | None = None) -> str:
    """SHA-256 of the model in `directory`: weights, configuration, tokenizer and its own code.

    With `gguf_file` of that file alone. Of an adapter whose base model lies in a directory, of
    both. Large files are not read again while they are unchanged (`headcount.hashes`).

    Raises `OSError` when the directory or a file cannot be read.
    """
    directory = Path(directory)
    if gguf_file:
        return file_hashes([directory / gguf_file])[0]
    counting = [path for path in sorted(directory.iterdir()) if _counts(path)]
    parsed = {path.name: _parsed(path) for path in counting if path.name in PARSED}
    others = [path for path in counting if path.name not in PARSED]
    if base := parsed.get(ADAPTER, {}).get("base_model_name_or_path"):
        where = fingerprint(base) if Path(base).is_dir() else base
        parsed[ADAPTER]["base_model_name_or_path"] = where
    meaning = {
        "weights": sorted(file_hashes(_weights(directory, parsed.get("config.json", {})))),
        "parsed": parsed,
        "others": dict(zip([p.name for p in others], file_hashes(others), strict=True)),
        "code": _code(directory, parsed),
    }
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()


def _counts(path: Path) -> bool:
    name = path.name.lower()
    passed_over = name.endswith(NO_MODEL) or name.startswith(NO_MODEL_BEGINNINGS)
    return path.is_file() and not passed_over


def _parsed(path: Path) -> dict:
    """The content of a JSON file, without the place that a model was once loaded from."""
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError:
        content = None  # told when it is loaded
    if not isinstance(content, dict):
        return {"not parsed": hashlib.sha256(text).hexdigest()}
    if path.name in SORTED:
        content = json.loads(json.dumps(content, sort_keys=True))
    content.pop("_name_or_path", None)
    return content


def _weights(directory: Path, config: dict) -> list[Path]:
    """The files of the weights that would be loaded, as far as they are there."""
    names = ADAPTER_WEIGHTS if (directory / ADAPTER).is_file() else WEIGHTS
    if chosen := config.get("transformers_weights"):
        names = (chosen, *names)
    first = next((name for name in names if (directory / name).is_file()), None)
    if first is None:
        return []
    if not first.endswith(".index.json"):
        return [directory / first]
    shards = {*_parsed(directory / first).get("weight_map", {}).values()}
    return [directory / name for name in sorted(shards) if (directory / name).is_file()]


def _code(directory: Path, parsed: dict[str, dict]) -> str | None:
    """What the checkpoint's own code means, from the modules on that its files name."""
    maps = [content.get("auto_map") or {} for content in parsed.values()]
    listed = [one if isinstance(one, list) else [one] for each in maps for one in each.values()]
    names = {name.rpartition(".")[0] for several in listed for name in several if name}
    modules = [(directory, name) for name in sorted(names) if "--" not in name]
    try:
        return reached(modules).hash() if modules else None
    except SyntaxError as error:  # told when it is loaded
        return f"{error.msg}: {error.text}"
