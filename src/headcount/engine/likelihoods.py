"""Log-likelihoods of prompts under masks."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headcount.engine._backend import choose_backend
from headcount.engine._block import Block
from headcount.engine._wave import Wave
from headcount.engine.layers import is_offloaded, outside, resident
from headcount.engine.memory import Budget, retry_with_less
from headcount.engine.removal import Ablation
from headcount.engine.sharing import Masks, Step, Tree, tree
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, Prompt
from headcount.progress import Progress


class Swept(NamedTuple):
    """A finished part of a sweep: m of its masks on p of its prompts."""

    masks: list[int]
    prompts: Tensor  # [p]
    log_likelihoods: Tensor  # [m, p] float64, summed over a prompt's targets, in nats
    is_greedy: Tensor  # [m, p] whether greedy decoding would produce the targets


def log_likelihoods(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    masks: Masks,
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of every prompt's targets under every mask, and greedy flags.

    The log-likelihoods [M, prompts] (float64) are in nats, summed over targets. The flags
    [M, prompts] (bool) say whether greedy decoding would produce the targets. `model.memory` bounds
    the memory beside the weights; it changes results by rounding alone.

    Raises `FloatingPointError` when a log-likelihood is not finite, and `MemoryError` when memory
    runs out even with half of `model.memory`.
    """

    def collected() -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(masks), len(prompts), dtype=torch.float64)
        greedy = torch.ones(len(masks), len(prompts), dtype=torch.bool)
        for part in in_parts(model, prompts, masks):
            where = torch.tensor(part.masks)[:, None], part.prompts
            total[where], greedy[where] = part.log_likelihoods, part.is_greedy
        return total, greedy

    return retry_with_less(model, collected)


@torch.inference_mode()
def in_parts(model: LanguageModel, prompts: Sequence[Prompt], masks: Masks) -> Iterator[Swept]:
    """Yield the same results in parts: some masks on the prompts of a wave at a time.

    Raises `FloatingPointError` when a log-likelihood is not finite.
    """
    budget = Budget.of(model)
    backend = choose_backend(model, max(len(prompt.tokens) for prompt in prompts))
    packing = backend.blocks(model, prompts, budget.rows, share=True)
    progress = Progress("masks x prompts", len(masks) * len(prompts), "evaluation")
    with backend.attention(model):
        for part in _mask_parts(model, masks, packing, budget):
            states = tree(masks[part])
            for blocks in _waves(model, packing, states, budget):
                with Wave(model, backend, blocks, budget) as wave:
                    swept = _of_wave(wave, states, masks.ablation, progress)
                _check_finite(model, swept)
                yield swept._replace(masks=part)


def _of_wave(wave: Wave, states: Tree, ablation: Ablation | None, progress: Progress) -> Swept:
    """Return the results of all masks of a tree on the prompts of a wave."""
    of_wave = torch.cat([block.prompts for block in wave.blocks]).unique()
    ending = defaultdict(list)  # the masks of each last state
    for mask, leaf in enumerate(states.leaves):
        ending[leaf].append(mask)
    M, p = len(states.leaves), len(of_wave)
    total = torch.zeros(M, p, dtype=torch.float64)
    misses = torch.zeros(M, p, dtype=torch.float64)
    for leaf, block, scores, hits in _sweep(wave, states, ablation, progress):
        columns = torch.searchsorted(of_wave, block.prompts)
        for mask in ending[leaf]:
            total[mask].index_add_(0, columns, scores)
            misses[mask].index_add_(0, columns, (~hits).double())
    return Swept(list(range(M)), of_wave, total, misses == 0)


def _check_finite(model: LanguageModel, swept: Swept) -> None:
    finite = swept.log_likelihoods.isfinite()
    if not finite.all():
        mask, column = (~finite).nonzero()[0].tolist()
        raise FloatingPointError(
            f"model {model.hf.name_or_path}: the log-likelihood of prompt "
            f"{int(swept.prompts[column])} is {swept.log_likelihoods[mask, column]} (mask {mask} "
            f"of those swept together){model.non_finite_weights()}; try dtype: float32"
        )


