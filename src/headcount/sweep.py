"""Log-likelihoods of many prompts under many masks.

Prompts with the same input (the single-token choices of one document) share one row; prompts of
similar length share a batch, and so do masks: a batch is [masks M x rows R, positions T].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headcount.model import LanguageModel, Prompt

MAX_TOKENS = 4096  # positions in a batch, padding and masks included


@dataclass
class Masks:
    """Which components are kept: heads [M, L, H] and ffns [M, L], True keeps."""

    heads: Tensor
    ffns: Tensor

    @classmethod
    def removing(
        cls,
        model: LanguageModel,
        removals: Sequence[tuple[Sequence[tuple[int, int]], Sequence[int]]],
    ) -> "Masks":
        """One mask for each pair: heads to remove as (layer, head), layers whose FFN to remove."""
        heads = torch.ones(len(removals), model.num_layers, model.num_heads, dtype=torch.bool)
        ffns = torch.ones(len(removals), model.num_layers, dtype=torch.bool)
        for mask, (removed_heads, removed_ffns) in enumerate(removals):
            for layer, head in removed_heads:
                heads[mask, layer, head] = False
            ffns[mask, list(removed_ffns)] = False
        return cls(heads, ffns)

    def __len__(self) -> int:
        return len(self.heads)


@dataclass
class Batch:
    """Prompts that run together: R distinct inputs, and the S target tokens scored in them."""

    tokens: Tensor  # [R, T], padded on the right
    rows: Tensor  # [S] row of each scored token
    positions: Tensor  # [S] position that predicts it
    targets: Tensor  # [S] the token
    prompts: Tensor  # [S] index of the prompt that it belongs to

    @property
    def prompts_of_rows(self) -> Tensor:
        """[R] the prompt of each row, for batches whose rows are not shared."""
        owner = torch.empty(len(self.tokens), dtype=torch.long)
        owner[self.rows] = self.prompts
        return owner


def batches(
    prompts: list[Prompt], max_tokens: int, masks: int = 1, share: bool = True
) -> Iterator[Batch]:
    """Batches of at most `max_tokens` positions when every row is run under `masks` masks.

    Rows are sorted by length, so that little is padding; a batch holds at least one. With `share`,
    prompts of the same input have a row in common; without, row r belongs to one prompt alone.
    """
    rows: dict[tuple, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault((*prompt.tokens, -1, 0 if share else index), []).append(index)
    waiting: list[list[int]] = []
    for row in sorted(rows.values(), key=lambda row: len(prompts[row[0]].tokens)):
        length = len(prompts[row[0]].tokens)
        if waiting and (len(waiting) + 1) * length * masks > max_tokens:
            yield _batch(waiting, prompts)
            waiting = []
        waiting.append(row)
    if waiting:
        yield _batch(waiting, prompts)


def _batch(rows: list[list[int]], prompts: list[Prompt]) -> Batch:
    inputs = [prompts[row[0]].tokens for row in rows]
    length = max(map(len, inputs))
    tokens = torch.tensor([[*tokens, *[0] * (length - len(tokens))] for tokens in inputs])  # [R, T]
    scored = [
        (row, len(inputs[row]) - len(prompts[index].targets) + j, target, index)
        for row, indices in enumerate(rows)
        for index in indices
        for j, target in enumerate(prompts[index].targets)
    ]
    return Batch(tokens, *torch.tensor(scored).T)


@torch.inference_mode()
def log_likelihoods(
    model: LanguageModel, prompts: list[Prompt], masks: Masks, max_tokens: int = MAX_TOKENS
) -> tuple[Tensor, Tensor]:
    """Summed log-likelihood of every prompt's targets under every mask, in nats.

    Returns log-likelihoods [M, prompts] (float64) and whether greedy decoding would produce the
    targets [M, prompts] (bool). Raises `FloatingPointError` when a log-likelihood is not finite.
    """
    total = torch.zeros(len(masks), len(prompts), dtype=torch.float64)
    greedy = torch.ones(len(masks), len(prompts), dtype=torch.bool)
    longest = max(len(prompt.tokens) for prompt in prompts)
    together = max(1, min(len(masks), max_tokens // (16 * longest)))  # masks in a batch
    for batch in batches(prompts, max_tokens, together):
        for first in range(0, len(masks), together):
            chosen = slice(first, first + together)
            scores, hits = _score(model, batch, masks.heads[chosen], masks.ffns[chosen])
            total[chosen].index_add_(1, batch.prompts, scores)
            misses = torch.zeros_like(total[chosen]).index_add_(1, batch.prompts, (~hits).double())
            greedy[chosen] &= misses == 0
    if not total.isfinite().all():
        mask, prompt = (~total.isfinite()).nonzero()[0].tolist()
        raise FloatingPointError(
            f"model {model.hf.name_or_path}: the log-likelihood of prompt {prompt} under mask "
            f"{mask} is {total[mask, prompt]}; try dtype: float32"
        )
    return total, greedy


def _score(
    model: LanguageModel, batch: Batch, heads: Tensor, ffns: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability [M, S] (float64) and greedy hit [M, S] of each scored token and mask."""
    M, R = len(heads), len(batch.tokens)
    tokens = batch.tokens.repeat(M, 1)  # [M * R, T], mask-major
    rows = (torch.arange(M)[:, None] * R + batch.rows).flatten()  # [M * S]
    with model.masked(heads.repeat_interleave(R, 0), ffns.repeat_interleave(R, 0)):
        logits = model.logits_at(tokens, rows, batch.positions.repeat(M))  # [M * S, vocabulary]
    targets = batch.targets.repeat(M).to(logits.device)
    scores = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    hits = logits.argmax(-1) == targets
    return scores.double().cpu().view(M, -1), hits.cpu().view(M, -1)
