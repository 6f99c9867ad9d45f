"""A block of prompts that are computed together: N tokens, some of them scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headcount.models.language_model import Prompt

PADDING = -1  # owner of a token that belongs to no prompt


@dataclass
class Block:
    """N = R T tokens in R rows, and the S of them that are scored; see `headcount.engine`."""

    tokens: Tensor  # [R, T]
    positions: Tensor  # [R, T]
    owners: Tensor  # [N] a prompt that the token belongs to, the only one if nothing is shared
    scored: Tensor  # [S] the tokens that predict a target; sorted, each once
    # For each target of each prompt [targets]: which of the S predicts it, its token, its prompt.
    rows: Tensor
    targets: Tensor
    prompts: Tensor
    # In a packed block: the end of the tokens that see each token [N]; units of attention.
    ends: Tensor | None = None
    units: list = field(default_factory=list)

    def __len__(self) -> int:
        return self.tokens.numel()

    @property
    def real(self) -> Tensor:
        """The indices of the tokens that belong to a prompt."""
        return (self.owners != PADDING).nonzero()[:, 0]

    def scored_in_parts(self, size: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield at most `size` scored tokens at a time, as a slice of the S, with their t targets.

        The targets are given by index [t], by the row in the part that predicts each, and by token.
        """
        for first in range(0, len(self.scored), size):
            part = slice(first, min(first + size, len(self.scored)))
            here = ((self.rows >= part.start) & (self.rows < part.stop)).nonzero()[:, 0]
            yield part, here, self.rows[here] - first, self.targets[here]


def scoring(
    prompts: Sequence[Prompt], owners: Sequence[Sequence[int]], paths: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Return the fields scored, rows, targets and prompts of a block of some inputs.

    `owners[i]` are the prompts whose input is input i, `paths[i]` the indices of its tokens.
    """
    places: list[int] = []
    targets: list[int] = []
    of_prompts: list[int] = []
    for mine, path in zip(owners, paths, strict=True):
        for prompt in mine:
            of_prompt = prompts[prompt].targets
            places += path[-len(of_prompt) :]
            targets += of_prompt
            of_prompts += [prompt] * len(of_prompt)
    scored, rows = torch.tensor(places).unique(return_inverse=True)
    return {
        "scored": scored,
        "rows": rows,
        "targets": torch.tensor(targets),
        "prompts": torch.tensor(of_prompts),
    }


def distinct(prompts: Sequence[Prompt], share: bool) -> tuple[list[tuple], list[list[int]]]:
    """Return the sorted inputs, each once if `share`, and the prompts of each."""
    inputs: dict[tuple, list[int]] = {}
    for index, prompt in enumerate(prompts):
        inputs.setdefault((tuple(prompt.tokens), 0 if share else index), []).append(index)
    ordered = sorted(inputs)
    return [tokens for tokens, _ in ordered], [inputs[key] for key in ordered]
