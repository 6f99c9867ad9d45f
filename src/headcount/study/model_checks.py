"""What can be told of a study's models from their files, before transformers is imported."""

import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from headcount.artifacts import gpus, lineage
from headcount.messages import did_you_mean
from headcount.models import fingerprint
from headcount.models.fingerprint import ADAPTER, ADAPTER_WEIGHTS, CONFIG, WEIGHTS

# As transformers and accelerate know them.
DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "hpu", "mlu", "gpu")
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential", "disk")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Of a configuration, what counts layers and heads, in the words of several families.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


def problems(name: str, entry: dict, artifacts: str | Path) -> list[str]:
    """What speaks against the model `name` of a study, by its `entry`: a line each, with a remedy.

    `artifacts` is the study's directory of artifacts. What only the hub knows is not asked.
    """
    key = f"models.{name}"
    found = [f"{key}.{problem}" for problem in _of_source(name, entry, Path(artifacts))]
    kind, _, number = entry["device_map"].partition(":")
    if entry["device_map"] not in (*DEVICES, *PLACEMENTS) and not (
        kind in DEVICES and number.isdigit()
    ):
        hint = did_you_mean(kind, (*DEVICES, *PLACEMENTS)) or f", but {', '.join(PLACEMENTS)}, cuda"
        found.append(f"{key}.device_map: {entry['device_map']!r} is no device{hint}")
    return found


def notes(name: str, entry: dict) -> list[str]:
    """What has to be known of the model where it runs on this machine."""
    there = len(gpus.visible())
    asked = max(entry["gpus"], entry["device_map"].startswith("cuda"))
    if asked > there:
        return [
            f"models.{name}: it asks for {asked} GPU{'s' * (asked > 1)} (gpus, device_map), of "
            f"which {there or 'none'} can be seen here: it runs on a cluster that has them"
        ]
    return []


def dimensions(source: str | Path) -> dict[str, int] | None:
    """How many heads and FFNs the model in a directory has, by its config.json.

    None where that does not say it plainly: layers that differ, a GGUF file, a model of the hub.
    """
    try:
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    text = config.get("text_config") or config
    layers, heads = (
        next((text[key] for key in keys if isinstance(text.get(key), int)), None)
        for keys in (LAYERS, HEADS)
    )
    if (
        not layers
        or not heads
        or set(text.get("layer_types", [])) - {"full_attention", "attention"}
    ):
        return None
    return {"heads": layers * heads, "ffns": layers}


def stored(source: str | Path) -> int | None:
    """Bytes of the weights in a directory; None where none are seen, as of a model of the hub."""
    kinds = ("*.safetensors", "*.bin", "*.gguf")
    sizes = [file.stat().st_size for kind in kinds for file in Path(source).glob(kind)]
    return sum(sizes) or None


# --- the source ---


def _of_source(name: str, entry: dict, artifacts: Path) -> Iterator[str]:
    source, path = entry["source"], Path(entry["source"])
    if path.is_file():
        names = f"source: {path.parent}, gguf_file: {path.name}"
        remedy = names if path.suffix == ".gguf" else "give the directory that it is in"
        yield f"source: {source} is a file: {remedy}"
    elif path.is_dir():
        yield from _of_directory(path, entry["gguf_file"])
    elif problem := _not_there(source, entry, artifacts / name / "model.json"):
        yield f"source: {problem}"


def _not_there(source: str, entry: dict, made: Path) -> str | None:
    """What speaks against a source that is no directory; None for what may be a hub model."""
    path = Path(source)
    if lineage.from_directory(made, source):
        return (
            f"{source} is not there, as it was when {made} was made. Put it back, or correct the "
            "name, and start again: what was computed with it is kept."
        )
    parent = path.parent
    beside = [one.name for one in parent.iterdir() if one.is_dir()] if parent.is_dir() else []
    close = [str(parent / one) for one in get_close_matches(path.name, beside, n=1)]
    # A hub model's name has one slash at most; only a few old ones, none of GGUF files, have none.
    is_path = path.is_absolute() or source[0] in ".~" or not HUB_NAME.fullmatch(source)
    if is_path or (entry["gguf_file"] and "/" not in source) or (close and "/" not in source):
        hint = f": did you mean {close[0]}?" if close else ""
        return f"{source} is not there{hint or ': correct the name, or put the directory there'}"
    if _offline() and not _cached(source):
        return (
            f"{source} is no directory, and as a model of the hub it is not in the cache, where "
            "HF_HUB_OFFLINE has it looked for: correct the name, or download it first"
        )
    return None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _cached(source: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, f"models--{source.replace('/', '--')}").is_dir()


def _of_directory(path: Path, gguf_file: str | None) -> Iterator[str]:
    """What a directory lacks to be a model's."""
    quantised = sorted(str(one.relative_to(path)) for one in path.rglob("*.gguf"))
    if gguf_file:
        if not (path / gguf_file).is_file():
            there = f"there: {', '.join(quantised) or 'no GGUF file'}"
            hint = did_you_mean(gguf_file, quantised)
            yield f"gguf_file: {gguf_file} is not in {path} ({there}){hint}"
        else:
            yield from (f"gguf_file: {one}" for one in fingerprint.damages(path, gguf_file))
        return
    is_adapter = (path / ADAPTER).is_file()
    if not is_adapter and not (path / CONFIG).is_file():
        remedy = f"set gguf_file: {quantised[0]}" if quantised else "is it the right directory?"
        yield f"source: {path} has no {CONFIG}: {remedy}"
        return
    if damages := fingerprint.damages(path):
        yield from (f"source: {one}" for one in damages)
        return
    if fingerprint.read_json(path / CONFIG).get("is_encoder_decoder"):
        yield f"source: {path} is an encoder-decoder: headcount takes decoder-only models"
    yield from _of_weights(path, is_adapter)


def _of_weights(path: Path, is_adapter: bool) -> Iterator[str]:
    """What is missing of the weights in a directory, or of what an adapter rests on."""
    if is_adapter:
        try:
            fingerprint.base(path)
        except fingerprint.CheckpointError as error:
            yield f"source: {error}"
    names = ADAPTER_WEIGHTS if is_adapter else WEIGHTS
    found = fingerprint.weights(path)
    index = next((path / name for name in names if (path / name).is_file()), None)
    if index and index.name.endswith(".index.json"):
        shards = fingerprint.shards(index)
        if missing := [shard.name for shard in shards if shard not in found]:
            some = ", ".join(missing[:3])
            yield f"source: {path} lacks {len(missing)} of {len(shards)} shards, {some}: copy them"
    elif not found:
        yield f"source: {path} has no weights (one of {', '.join(names)}): copy it whole"
