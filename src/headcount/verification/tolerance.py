"""Bounds of the engine's deviation from the reference, and the proof on a study's own prompts.

Bounds follow from the type of the numbers and the sizes of the model, not from past measurements.
Two correct programs sum the same terms in different orders, so that both have rounding errors of
known size (`reference.rounding`). Their effect in this model, on this prompt and under this mask is
found by running the reference with such errors, `COPIES` times. Let s be the standard deviation of
a result. A group of results (prompts of one length under one mask, the components of one layer) has
a dozen copies or more: their largest deviation is mostly above 2 s, and above s / 2 except in one
case in 10^5. Two correct programs differ by a normal number with standard deviation sqrt(2) s. So
the bound, `FACTOR` = 8 times the largest deviation, is about 11 and at least 2.8 of these standard
deviations: rounding does not explain a larger difference. A greedy flag may differ only if the
reference's margin, the logit of the target minus the best other one, is within its bound.

Noise that is measured on the model must not excuse every difference: in float32 none above
`CEILING` passes, whatever the copies say. The bounds of all families are far below it. A model
beyond it decides by chance, for example if experts choose among the tokens of a whole batch. In
half precision, rounding alone can cause differences of a nat and more in a model of thirty layers,
which would hide faults. So a half-precision model is also proved in float32
(`headcount.verification._upcast`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from headcount.artifacts.schemas import ROWS
from headcount.engine import Masks, log_likelihoods
from headcount.models.language_model import LanguageModel, Prompt, ordinary_tokens
from headcount.scores.documents import encode
from headcount.verification import _upcast
from headcount.verification.reference import Reference

COPIES = 3  # of the reference, with different rounding errors
FACTOR = 8  # times the largest deviation of the copies
CEILING = 0.1  # nats for log-likelihoods, margins, gate gradients; probability for patterns
OTHERS = 4  # last tokens scored in place of a continuation's own
WHOLE, GREEDY = "log-likelihoods", "greedy flags"  # properties

Group = tuple[str, str]  # a property, and the inputs, mask or layer of the results


class VerificationError(RuntimeError):
    """The engine does not compute what the model computes."""


def prove_on(model: LanguageModel, prompts: pa.Table, yaml: str | Path) -> None:
    """Compare the whole model on a study's own prompts, the longest and the shortest, packed.

    `prompts` is the artifact `tasks`. Other last tokens are scored too, so that a bound has a dozen
    copies. Properties that depend on the model alone are in the artifact `verified`.

    A half-precision model is compared in float32 first.

    Raises `VerificationError` when a log-likelihood or a greedy flag differs.
    """
    by_length = sorted(prompts.to_pylist(), key=lambda r: len(r["context"] + r["continuation"]))
    chosen = encode(model, [by_length[0], by_length[-1]], yaml)
    others = ordinary_tokens(model.tokenizer, exclude_fraction=0)[:OTHERS].tolist()
    batches = [
        Batch([p.tokens], [[p.targets, *([*p.targets[:-1], other] for other in others)]])
        for p in chosen
    ]
    if _upcast.is_half(model):
        with _upcast.in_float32(model):
            _prove_whole(model, batches)
    _prove_whole(model, batches)


def _prove_whole(model: LanguageModel, batches: list["Batch"]) -> None:
    together = [prompt for batch in batches for prompt in batch.prompts]
    swept = log_likelihoods(model, together, Masks.removing(model, [((), ())]))
    parts = [of[0].split([len(batch.prompts) for batch in batches]) for of in swept]
    reference = Reference(model, COPIES, seed=0)
    deviations = []
    for batch, *found in zip(batches, *parts, strict=True):
        last = len(batch.targets[0][0])
        logits = reference.logits(batch.tokens, last, [((), ())], model.heads)
        expected = scores_and_margins(logits[:, 0], batch)
        for name, exact, ours in zip((WHOLE, GREEDY), expected, found, strict=True):
            group = name, f"a prompt of the study, {batch}"
            deviations.append((name, deviation(group, exact, ours, None, ceiling(model))))
    rows = table(deviations, model)
    if not rows["passed"].all():
        raise VerificationError(failure(rows, model))


def table(deviations: Iterable[tuple[str, "Deviation"]], model: LanguageModel) -> pl.DataFrame:
    """Return rows of the artifact `verified`, without labels, for the model in its present type."""
    dtype = str(model.hf.dtype).removeprefix("torch.")
    rows = [(name, dtype, f.difference, f.bound, f.passed, f.where) for name, f in deviations]
    return pl.DataFrame(rows, schema=pl.Schema(ROWS["verified"]), orient="row")


# --- deviations ---


@dataclass
class Deviation:
    """The largest difference in a group of results, and its bound."""

    where: str
    difference: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.bound  # false for nan

    @property
    def excess(self) -> float:
        """The ratio of the difference to its bound; infinite for nan."""
        excess = self.difference / self.bound if self.bound else self.difference
        return math.inf if math.isnan(excess) else excess


def ceiling(model: LanguageModel) -> float:
    """Return the ceiling of a model's bounds; half precision has none, as it proves little."""
    return math.inf if _upcast.is_half(model) else CEILING


