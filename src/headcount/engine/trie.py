"""Idea 1, shared prefixes: prompts packed as a token trie, each common prefix once.

The choices of a document share its context, and documents may share examples. A block is a row of N
tokens that contains whole tries, without padding: a token's position is its depth in the trie, and
it sees its ancestors and itself. The tries are laid out depth first, so that one number per token
says who sees whom: q sees k exactly when k <= q < ends[k]. Attention is computed unit by unit:

    document 1          document 2
    c c c c c c a a b   c c c c a b b b      one block of N = 17 tokens
    |---------| |---|   |-------------|
    its own     small subtrees together;
                here the choices see the context before them
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from headcount.engine._block import Block, distinct, scoring
from headcount.models.language_model import Prompt

WORTH = 4  # tokens: prompts with fewer in common are packed separately
SMALL = 128  # tokens of subtrees that attend together, with a mask


@dataclass
class Unit:
    """Q consecutive tokens that attend together, and the ranges of tokens that they may see."""

    queries: slice
    keys: list[slice]


def blocks(prompts: Sequence[Prompt], max_tokens: int, share: bool = True) -> list[Block]:
    """Return prompts packed in blocks of at most `max_tokens` tokens, or of one longer input.

    Without `share`, prompts share no tokens.
    """
    inputs, owners = distinct(prompts, share)
    sequences = [np.array(tokens) for tokens in inputs]
    common = [_common(a, b) if share else 0 for a, b in pairwise(sequences)]
    return [
        _block(sequences[part], common[part.start : part.stop - 1], prompts, owners[part])
        for part in _parts(sequences, common, max_tokens)
    ]


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Return the length of the common prefix."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _parts(sequences: list[np.ndarray], common: list[int], max_tokens: int) -> Iterator[slice]:
    """Yield the sorted sequences in blocks, cut between tries if possible.

    A trie that is larger than a block is cut too, and its beginning repeated.
    """
    cuts = [0, *(i + 1 for i, shared in enumerate(common) if shared < WORTH), len(sequences)]
    start, filled = 0, 0
    for first, end in pairwise(cuts):
        sizes = [len(sequences[first])]
        sizes += [len(sequences[i]) - common[i - 1] for i in range(first + 1, end)]
        if filled and filled + sum(sizes) > max_tokens:
            yield slice(start, first)
            start, filled = first, 0
        if sum(sizes) <= max_tokens:
            filled += sum(sizes)
            continue
        for i, size in zip(range(first, end), sizes, strict=True):
            if filled and filled + size > max_tokens:
                yield slice(start, i)
                start, filled, size = i, 0, len(sequences[i])
            filled += size
    yield slice(start, len(sequences))


# --- one block ---


@dataclass
class _Node:
    """A branchless piece of a trie, and the pieces that follow it."""

    tokens: np.ndarray
    depth: int  # of the first token
    children: list["_Node"] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # sequences whose last token is the last here
    start: int = 0  # index of the first token in the block
    size: int = 0  # tokens here and below


def _block(
    sequences: list[np.ndarray],
    common: list[int],
    prompts: Sequence[Prompt],
    owners: list[list[int]],
) -> Block:
    """Return the block of sorted sequences; owners[i] are the prompts with input i."""
    cuts = [0, *(i + 1 for i, shared in enumerate(common) if shared < WORTH), len(sequences)]
    tries = [_node(sequences, common, first, end, 0) for first, end in pairwise(cuts)]
    packing = _Packing()
    packing.pack(tries, [])
    paths = [packing.paths[sequence] for sequence in range(len(sequences))]
    owner_of_token = torch.empty(packing.length, dtype=torch.long)
    for mine, path in zip(owners, paths, strict=True):
        owner_of_token[path] = mine[0]
    return Block(
        tokens=torch.from_numpy(np.concatenate(packing.tokens))[None],
        positions=torch.from_numpy(np.concatenate(packing.positions))[None],
        owners=owner_of_token,
        ends=torch.from_numpy(np.concatenate(packing.ends)),
        units=packing.units,
        **scoring(prompts, owners, paths),
    )


def _node(
    sequences: list[np.ndarray], common: list[int], first: int, end: int, depth: int
) -> _Node:
    """Return the trie of sequences[first:end], below their common first `depth` tokens."""
    shared = min([len(sequences[first]), *common[first : end - 1]])
    node = _Node(sequences[first][depth:shared], depth)
    if len(sequences[first]) == shared:  # sorted, so that only the first can end here
        node.ends.append(first)
        first += 1
    while first < end:
        after = first + 1
        while after < end and common[after - 1] > shared:
            after += 1
        node.children.append(_node(sequences, common, first, after, shared))
        first = after
    node.size = len(node.tokens) + sum(child.size for child in node.children)
    return node


class _Packing:
    """Tries laid out in a row, depth first, and cut into units of attention."""

    def __init__(self) -> None:
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.units: list[Unit] = []
        self.paths: dict[int, list[int]] = {}  # sequence -> indices of its tokens in the block
        self.length = 0

    def pack(self, nodes: list[_Node], ancestors: list[_Node]) -> None:
        """Lay out subtrees below the last of `ancestors`, small ones together."""
        together: list[_Node] = []
        for node in nodes:
            if together and sum(n.size for n in together) + node.size > SMALL:
                self._together(together, ancestors)
                together = []
            if node.size <= SMALL:
                together.append(node)
            else:
                self._alone(node, ancestors)
        if together:
            self._together(together, ancestors)

    def _alone(self, node: _Node, ancestors: list[_Node]) -> None:
        """Lay out a unit of the node's own tokens, then its children."""
        start = self.length
        self._lay(node, ancestors)
        path = [*ancestors, node]
        self.units.append(Unit(slice(start, self.length), _ranges(path)))
        self.pack(node.children, path)

    def _together(self, nodes: list[_Node], ancestors: list[_Node]) -> None:
        """Lay out one unit of whole subtrees."""
        start = self.length
        for node in nodes:
            self._lay_below(node, ancestors)
        own = slice(start, self.length)
        self.units.append(Unit(own, _merged([*_ranges(ancestors), own])))

    def _lay_below(self, node: _Node, ancestors: list[_Node]) -> None:
        """Lay out a whole subtree."""
        self._lay(node, ancestors)
        for child in node.children:
            self._lay_below(child, [*ancestors, node])

    def _lay(self, node: _Node, above: list[_Node]) -> None:
        """Lay out a node's own tokens, which are seen up to the end of its subtree."""
        node.start = self.length
        size = len(node.tokens)
        self.length += size
        self.tokens.append(node.tokens)
        self.positions.append(np.arange(node.depth, node.depth + size))
        self.ends.append(np.full(size, node.start + node.size))
        for sequence in node.ends:
            path = [range(n.start, n.start + len(n.tokens)) for n in (*above, node)]
            self.paths[sequence] = [index for part in path for index in part]


def _ranges(nodes: list[_Node]) -> list[slice]:
    return _merged([slice(node.start, node.start + len(node.tokens)) for node in nodes])


def _merged(ranges: list[slice]) -> list[slice]:
    """Return the same indices in fewer ranges."""
    merged: list[slice] = []
    for part in ranges:
        if merged and merged[-1].stop == part.start:
            merged[-1] = slice(merged[-1].start, part.stop)
        else:
            merged.append(part)
    return merged
