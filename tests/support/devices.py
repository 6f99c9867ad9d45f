"""Make-believe GPUs: tensors that say `gpu:N`, compute on the CPU, and refuse to mix devices.

PyTorch lets a backend be registered in Python. A tensor on it is a wrapper around a CPU tensor
(`OnDevice`), and a dispatch mode (`Devices`) sees every operation, computes it on what is inside,
and fails with `MixedDevicesError` where a real GPU would. It counts how often the host waits for a
device: copies to the CPU, and operations of which the host has to know the result or its size.
About kernels and speed it says nothing.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from headcount.models.language_model import LanguageModel


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return []  # torch's checkpoints ask for it


backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=Backend())

CPU = torch.device("cpu")
COPYING = ("aten.copy_", "aten._to_copy", "aten.to")  # from one device to another
INDEXING = ("aten.index", "aten.index_put_", "aten._index_put_impl_")  # also by what is on the CPU
WAITING = ("aten._local_scalar_dense", "aten.item", "aten.equal", "aten.is_nonzero", "aten.nonzero")
WAITING += ("aten._unique2", "aten.bincount", "aten.masked_select")


class MixedDevicesError(RuntimeError):
    """An operation on tensors of several devices."""


class OnDevice(Tensor):
    """A tensor on a make-believe device, whose numbers are those of `inner`, on the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device):
        sizes = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        outer = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=device, **sizes
        )
        outer.inner = inner
        return outer

    def __repr__(self) -> str:
        return f"OnDevice({self.inner}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})


class Devices(TorchDispatchMode):
    """Inside, tensors can be on make-believe devices. `waits` counts by operation."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)  # for torch.tensor(.., device=)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        result = _compute(operation, args, kwargs or {})
        on_device = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
        if on_device and _waits(_name(operation), args, result):
            self.waits[_name(operation)] += 1
        return result


def _name(operation) -> str:
    """Such as "aten.index", whatever the overload."""
    return str(operation).rpartition(".")[0]


def _waits(name: str, args: tuple, result) -> bool:
    if name in COPYING:
        return isinstance(result, Tensor) and result.device == CPU
    by_mask = name in INDEXING and any(
        leaf.dtype in (torch.bool, torch.uint8) for leaf in _tensors(args[1])
    )
    return by_mask or name in WAITING


def _tensors(nested) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor))


def _compute(operation, args: tuple, kwargs: dict):
    """The operation on what is inside, and its result back on its device."""
    name = _name(operation)
    device = _device_of_result(name, args, kwargs)
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    outer = {id(_inner(tensor)): tensor for tensor in _tensors((args, kwargs))}

    def back(value):
        if not isinstance(value, Tensor):
            return value
        if id(value) in outer and outer[id(value)].device == device:  # of an operation in place
            return outer[id(value)]
        return value if device == CPU else OnDevice(value, device)

    return tree_map(back, operation(*inner_args, **inner_kwargs))


def _inner(value):
    if isinstance(value, OnDevice):
        return value.inner
    return CPU if isinstance(value, torch.device) else value


def _device_of_result(name: str, args: tuple, kwargs: dict) -> torch.device:
    """Where the result is. Raises `MixedDevicesError` for operands that a GPU would not take."""
    asked = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    if asked:
        device = asked[0]
        return torch.device("gpu:0") if device.type == "gpu" and device.index is None else device
    operands = list(_tensors((args, kwargs)))
    if not operands:
        return CPU
    if name in COPYING:  # to(other): like the second; copy_: in place
        return operands[1 if name == "aten.to" and len(operands) > 1 else 0].device
    if name in INDEXING and operands[0].device != CPU:
        operands = [
            args[0],
            *_tensors(args[2:]),
            *(i for i in _tensors(args[1]) if i.device != CPU),
        ]
    # A number on the CPU goes with any device.
    devices = {tensor.device for tensor in operands if tensor.dim() or tensor.device != CPU}
    if len(devices) > 1:
        raise MixedDevicesError(f"{name} mixes {', '.join(sorted(map(str, devices)))}")
    return devices.pop() if devices else CPU


def split(model: LanguageModel, devices: Sequence[str]) -> LanguageModel:
    """A copy of a model whose layers are split over devices, as a `device_map` does it.

    What is before and after the layers is on the first one. To be called inside `Devices`.
    """
    copied = LanguageModel(copy.deepcopy(model.hf), model.tokenizer, model.memory)
    layers = list(copied.layers)
    inside = {module for layer in layers for module in layer.modules()}
    where = {"": torch.device(devices[0])}
    for name, module in copied.hf.named_modules():
        if module in layers:
            index = layers.index(module) * len(devices) // len(layers)
            where[name] = torch.device(devices[index])
        elif module not in inside and not any(module.children()):
            where[name] = where[""]
    here = {name: False for name in where if name}  # nothing is offloaded
    attach_align_device_hook_on_blocks(copied.hf, execution_device=where, offload=here)
    return copied
