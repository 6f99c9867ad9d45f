"""Types of the weights that a checkpoint stores, and models that keep them.

The `dtype` of a configuration need not be that of the weights, which may have several types.
Loading in a narrower type rounds weights.
"""

from functools import reduce
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict

from headcount.models import fingerprint


def weights(directory: Path) -> dict[str, Tensor]:
    """Return the weights in `directory` by the names they have there, without values."""
    found: dict[str, Tensor] = {}
    for file in fingerprint.weights(directory):
        found |= load_state_dict(file, map_location="meta")
    return found


def widest(stored: dict[str, Tensor]) -> torch.dtype:
    """Return the type that can hold all weights exactly."""
    floating = [tensor.dtype for tensor in stored.values() if tensor.is_floating_point()]
    return reduce(torch.promote_types, floating)


def rounds(hf: PreTrainedModel, stored: dict[str, Tensor]) -> bool:
    """Whether a weight of `hf` has a narrower type than the stored weight.

    transformers renames and packs some weights: these may have the type of the model.
    """
    held = {name: tensor.dtype for name, tensor in hf.state_dict().items()}
    others = hf.config.dtype
    names = stored if held.keys() - stored.keys() else held
    return any(
        torch.promote_types(stored[name].dtype, held.get(name, others)) != held.get(name, others)
        for name in names
    )


def restore(hf: PreTrainedModel, stored: dict[str, Tensor]) -> None:
    """Give each weight of `hf`, in place, the type that it is stored in, if known."""
    for name, tensor in hf.state_dict(keep_vars=True).items():
        if name in stored and tensor.dtype != stored[name].dtype:
            tensor.data = tensor.data.to(stored[name].dtype)