def deviation(
    group: Group,
    reference: Tensor,
    found: Tensor | None,
    error: Exception | None,
    ceiling: float = CEILING,
) -> Deviation:
    """Return the deviation of the engine's `found` from the reference [1 + C, ...]."""
    exact, copies = reference[0].double(), reference[1:].double()
    rounding = FACTOR * (copies - exact).abs().max().item()
    # The results are float32 at best.
    bound = min(rounding + torch.finfo(torch.float32).eps * exact.abs().max().item(), ceiling)
    if found is None:
        return Deviation(f"{type(error).__name__}: {error}", math.inf, bound)
    if found.shape != exact.shape:
        shapes = f"{[*found.shape]} instead of {[*exact.shape]}"
        return Deviation(f"{group[1]}: {shapes} results", math.inf, bound)
    if found.dtype == torch.bool:  # greedy flags beside margins
        differing = exact.abs()[found != (exact > 0)]
        return Deviation(group[1], differing.max().item() if len(differing) else 0.0, bound)
    return Deviation(group[1], (found.double() - exact).abs().max().item(), bound)


@dataclass
class Batch:
    """P inputs of one length, each with some continuations, whose last token follows it."""

    tokens: list[list[int]]  # [P, T]
    targets: list[list[list[int]]]  # [P][continuations][tokens]

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts, one for each continuation, input by input."""
        pairs = zip(self.tokens, self.targets, strict=True)
        return [Prompt(tokens, target, False) for tokens, targets in pairs for target in targets]

    @property
    def first(self) -> list[list[int]]:
        """The first continuation of each input; they have the same length."""
        return [targets[0] for targets in self.targets]

    @property
    def first_prompts(self) -> list[Prompt]:
        pairs = zip(self.tokens, self.first, strict=True)
        return [Prompt(tokens, target, False) for tokens, target in pairs]

    def add_greedy(self, logits: Tensor) -> None:
        """Add to each input the best next token as continuation; logits [P, last, vocabulary]."""
        for targets, best in zip(self.targets, logits[:, -1].argmax(-1).tolist(), strict=True):
            targets.append([best])

    def __str__(self) -> str:
        return f"{len(self.tokens[0])} tokens"


def scores_and_margins(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log-likelihoods and margins [1 + C, prompts]; logits [1 + C, P, last, vocabulary]."""
    log_p = logits.log_softmax(-1)
    best = logits.topk(2).values  # [1 + C, P, last, 2]
    scores, margins = [], []
    for i, targets in enumerate(batch.targets):
        for target in targets:
            places = range(logits.shape[2] - len(target), logits.shape[2])
            own = logits[:, i, places, target]  # [1 + C, targets]
            first, second = best[:, i, places].unbind(-1)
            margins.append((own - torch.where(own == first, second, first)).amin(-1))
            scores.append(log_p[:, i, places, target].double().sum(-1))
    return torch.stack(scores, -1), torch.stack(margins, -1)


# --- failures ---


def failure(rows: pl.DataFrame, model: LanguageModel) -> str:
    """Return a message with the properties that do not hold, and what to do."""
    failed = rows.filter(~pl.col("passed")).iter_rows(named=True)
    lines = [
        f"model {model.hf.name_or_path}, {family(model)}, {model.hf.dtype}: headcount does not "
        "compute what the model computes, so no number of a study would mean anything",
        *(f"  {line}" for line in map(_line, failed)),
        "What to do: try `dtype: float32`; try `device_map: cpu`, to see whether it is the device; "
        "set `layout`, if the wrong modules were taken for heads and FFNs; then report the family "
        "and these lines.",
    ]
    return "\n".join(lines)


def _line(row: dict) -> str:
    name = f"{row['property']}, in {row['dtype']}"
    if math.isinf(row["difference"]):
        return f"{name}: {row['where']}"
    most = " at most" if row["bound"] == CEILING else ""
    differs = f"off by {row['difference']:.3g}, where rounding explains {row['bound']:.3g}{most}"
    return f"{name}: {differs} ({row['where']})"


def family(model: LanguageModel) -> str:
    return f"{type(model.hf).__name__} ({model.hf.config.model_type})"
