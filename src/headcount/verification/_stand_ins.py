"""Stand-ins for removed components in the unmodified model: the reference of `engine.ablation`.

Activations come from the model's own passes over the calibration inputs. Means are computed here
independently. For `resample` only the draw is the engine's: the drawn token is recognised by the
engine's stand-ins of all components, and its activations are the model's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headcount.engine.removal import Ablation
from headcount.verification.reference import Reference, StandIns


def of_reference(
    reference: Reference, inputs: Sequence[list[list[int]]], fitted: Ablation, kind: str
) -> StandIns:
    """Return stand-ins of `kind` at the positions of the longest input of [batches][P][T].

    `fitted` are the engine's, from the same inputs.
    """
    found = [reference.activations(tokens) for tokens in inputs]
    z, ffn = (
        {layer: torch.cat([of[layer].flatten(0, 1) for of in parts]) for layer in parts[0]}
        for parts in zip(*found, strict=True)
    )  # [tokens, H * e], [tokens, d]
    positions = torch.cat([torch.arange(len(row)) for tokens in inputs for row in tokens])
    count = int(positions.max()) + 1  # T
    if kind == "mean":
        weights = torch.stack([_mean(positions, position) for position in range(count)])
    else:
        weights = _drawn(positions, z, ffn, fitted)
    return StandIns(*({i: weights @ of.double().cpu() for i, of in by.items()} for by in (z, ffn)))


def _mean(positions: Tensor, position: int) -> Tensor:
    """Return the weights [tokens] of the mean over the first tokens, or over all others."""
    alike = (positions > 0) == (position > 0)
    return alike.double() / alike.sum()


def _drawn(
    positions: Tensor, z: dict[int, Tensor], ffn: dict[int, Tensor], fitted: Ablation
) -> Tensor:
    """Return weights [T, tokens]: 1 for the token that the engine drew for a position, else 0."""
    tokens = torch.cat([of.double().cpu() for of in (*z.values(), *ffn.values())], -1)
    put = [fitted.z[i].flatten(1) for i in z] + [fitted.ffn[i] for i in ffn]
    distances = torch.cdist(torch.cat(put, -1).double().cpu(), tokens)  # [T, tokens]
    of_position = torch.arange(len(distances))[:, None]
    distances[(of_position > 0) != (positions > 0)] = torch.inf
    return torch.nn.functional.one_hot(distances.argmin(-1), len(positions)).double()
