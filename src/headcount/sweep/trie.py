"""Idea 1, shared prefixes: prompts packed as a token trie, each common prefix once.

The choices of a document share its context, documents may share their examples. A block is a row
of N tokens that holds whole tries, without padding: a token's position is its depth in the trie,
and it sees its ancestors and itself. Attention is computed unit by unit:

    document 1          document 2
    c c c c c c a a b   c c c c a b b b      one block of N = 17 tokens
    |---------| |---|   |-------------|
    causal      small subtrees together, under a mask of who is whose ancestor;
                here the choices see the context before them
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from headcount.model import Prompt

WORTH = 4  # tokens: prompts that have fewer in common are packed apart
SMALL = 128  # tokens of subtrees that attend together, masked


@dataclass
class Unit:
    """Q consecutive tokens that attend together, and the K that they see: ancestors, themselves.

    `mask` [Q, K] says who sees whom; None: causal, and no ancestors.
    """

    queries: slice
    keys: list[slice]
    mask: Tensor | None = None
    strips: dict = field(default_factory=dict)  # kept by `headcount.sweep.attention`

    def __len__(self) -> int:
        return self.queries.stop - self.queries.start

    def sees(self) -> Tensor:
        """The mask [Q, K], also of a causal unit."""
        if self.mask is not None:
            return self.mask
        return torch.ones(len(self), len(self), dtype=torch.bool).tril()


@dataclass
class Block:
    """N packed tokens, and the S of them that are scored."""

    tokens: Tensor  # [N]
    positions: Tensor  # [N]
    seen: Tensor  # positions of the tokens that the units' keys are: [N] of the whole block
    units: list[Unit]  # by rising queries, together all of them
    owners: Tensor  # [N] a prompt that the token belongs to; the only one where none is shared
    scored: Tensor  # [S] the token that predicts a target; sorted, each once
    # A target of a prompt each [targets]: which of the S predicts it, the token, the prompt.
    rows: Tensor
    targets: Tensor
    prompts: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def scored_in_parts(self, size: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """At most `size` scored tokens at a time: those among the S, and their t targets.

        Of the targets: their indices [t], the row in the part that predicts each, the tokens.
        """
        for first in range(0, len(self.scored), size):
            part = slice(first, min(first + size, len(self.scored)))
            here = ((self.rows >= part.start) & (self.rows < part.stop)).nonzero()[:, 0]
            yield part, here, self.rows[here] - first, self.targets[here]

    def scored_alone(self) -> "Block":
        """The S scored tokens, which see the tokens of this block: enough for the last layer."""
        units, first = [], 0
        for unit in self.units:
            inside = (self.scored >= unit.queries.start) & (self.scored < unit.queries.stop)
            rows = self.scored[inside] - unit.queries.start
            if len(rows):
                queries = slice(first, first + len(rows))
                units.append(Unit(queries, unit.keys, unit.sees()[rows]))
                first += len(rows)
        return replace(
            self,
            tokens=self.tokens[self.scored],
            positions=self.positions[self.scored],
            units=units,
            owners=self.owners[self.scored],
            scored=torch.arange(len(self.scored)),
        )


def blocks(prompts: Sequence[Prompt], max_tokens: int, share: bool = True) -> list[Block]:
    """Prompts packed in blocks of at most `max_tokens` tokens, or of a single longer input.

    Without `share`, every prompt has its tokens to itself.
    """
    inputs: dict[tuple, list[int]] = {}  # input -> its prompts
    for index, prompt in enumerate(prompts):
        inputs.setdefault((tuple(prompt.tokens), 0 if share else index), []).append(index)
    ordered = sorted(inputs)
    sequences = [np.array(tokens) for tokens, _ in ordered]
    common = [_common(a, b) if share else 0 for a, b in pairwise(sequences)]
    return [
        _block(sequences[part], common[part.start : part.stop - 1], prompts, owners)
        for part in _parts(sequences, common, max_tokens)
        for owners in [[inputs[key] for key in ordered[part]]]
    ]


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _parts(sequences: list[np.ndarray], common: list[int], max_tokens: int) -> Iterator[slice]:
    """Cut the sorted sequences into blocks, between tries where possible.

    A trie that is larger than a block is cut as well, and its beginning repeated.
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
    """Tokens of a trie without a branch, and what follows them."""

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
    """The block of some sorted sequences; owners[i] are the prompts whose input is sequence i."""
    cuts = [0, *(i + 1 for i, shared in enumerate(common) if shared < WORTH), len(sequences)]
    tries = [_node(sequences, common, first, end, 0) for first, end in pairwise(cuts)]
    packing = _Packing()
    packing.pack(tries, [])
    scored, owner_of_token = [], torch.empty(packing.length, dtype=torch.long)
    for sequence, path in packing.paths.items():
        owner_of_token[path] = owners[sequence][0]
        for prompt in owners[sequence]:
            predicts = path[-len(prompts[prompt].targets) :]
            scored += zip(predicts, prompts[prompt].targets, [prompt] * len(predicts), strict=True)
    places, targets, owner = torch.tensor(scored).T
    places, rows = places.unique(return_inverse=True)
    positions = torch.from_numpy(np.concatenate(packing.positions))
    return Block(
        tokens=torch.from_numpy(np.concatenate(packing.tokens)),
        positions=positions,
        seen=positions,
        units=packing.units,
        owners=owner_of_token,
        scored=places,
        rows=rows,
        targets=targets,
        prompts=owner,
    )


