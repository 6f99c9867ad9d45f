"""What removed components leave in the unmodified model: the reference of `engine.ablation`.

Activations are those of the model's own passes over the calibration inputs. Means are taken here
anew. Of `resample` only the draw is the engine's: the token is recognised by what the engine put in
the place of all components, and its activations are the model's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headcount.engine.removal import Ablation
from headcount.verification.reference import Reference, StandIns


def of_reference(
    reference: Reference, inputs: Sequence[list[list[int]]], fitted: Ablation, kind: str
) -> StandIns:
    """Stand-ins of `kind` at the positions of the longest of the inputs [batches][P][T].

    `fitted` are those of the engine from the same inputs.
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
    """The weights [tokens] of a mean over the first tokens, or over all others."""
    alike = (positions > 0) == (position > 0)
    return alike.double() / alike.sum()


def _drawn(
    positions: Tensor, z: dict[int, Tensor], ffn: dict[int, Tensor], fitted: Ablation
) -> Tensor:
    """For each position the weights [T, tokens] of the token that the engine drew: one, else 0."""
    tokens = torch.cat([of.double().cpu() for of in (*z.values(), *ffn.values())], -1)
    put = [fitted.z[i].flatten(1) for i in z] + [fitted.ffn[i] for i in ffn]
    distances = torch.cdist(torch.cat(put, -1).double().cpu(), tokens)  # [T, tokens]
    of_position = torch.arange(len(distances))[:, None]
    distances[(of_position > 0) != (positions > 0)] = torch.inf
    return torch.nn.functional.one_hot(distances.argmin(-1), len(positions)).double()
