"""A language model from its checkpoint: placed on devices, or as an outline without weights."""

import logging
from pathlib import Path

from accelerate.utils import get_max_memory

from headcount.models import checkpoints, conversion
from headcount.models.families import Layout, ModelError
from headcount.models.fingerprint import fingerprint
from headcount.models.language_model import MEMORY, LanguageModel

PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")  # by free memory


logger = logging.getLogger(__name__)


def load(
    path: str | Path,
    dtype: str = "float32",
    device_map: str = "cpu",
    memory: float = MEMORY,
    trust_remote_code: bool = False,
    layout: dict[str, str] | None = None,
) -> LanguageModel:
    """Return the model in the directory `path`, placed by accelerate (`device_map`: cpu, auto...).

    `dtype` is the name of a torch dtype, or `auto` for that of the stored weights. With the
    `device_map` `disk`, weights stay in their files, and those of each layer are read in turn.
    `memory`: see `LanguageModel`; a `device_map` such as `auto` leaves it free on each device.
    `trust_remote_code`: run the code in the checkpoint. `layout`: see `families.Layout`.

    Raises `ModelError` when the model does not load completely or its components are not found.
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
    """Return the model in the directory `path` without reading its weights.

    It has components and encodes prompts, but computes nothing. Raises the errors of `load`.
    """
    hf, tokenizer = checkpoints.read(path, trust_remote_code, device_map={"": "meta"})
    return LanguageModel(hf, tokenizer, layout=Layout(**layout) if layout else None)


def _room(memory: float) -> dict[int | str, int]:
    """Return the bytes for weights on each device: free memory minus that of a sweep."""
    return {device: max(0, int(free - memory * 2**20)) for device, free in get_max_memory().items()}


def resolve(
    source: str,
    revision: str | None,
    gguf_file: str | None,
    converted: str | Path,
    trust_remote_code: bool = False,
    layout: dict[str, str] | None = None,
) -> dict:
    """Turn a model's `source` into a directory that loads fast and offline; return its facts.

    A local directory is used in place. The snapshot of a hub model is downloaded and its revision
    pinned. A checkpoint that has to be converted (`headcount.models.conversion`) is written to
    `converted`. Names and shapes of all weights are compared, and components found, without reading
    a weight.

    The facts are path, revision, fingerprint, architecture, layers, the number of heads of each
    layer, the layers with an FFN, and numbers of weights; `converted` describes the conversion, or
    is None. Raises `ModelError` when the source is not found or not complete, or its components are
    not found.
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
