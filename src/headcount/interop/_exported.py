"""Check that an exported checkpoint is the model that was studied.

The study's engine computes log-likelihoods of random prompts under the mask; transformers loads the
checkpoint and computes the same, both in float32, whatever the type of the stored weights. The
bound of the difference is found as in `headcount.verification.tolerance`: by running the checkpoint
with deliberate rounding errors.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate.utils import get_max_memory
from torch import Tensor

from headcount.engine import Masks, log_likelihoods
from headcount.engine.removal import Removal
from headcount.models import loading as model_loading
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel
from headcount.verification.properties import TARGETS, random_batches
from headcount.verification.reference import Reference
from headcount.verification.tolerance import (
    COPIES,
    WHOLE,
    Batch,
    Deviation,
    deviation,
    scores_and_margins,
)

SEED = 0  # of the prompts, and of the rounding errors


@dataclass
class Expected:
    """The study's results for a pruned model."""

    removed: Removal
    batches: list[Batch]
    log_likelihoods: list[Tensor]  # [prompts] of each batch
    texts: dict[str, list[int]]  # text -> its tokens


class Differs(Exception):  # noqa: N818 - a finding, not a fault
    """A checkpoint is not the model that was studied; the message says where."""


def expected(model: LanguageModel, removed: Removal) -> Expected:
    """Return the study's results without `removed`, padded: every family has that backend."""
    model.backend = "own"
    asked = random_batches(model, np.random.default_rng(SEED))
    prompts = [prompt for batch in asked for prompt in batch.prompts]
    swept, _ = log_likelihoods(model, prompts, Masks.removing(model, [removed]))
    sums = list(swept[0].split([len(batch.prompts) for batch in asked]))
    texts = [model.tokenizer.decode(batch.tokens[0]) for batch in asked]
    read = {text: model.tokenizer(text)["input_ids"] for text in texts}
    return Expected(removed, asked, sums, read)


def compare(checkpoint: LanguageModel, expected: Expected) -> Deviation:
    """Return the largest deviation of plain transformers on `checkpoint` from the study.

    `checkpoint` is an unmodified model; `headcount.verification.reference` runs its forward pass.
    """
    reference = Reference(checkpoint, COPIES, SEED)
    deviations = []
    for batch, sums in zip(expected.batches, expected.log_likelihoods, strict=True):
        logits = reference.logits(batch.tokens, TARGETS, [((), ())], checkpoint.heads)
        scores, _ = scores_and_margins(logits[:, 0], batch)  # [1 + C, prompts]
        deviations.append(deviation((WHOLE, str(batch)), scores, sums, None))
    return max(deviations, key=lambda one: one.excess)


def check(directory: Path, loading: dict, expected: Expected) -> Deviation:
    """Return `compare` for the checkpoint in `directory`.

    `loading` is for `headcount.models.loading.load`. Raises `Differs` when it is not the model that
    was studied, or does not load.
    """
    try:
        checkpoint = model_loading.load(directory, **loading)
        found = compare(checkpoint, expected)
    except ModelError as error:
        raise Differs(str(error)) from error
    if not found.passed:
        raise Differs(
            f"log-likelihoods are off by {found.difference:.3g}, where rounding explains "
            f"{found.bound:.3g} ({found.where})"
        )
    for text, tokens in expected.texts.items():
        if checkpoint.tokenizer(text)["input_ids"] != tokens:
            raise Differs(f"its tokenizer encodes {text!r} differently")
    return found


def place(weights: dict[str, Tensor]) -> str:
    """Return the `device_map` of a model with these weights in float32: in free memory, or disk."""
    needed = sum(4 * weight.numel() for weight in weights.values())
    return "cpu" if needed < get_max_memory()["cpu"] else "disk"
