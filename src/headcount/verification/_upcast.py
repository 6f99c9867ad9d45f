"""A half-precision model that computes in float32 for a while, with one layer's weights at a time.

The weights stay as and where they are. Every layer, and every other module with weights, gets an
accelerate hook that puts float32 copies in their place before it runs and drops them after, so that
the model needs memory for one more layer only. Code that handles offloaded weights handles these
too (`headcount.engine.layers`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from headcount.models.language_model import LanguageModel

HALVES = (torch.float16, torch.bfloat16)


def is_half(model: LanguageModel) -> bool:
    """Whether the weights are in half precision."""
    return model.hf.dtype in HALVES


@contextmanager
def in_float32(model: LanguageModel) -> Iterator[None]:
    """Make the model compute in float32, with the weights that it has."""
    # If accelerate has placed modules, each has its own hook; else a layer has one.
    placed = any(hasattr(module, "_hf_hook") for module in model.hf.modules())
    whole = set() if placed else set(model.layers)
    inside = {module for layer in whole for module in layer.modules()} - whole
    with ExitStack() as undone:
        for module in model.hf.modules():
            if module in whole:
                _upcast(module, True, undone)
            elif module not in inside:
                _upcast(module, False, undone)
        yield


def _upcast(module: nn.Module, whole: bool, undone: ExitStack) -> None:
    """Hook a module to load its weights in float32; those of its submodules too if `whole`."""
    weights = dict(module.named_parameters(recurse=whole))
    for within in module.modules() if whole else [module]:
        for tensors in (within._parameters, within._buffers):
            for name, tensor in tensors.items():
                undone.callback(tensors.__setitem__, name, tensor)
    if weights:
        _hook(module, weights, whole, undone)
    for within in module.modules() if whole else [module]:
        for name, weight in within._parameters.items():
            if weight is not None and weight.dtype in HALVES:
                as_float32 = torch.empty_like(weight, dtype=torch.float32, device="meta")
                within._parameters[name] = nn.Parameter(as_float32, requires_grad=False)
        for name, buffer in within._buffers.items():
            if buffer is not None and buffer.dtype in HALVES:
                within._buffers[name] = buffer.float()


def _hook(module: nn.Module, weights: dict[str, Any], whole: bool, undone: ExitStack) -> None:
    """Make the module load `weights`, each in the type of its placeholder."""
    before = getattr(module, "_hf_hook", None)
    before = next((h for h in getattr(before, "hooks", [before]) if h), None)
    if before is None:
        device = next(iter(weights.values())).device
        hook = AlignDevicesHook(device, True, weights_map=weights, place_submodules=whole)
        add_hook_to_module(module, hook)
        undone.callback(remove_hook_from_module, module)
        return
    loader = before.weights_map if before.offload else weights
    hook = AlignDevicesHook(
        before.execution_device, True, before.io_same_device, loader, skip_keys=before.skip_keys
    )
    undone.callback(partial(setattr, module, "_hf_hook", module._hf_hook))
    module._hf_hook = hook
    hook.init_hook(module)
