"""What waits between two layers, in memory as far as it fits, the rest on disk."""

from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from headcount import temporaries


class State(NamedTuple):
    """What one layer leaves to the next: the residual stream, and what else layers share.

    `hidden` is [B, T, d], or what else the model calls its layers with. `carried` are dictionaries
    that the layers are called with and write to (keys and values that later layers read, in
    Gemma 3n and 4), by keyword.
    """

    hidden: Tensor
    carried: dict[str, dict]


class States:
    """States by key; beyond `capacity` bytes tensors lie in files of a temporary directory."""

    def __init__(self, capacity: float):
        self.capacity = capacity
        self.used = 0
        self.held: dict[Hashable, tuple[list[Tensor | _Filed], TreeSpec]] = {}
        self.directory: temporaries.Directory | None = None
        self.written = 0  # files so far

    def __enter__(self) -> "States":
        return self

    def __exit__(self, *_) -> None:
        if self.directory:
            self.directory.cleanup()

    def put(self, key: Hashable, state: State | Tensor) -> None:
        """Keep a state, or any nested tuples and dictionaries of tensors."""
        tensors, structure = tree_flatten(state)
        self.held[key] = [self._keep(tensor) for tensor in tensors], structure

    def get(self, key: Hashable) -> State | Tensor:
        kept, structure = self.held[key]
        tensors = [item.read() if isinstance(item, _Filed) else item for item in kept]
        return tree_unflatten(tensors, structure)

    def drop(self, key: Hashable) -> None:
        for item in self.held.pop(key)[0]:
            if isinstance(item, _Filed):
                item.path.unlink()
            else:
                self.used -= item.nbytes

    def _keep(self, tensor: Tensor) -> "Tensor | _Filed":
        if self.used + tensor.nbytes <= self.capacity:
            self.used += tensor.nbytes
            return tensor
        self.directory = self.directory or temporaries.Directory()
        path = Path(self.directory.name, str(self.written))
        self.written += 1
        tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tofile(path)
        return _Filed(path, tensor.new_empty(0), tensor.shape)


class _Filed(NamedTuple):
    """A tensor in a file."""

    path: Path
    like: Tensor  # an empty one of its kind
    shape: torch.Size

    def read(self) -> Tensor:
        data = torch.from_numpy(np.fromfile(self.path, dtype=np.uint8))
        return data.view(self.like.dtype).view(self.shape).to(self.like.device)
