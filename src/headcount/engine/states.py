"""Hidden states between two layers, in memory as far as they fit, else on disk."""

import bisect
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class State(NamedTuple):
    """The input of a layer from the one before: the residual stream, and what layers share.

    `hidden` is [B, T, d], or another tensor that the model passes to its layers. `carried` are
    dictionaries, by keyword, that the layers read and write (keys and values for later layers, in
    Gemma 3n and 4).
    """

    hidden: Tensor
    carried: dict[str, dict]


class States:
    """States by key; beyond `capacity` bytes tensors go to a file in the temporary directory.

    The file has no name, so that the system frees it however the process ends.
    """

    def __init__(self, capacity: float):
        self.capacity = capacity
        self.used = 0
        self.held: dict[Hashable, tuple[list[Tensor | _Filed], TreeSpec]] = {}
        self.file: _File | None = None

    def __enter__(self) -> "States":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def put(self, key: Hashable, state: State | Tensor) -> None:
        """Keep a state, or any nested tuples and dictionaries of tensors.

        Raises `OSError` naming the temporary directory when it is full.
        """
        tensors, structure = tree_flatten(state)
        self.held[key] = [self._keep(tensor) for tensor in tensors], structure

    def get(self, key: Hashable) -> State | Tensor:
        kept, structure = self.held[key]
        tensors = [self._read(item) if isinstance(item, _Filed) else item for item in kept]
        return tree_unflatten(tensors, structure)

    def drop(self, key: Hashable) -> None:
        for item in self.held.pop(key)[0]:
            if isinstance(item, _Filed):
                self.file.free(item.place, item.size)
            else:
                self.used -= item.nbytes

    def _keep(self, tensor: Tensor) -> "Tensor | _Filed":
        if self.used + tensor.nbytes <= self.capacity:
            self.used += tensor.nbytes
            return tensor
        self.file = self.file or _File()
        data = tensor.cpu().contiguous().flatten().view(torch.uint8)
        return _Filed(self.file.write(data), tensor.nbytes, tensor.new_empty(0), tensor.shape)

    def _read(self, item: "_Filed") -> Tensor:
        data = self.file.read(item.place, item.size)
        return data.view(item.like.dtype).view(item.shape).to(item.like.device)


class _Filed(NamedTuple):
    """A tensor in the file."""

    place: int
    size: int  # bytes
    like: Tensor  # an empty one of its type and device
    shape: torch.Size


class _File:
    """A temporary file without a name, and its free parts."""

    def __init__(self) -> None:
        self.directory = tempfile.gettempdir()
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, open until `close`
        self.end = 0
        self.gaps: list[tuple[int, int]] = []  # sorted (size, place)

    def close(self) -> None:
        self.file.close()

    def write(self, data: Tensor) -> int:
        """Write bytes somewhere and return their offset."""
        place = self._take(data.numel())
        try:
            _all(os.pwrite, self.file.fileno(), data, place)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise OSError(
                error.errno,
                f"the temporary directory {self.directory} is full: hidden states between layers "
                f"take {self.end / 2**20:,.0f} MB there so far, and "
                f"{shutil.disk_usage(self.directory).free / 2**20:,.0f} MB are free. Set TMPDIR to "
                "a directory with more room, or give the model more `memory` (config key `models`)",
            ) from error
        return place

    def read(self, place: int, size: int) -> Tensor:
        data = torch.empty(size, dtype=torch.uint8)
        _all(lambda fd, view, at: os.preadv(fd, [view], at), self.file.fileno(), data, place)
        return data

    def free(self, place: int, size: int) -> None:
        bisect.insort(self.gaps, (size, place))

    def _take(self, size: int) -> int:
        """Return an offset for `size` bytes: in the smallest sufficient gap, or at the end."""
        found = bisect.bisect_left(self.gaps, (size, 0))
        if found == len(self.gaps):
            self.end += size
            return self.end - size
        room, place = self.gaps.pop(found)
        if room > size:
            self.free(place + size, room - size)
        return place


def _all(transfer: Callable, descriptor: int, data: Tensor, place: int) -> None:
    """Read or write all of `data`, however little the system transfers at a time."""
    view: memoryview = data.numpy().data
    while len(view):
        count = transfer(descriptor, view, place)
        if not count:
            raise EOFError(f"a file of hidden states ends at byte {place}")
        view, place = view[count:], place + count
