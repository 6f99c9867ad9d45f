"""Prompts as rows of a block, padded on the right, for the model's own attention.

A causal model needs no mask for padding that follows all real tokens. Rows of similar length are
in one block, which is as wide as its longest row.
"""

from collections.abc import Iterator, Sequence

import torch

from headcount.engine._block import PADDING, Block, distinct, scoring
from headcount.models.language_model import Prompt


def blocks(
    prompts: Sequence[Prompt], max_tokens: int, share: bool = True, equal: bool = False
) -> list[Block]:
    """Return blocks of at most `max_tokens` tokens, or of a single longer row.

    Prompts with the same input share a row if `share`. With `equal`, all rows of a block have the
    same length, so that none is padded.
    """
    inputs, owners = distinct(prompts, share)
    by_length = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    return [
        _block([inputs[i] for i in part], prompts, [owners[i] for i in part])
        for part in _parts(by_length, [len(tokens) for tokens in inputs], max_tokens, equal)
    ]


def _parts(
    by_length: list[int], lengths: list[int], max_tokens: int, equal: bool
) -> Iterator[list[int]]:
    part: list[int] = []
    for i in by_length:
        too_many = (len(part) + 1) * lengths[i] > max_tokens
        if part and (too_many or (equal and lengths[i] != lengths[part[0]])):
            yield part
            part = []
        part.append(i)
    yield part


def _block(
    inputs: Sequence[tuple], prompts: Sequence[Prompt], owners: Sequence[Sequence[int]]
) -> Block:
    R, T = len(inputs), max(map(len, inputs))
    tokens = torch.empty(R, T, dtype=torch.long)
    of_prompt = torch.full((R, T), PADDING)
    paths = []
    for row, (sequence, mine) in enumerate(zip(inputs, owners, strict=True)):
        size = len(sequence)
        tokens[row, :size] = torch.tensor(sequence)
        tokens[row, size:] = sequence[-1]  # not the padding token: some models treat it specially
        of_prompt[row, :size] = mine[0]
        paths.append(list(range(row * T, row * T + size)))
    return Block(
        tokens=tokens,
        positions=torch.arange(T).expand(R, T),
        owners=of_prompt.flatten(),
        **scoring(prompts, owners, paths),
    )
