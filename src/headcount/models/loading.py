"""A language model from its checkpoint: placed on devices, or as an outline without weights."""

import logging
from pathlib import Path

from accelerate.utils import get_max_memory

from headcount.models import checkpoints, conversion
from headcount.models.families import Layout, ModelError
from headcount.models.fingerprint import fingerprint
from headcount.models.language_model import MEMORY, LanguageModel

PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")  # by what fits where


logger = logging.getLogger(__name__)


def load(
    path: str | Path,
    dtype: str = "float32",
    device_map: str = "cpu",
    memory: float = MEMORY,
    trust_remote_code: bool = False,
    layout: dict[str, str] | None = None,
) -> LanguageModel:
    """The model in the directory `path`, placed by accelerate (`device_map`: cpu, cuda, auto...).

    `dtype` is one of torch's, by name, or `auto`: the one that the weights are stored in. With the
    `device_map` `disk` the weights stay in their files, and each layer's are read in its turn.
    `memory`: see `LanguageModel`; a `device_map` such as `auto` leaves so much of each device free.
    `trust_remote_code`: run the code that the checkpoint brings. `layout`: see `families.Layout`.

    Raises `ModelError` when it does not load whole or its components are not found.
    """
    if not Path(path).is_dir():
        raise ModelError(
            f"{path} is not a directory; headcount.language_model({str(path)!r}) takes the name of "
            "a model of the hub as well"
        )
    hf, tokenizer = checkpoints.read(
        path,
        trust_remote_code,
        dtype=dtype,
        device_map={"": "disk"} if device_map == "disk" else device_map,
        max_memory=_room(memory) if device_map in PLACEMENTS else None,
    )
    return LanguageModel(hf, tokenizer, memory, Layout(**layout) if layout else None)


def outline(
    path: str | Path, trust_remote_code: bool = False, layout: dict[str, str] | None = None
) -> LanguageModel:
    """The model in the directory `path` without its weights, of which none is read.

    It knows its components and encodes prompts, and computes nothing. Raises as `load` does.
    """
    hf, tokenizer = checkpoints.read(path, trust_remote_code, device_map={"": "meta"})
    return LanguageModel(hf, tokenizer, layout=Layout(**layout) if layout else None)


def _room(memory: float) -> dict[int | str, int]:
    """Bytes for weights on each device: what is free there, less what a sweep may hold."""
    return {device: max(0, int(free - memory * 2**20)) for device, free in get_max_memory().items()}


def resolve(
    source: str,
    revision: str | None,
    gguf_file: str | None,
    converted: str | Path,
    trust_remote_code: bool = False,
    layout: dict[str, str] | None = None,
) -> dict:
    """Turn a model's `source` into a directory that loads fast and offline, and describe it.

    A local directory is used where it lies; of a hub model the snapshot is downloaded and its
    revision pinned; what has to be converted (`headcount.models.conversion`) is written to
    `converted`. Names and shapes of all weights are compared, and components looked for, without
    reading one.

    Returns path, revision, fingerprint, architecture, layers, the number of heads of each layer,
    the layers that have an FFN, and the numbers of weights; `converted` says from what, or is None.
    Raises `ModelError` when the source cannot be had or is not complete, or its components are not
    found.
    """
    path, revision = checkpoints.fetch(source, revision, gguf_file)
    path, made = conversion.convert(path, gguf_file, Path(converted), trust_remote_code)
    model = outline(path, trust_remote_code, layout)
    tokenizer = model.tokenizer
    if beyond := [t for t, i in tokenizer.get_vocab().items() if i >= model.vocabulary_size]:
        logger.warning(
            "%s: %d tokens are beyond the %d embeddings, %s; a prompt that has one will be refused",
            source,
            len(beyond),
            model.vocabulary_size,
            sorted(beyond)[:3],
        )
    return {
        "source": source,
        "revision": revision,
        "path": str(path),
        "converted": made,
        "trust_remote_code": trust_remote_code,
        "layout": layout,
        "fingerprint": fingerprint(path),
        "architecture": type(model.hf).__name__,
        **model.facts,
    }
