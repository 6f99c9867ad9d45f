"""Hidden states between two layers, in memory as far as they fit, the rest on disk."""

from collections.abc import Hashable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor


class States:
    """Tensors by key; beyond `capacity` bytes they lie in files of a temporary directory."""

    def __init__(self, capacity: float):
        self.capacity = capacity
        self.used = 0
        self.held: dict[Hashable, Tensor] = {}
        self.filed: dict[Hashable, tuple[Path, Tensor]] = {}  # the file, and an empty like it
        self.directory: TemporaryDirectory | None = None
        self.written = 0  # files so far

    def __enter__(self) -> "States":
        return self

    def __exit__(self, *_) -> None:
        if self.directory:
            self.directory.cleanup()

    def put(self, key: Hashable, tensor: Tensor) -> None:
        if self.used + tensor.nbytes <= self.capacity:
            self.used += tensor.nbytes
            self.held[key] = tensor
            return
        self.directory = self.directory or TemporaryDirectory(prefix="headcount-states-")
        path = Path(self.directory.name, str(self.written))
        self.written += 1
        tensor.cpu().contiguous().view(torch.uint8).numpy().tofile(path)
        self.filed[key] = path, tensor.new_empty(0)

    def get(self, key: Hashable) -> Tensor:
        if key in self.held:
            return self.held[key]
        path, like = self.filed[key]
        data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        return data.view(like.dtype).to(like.device)  # flat

    def drop(self, key: Hashable) -> None:
        if key in self.held:
            self.used -= self.held.pop(key).nbytes
        else:
            self.filed.pop(key)[0].unlink()