def _mask_parts(
    model: LanguageModel, masks: Masks, packing: list[Block], budget: Budget
) -> list[list[int]]:
    """Return the masks in parts such that a part's states of one block fit in memory.

    A model whose weights are read from disk is swept once; its states go to disk instead.
    """
    everything = list(range(len(masks)))
    width = max(1, budget.states // (budget.row * max(map(len, packing))))
    if is_offloaded(model) or tree(masks).width <= width:
        return [everything]
    return [everything[first : first + width] for first in range(0, len(masks), width)]


def _waves(
    model: LanguageModel, packing: list[Block], states: Tree, budget: Budget
) -> Iterator[list[Block]]:
    """Yield blocks that pass the layers together: as many as fit, or all if offloaded."""
    if is_offloaded(model):
        yield packing
        return
    wave: list[Block] = []
    for block in packing:
        tokens = sum(map(len, wave)) + len(block)
        if wave and tokens * states.width * budget.row > budget.states:
            yield wave
            wave = []
        wave.append(block)
    yield wave


def _sweep(
    wave: Wave, states: Tree, ablation: Ablation | None, progress: Progress
) -> Iterator[tuple[int, Block, Tensor, Tensor]]:
    """Yield (leaf, block, log-probability of each target [targets], whether it is the best).

    All are copied from the device at once: nothing waits for it before.
    """
    model, held, indices = wave.model, wave.held, range(len(wave.blocks))
    prompts = sum(len(block.prompts.unique()) for block in wave.blocks)
    of_pass = prompts * len(states.leaves) / states.passes  # evaluations
    for layer, steps in enumerate(states.steps):
        waiting = Counter(parent for step in steps for parent in step.parents)
        with resident(*model.layers[layer].modules()):
            for step in steps:
                for index in indices:
                    _pass(wave, layer, step, index, ablation)
                progress.advance(len(step.parents) * of_pass)
                for parent in step.parents:
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        for index in indices:
                            held.drop((layer, parent, index))
    ends = [(leaf, index) for leaf in sorted(set(states.leaves)) for index in indices]
    with resident(*outside(model)):
        found = [
            _score(wave, index, held.get((len(states.steps), leaf, index))) for leaf, index in ends
        ]
    sizes = [len(wave.blocks[index].targets) for _, index in ends]
    scores, hits = torch.cat(found, dim=1).cpu()
    parts = zip(ends, scores.double().split(sizes), hits.bool().split(sizes), strict=True)
    for (leaf, index), of_block, hits_of_block in parts:
        yield leaf, wave.blocks[index], of_block, hits_of_block


def _pass(wave: Wave, layer: int, step: Step, index: int, ablation: Ablation | None) -> None:
    """Pass a step's states of one block through a layer, some at a time."""
    together = max(1, wave.budget.rows // len(wave.blocks[index]))
    for first in range(0, len(step.parents), together):
        parents = step.parents[first : first + together]
        children = step.children[first : first + together]
        before = [wave.held.get((layer, parent, index)) for parent in parents]
        after = wave.through(layer, index, before, step.heads, step.ffn, ablation)
        for child, state in zip(children, after, strict=True):
            wave.held.put((layer + 1, child, index), state)


def _score(wave: Wave, index: int, state: State) -> Tensor:
    """Return log-probability and greedy hit [2, targets], float32, from a block's last state."""
    block = wave.blocks[index]
    found = []
    for part, here, rows, targets in block.scored_in_parts(wave.budget.logits):
        logits = wave.passages[index].logits(state, part)  # [s, vocabulary]
        rows, targets = rows.to(logits.device), targets.to(logits.device)
        # As in lm-eval: logsumexp rounds differently, by up to 1e-5 per token.
        chosen = logits.log_softmax(-1, dtype=torch.float32)[rows, targets]
        hits = logits.argmax(-1)[rows] == targets
        found.append((here, torch.stack([chosen, hits.to(chosen)])))
    order = torch.cat([here for here, _ in found]).argsort()
    return torch.cat([of_part for _, of_part in found], dim=1)[:, order]
