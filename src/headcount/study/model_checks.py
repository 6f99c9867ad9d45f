"""Problems of a study's models that their files show, without importing transformers."""

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

# Names known to transformers and accelerate.
DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "hpu", "mlu", "gpu")
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential", "disk")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Keys of a configuration for the numbers of layers and heads, in several families.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


def problems(name: str, entry: dict, artifacts: str | Path) -> list[str]:
    """Return the problems of the model `name` of a study, by its `entry`, with their remedies.

    `artifacts` is the study's directory of artifacts. The hub is not asked.
    """
    key = f"models.{name}"
    found = [f"{key}.{problem}" for problem in _of_source(name, entry, Path(artifacts))]
    kind, _, number = entry["device_map"].partition(":")
    if entry["device_map"] not in (*DEVICES, *PLACEMENTS) and not (
        kind in DEVICES and number.isdigit()
    ):
        hint = did_you_mean(kind, (*DEVICES, *PLACEMENTS)) or f", but {', '.join(PLACEMENTS)}, cuda"
        found.append(f"{key}.device_map: {entry['device_map']!r} is not a device{hint}")
    return found


def notes(name: str, entry: dict) -> list[str]:
    """Return caveats about running the model on this machine."""
    there = len(gpus.visible())
    asked = max(entry["gpus"], entry["device_map"].startswith("cuda"))
    if asked > there:
        return [
            f"models.{name}: it asks for {asked} GPU{'s' * (asked > 1)} (gpus, device_map), and "
            f"{there or 'none'} can be seen here: run it on a cluster that has them"
        ]
    return []


def dimensions(source: str | Path) -> dict[str, int] | None:
    """Return the numbers of heads and FFNs of the model in a directory, by its config.json.

    None if that does not give them: layers differ, or it is a GGUF file or a hub model.
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
    """Return the bytes of weights in a directory; None if there are none, as for a hub model."""
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
    """Return the problem with a source that is not a directory; None if it may be a hub model."""
    path = Path(source)
    if lineage.from_directory(made, source):
        return (
            f"{source} is not there; it was when {made} was made. Put it back, or correct the "
            "name, and start again: results computed with it are kept."
        )
    parent = path.parent
    beside = [one.name for one in parent.iterdir() if one.is_dir()] if parent.is_dir() else []
    close = [str(parent / one) for one in get_close_matches(path.name, beside, n=1)]
    # A hub model's name has at most one slash; a few old ones, none with GGUF files, have none.
    is_path = path.is_absolute() or source[0] in ".~" or not HUB_NAME.fullmatch(source)
    if is_path or (entry["gguf_file"] and "/" not in source) or (close and "/" not in source):
        hint = f": did you mean {close[0]}?" if close else ""
        return f"{source} is not there{hint or ': correct the name, or put the directory there'}"
    if _offline() and not _cached(source):
        return (
            f"{source} is neither a directory nor a hub model in the cache, and HF_HUB_OFFLINE is "
            "set: correct the name, or download the model first"
        )
    return None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _cached(source: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, f"models--{source.replace('/', '--')}").is_dir()


def _of_directory(path: Path, gguf_file: str | None) -> Iterator[str]:
    """Yield what a directory lacks to be a model's."""
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
    """Yield problems with the weights in a directory, or with an adapter's base model."""
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
