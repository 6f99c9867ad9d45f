"""Content and damage of weight files, without transformers.

Weights count by the name, type, shape and bytes of each tensor, not by its file, its place there or
the file's metadata.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from headcount.artifacts import hashes

CHUNK = 2**20  # bytes read at a time
LONGEST = 100 * 2**20  # bytes of a header, at most, for safetensors


class Stored(NamedTuple):
    """A tensor in a safetensors file."""

    name: str
    dtype: str  # as safetensors spells it: F32, BF16...
    shape: list[int]
    begin: int  # bytes from the start of the file
    end: int


def stored(path: Path) -> list[Stored]:
    """Return the tensors in a safetensors file, by its header.

    Raises `ValueError` when the header cannot be read or the file has another length than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, LONGEST):
            raise ValueError("it has no header of a safetensors file, or is cut short")
        header = json.loads(file.read(length))
    try:
        tensors = [
            Stored(name, of["dtype"], of["shape"], *(8 + length + at for at in of["data_offsets"]))
            for name, of in header.items()
            if name != "__metadata__"
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError("it has no header of a safetensors file") from None
    whole = max((tensor.end for tensor in tensors), default=8 + length)
    if size != whole:
        raise ValueError(f"it has {size:,} bytes instead of {whole:,}")
    return tensors


# --- content ---


def content(paths: Sequence[Path]) -> str:
    """Return a hash of the weights in the files, however they are distributed over them.

    It is the sum of the SHA-256 of all tensors, each with its name, type and shape. A file in which
    no tensors are found counts by its bytes.
    """
    memory = hashes.Memory()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = [_of_file(path, memory, threads) for path in paths]
    memory.save()
    return _sum(found)


def _of_file(path: Path, memory: hashes.Memory, threads: ThreadPoolExecutor) -> str:
    if path.suffix == ".safetensors":
        return memory.recall(path, "tensors ", partial(_safetensors, threads))
    # Reading even a small one needs torch, which is slow to import.
    return memory.recall(path, "pickled ", partial(_pickled, threads), above=0)


def _sum(found: Sequence[str]) -> str:
    return f"{sum(int(one, 16) for one in found) % 2**256:064x}"


def _safetensors(threads: ThreadPoolExecutor, path: Path) -> str:
    try:
        tensors = stored(path)
    except ValueError:
        return hashes.read(path)
    return _sum([*threads.map(partial(_tensor, path), tensors)])


def _tensor(path: Path, tensor: Stored) -> str:
    found = _named(tensor.name, tensor.dtype, tensor.shape)
    with path.open("rb") as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while chunk := file.read(min(left, CHUNK)):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()


def _named(name: str, dtype: str, shape: Sequence[int]) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps([name, dtype, [*shape]]).encode())


def _pickled(threads: ThreadPoolExecutor, path: Path) -> str:
    """Return the hash of a torch file; one in the old format, unmappable, counts by its bytes."""
    import torch

    def of(name: str, tensor: torch.Tensor) -> str:
        found = _named(name, str(tensor.dtype), tensor.shape)
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _sum([*threads.map(of, weights.keys(), weights.values())])
    except Exception:  # not readable in this way, or not a tensor
        return hashes.read(path)


# --- damage ---


def damage(path: Path) -> str | None:
    """Return what is wrong with a file of a checkpoint, with the remedy, or None.

    Safetensors are checked by header and length, torch's files by their end.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` there"
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{path} is a web page, not the file itself: download it again"
    problem = KINDS[path.suffix](path, start) if path.suffix in KINDS else None
    if problem := problem if start else "it is empty":
        return f"{path} is cut short or damaged ({problem}): copy or download it again"
    return None


def _of_safetensors(path: Path, _: bytes) -> str | None:
    try:
        stored(path)
    except ValueError as error:
        return str(error)
    return None


def _of_pickled(path: Path, start: bytes) -> str | None:
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "its end is missing"
    return None if start.startswith(b"\x80") else "torch did not save it"


def _of_gguf(_: Path, start: bytes) -> str | None:
    return None if start.startswith(b"GGUF") else "it is not a GGUF file"


def _of_json(path: Path, _: bytes) -> str | None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return f"it is not JSON: {error}"
    return None


KINDS: dict[str, Callable[[Path, bytes], str | None]] = {
    ".safetensors": _of_safetensors,
    ".bin": _of_pickled,
    ".gguf": _of_gguf,
    ".json": _of_json,
}