def _node(
    sequences: list[np.ndarray], common: list[int], first: int, end: int, depth: int
) -> _Node:
    """The trie of sequences[first:end], which have their first `depth` tokens in common."""
    shared = min([len(sequences[first]), *common[first : end - 1]])
    node = _Node(sequences[first][depth:shared], depth)
    if len(sequences[first]) == shared:  # sorted: only the first can end here
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
    """Lays tries out in a row, and cuts the row into units of attention."""

    def __init__(self):
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.units: list[Unit] = []
        self.paths: dict[int, list[int]] = {}  # sequence -> indices of its tokens in the block
        self.length = 0

    def pack(self, nodes: list[_Node], ancestors: list[_Node]) -> None:
        """Lay out subtrees that hang on the last of `ancestors`: small ones together."""
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
        """A unit of the node's own tokens; then its children."""
        start = self.length
        self._lay(node, ancestors)
        path = [*ancestors, node]
        queries = slice(start, self.length)
        mask = None
        if ancestors:
            seen = sum(len(ancestor.tokens) for ancestor in ancestors)
            mask = torch.ones(len(node.tokens), seen + len(node.tokens), dtype=torch.bool)
            mask = mask.tril(diagonal=seen)
        self.units.append(Unit(queries, _ranges(path), mask))
        self.pack(node.children, path)

    def _together(self, nodes: list[_Node], ancestors: list[_Node]) -> None:
        """One unit of whole subtrees."""
        start = self.length
        seen = sum(len(ancestor.tokens) for ancestor in ancestors)
        size = sum(node.size for node in nodes)
        mask = torch.zeros(size, seen + size, dtype=torch.bool)
        mask[:, :seen] = True
        for node in nodes:
            self._lay_below(node, ancestors, [], mask, start, seen)
        own = slice(start, self.length)
        self.units.append(Unit(own, _merged([*_ranges(ancestors), own]), mask))

    def _lay_below(
        self,
        node: _Node,
        ancestors: list[_Node],
        inside: list[_Node],
        mask: Tensor,
        start: int,
        seen: int,
    ) -> None:
        """Lay out a subtree of a unit; `inside` are the node's ancestors in the unit."""
        self._lay(node, [*ancestors, *inside])
        first, size = node.start - start, len(node.tokens)
        own = slice(first, first + size)
        mask[own, seen + first : seen + first + size] = torch.ones(size, size).tril().bool()
        for ancestor in inside:
            place = seen + ancestor.start - start
            mask[own, place : place + len(ancestor.tokens)] = True
        for child in node.children:
            self._lay_below(child, ancestors, [*inside, node], mask, start, seen)

    def _lay(self, node: _Node, above: list[_Node]) -> None:
        node.start = self.length
        self.length += len(node.tokens)
        self.tokens.append(node.tokens)
        self.positions.append(np.arange(node.depth, node.depth + len(node.tokens)))
        for sequence in node.ends:
            path = [range(n.start, n.start + len(n.tokens)) for n in (*above, node)]
            self.paths[sequence] = [index for part in path for index in part]


def _ranges(nodes: list[_Node]) -> list[slice]:
    return _merged([slice(node.start, node.start + len(node.tokens)) for node in nodes])


def _merged(ranges: list[slice]) -> list[slice]:
    """The same indices in fewer ranges."""
    merged: list[slice] = []
    for part in ranges:
        if merged and merged[-1].stop == part.start:
            merged[-1] = slice(merged[-1].start, part.stop)
        else:
            merged.append(part)
    return merged
