"""How far the engine may be off, and the proof on a study's own prompts.

Bounds follow from the numbers' type and the sizes of the model, not from what was once measured.
Two correct programs add up the same terms in different orders, so each of them is off by rounding
errors whose size is known (`reference.rounding`). How far those lead, in this model, on this prompt
and under this mask, is found by running the reference with such errors `COPIES` times. Say a result
then has the standard deviation s. A group of results (prompts of one length under one mask, the
components of one layer) has a dozen copies or more: their largest deviation is mostly above 2 s,
and above s / 2 but for one case in 10^5. Two correct programs differ by a normal number of standard
deviation sqrt(2) s. So `FACTOR` = 8 times the largest deviation is 11 of these, and never less than
2.8; a difference beyond it is none of rounding. A greedy flag may differ only where the reference's
margin, the logit of the target less the best other one, is within the bound of that margin.

The noise is measured from the model, so it must not excuse any difference: in float32 none above
`CEILING` passes, whatever the copies say. The bounds of all families are far below it. A model that
goes beyond tosses coins, as where experts choose among the tokens of a whole batch. In half
precision rounding alone leads to differences of a nat and more in a model of thirty layers, under
which faults hide: so a model in half precision is proved in float32 as well
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

COPIES = 3  # of the reference, with other rounding errors
FACTOR = 8  # times the largest deviation of the copies
CEILING = 0.1  # nats, of log-likelihoods, margins, losses by a gate; of a pattern's probability
OTHERS = 4  # last tokens that are scored beside a continuation's own
WHOLE, GREEDY = "log-likelihoods", "greedy flags"  # properties

Group = tuple[str, str]  # a property, and the inputs, mask or layer that the results are of


class VerificationError(RuntimeError):
    """The engine does not compute what the model computes."""


def prove_on(model: LanguageModel, prompts: pa.Table, yaml: str | Path) -> None:
    """Compare the whole model on a study's own prompts: the longest and the shortest, packed.

    `prompts` is the artifact `tasks`. Other last tokens are scored beside each continuation's own,
    so that a bound rests on a dozen copies. What else is proved depends on the model alone, and
    stands in the artifact `verified`.

    A model in half precision is compared in float32 first.

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
    """Rows of the artifact `verified`, without its labels, of a model in the type that it has."""
    dtype = str(model.hf.dtype).removeprefix("torch.")
    rows = [(name, dtype, f.difference, f.bound, f.passed, f.where) for name, f in deviations]
    return pl.DataFrame(rows, schema=pl.Schema(ROWS["verified"]), orient="row")


# --- one result beside the other ---


@dataclass
class Deviation:
    """The largest difference in a group of results, and what rounding may explain there."""

    where: str
    difference: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.bound  # not where it is not a number

    @property
    def excess(self) -> float:
        """How many bounds the difference is; infinitely many where it is not a number."""
        excess = self.difference / self.bound if self.bound else self.difference
        return math.inf if math.isnan(excess) else excess


def ceiling(model: LanguageModel) -> float:
    """What no bound of a model exceeds: none in half precision, which alone proves little."""
    return math.inf if _upcast.is_half(model) else CEILING


def deviation(
    group: Group,
    reference: Tensor,
    found: Tensor | None,
    error: Exception | None,
    ceiling: float = CEILING,
) -> Deviation:
    """What the engine `found` beside the reference [1 + C, ...], whose first is exact."""
    exact, copies = reference[0].double(), reference[1:].double()
    rounding = FACTOR * (copies - exact).abs().max().item()
    # The results themselves are float32 at best.
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
    """P inputs of one length, and for each some continuations, whose last token is beyond it."""

    tokens: list[list[int]]  # [P, T]
    targets: list[list[list[int]]]  # [P][continuations][tokens]

    @property
    def prompts(self) -> list[Prompt]:
        """One for each continuation, input by input."""
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
        """To each input the continuation by the best token, from logits [P, last, vocabulary]."""
        for targets, best in zip(self.targets, logits[:, -1].argmax(-1).tolist(), strict=True):
            targets.append([best])

    def __str__(self) -> str:
        return f"{len(self.tokens[0])} tokens"


def scores_and_margins(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-likelihoods and margins [1 + C, prompts] from logits [1 + C, P, last, vocabulary]."""
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


# --- what does not hold ---


def failure(rows: pl.DataFrame, model: LanguageModel) -> str:
    """What does not hold, and what to do."""
    failed = rows.filter(~pl.col("passed")).iter_rows(named=True)
    lines = [
        f"model {model.hf.name_or_path}, {family(model)}, {model.hf.dtype}: headcount does not "
        "compute what the model computes, so no number of a study would mean anything",
        *(f"  {line}" for line in map(_line, failed)),
        "What to do: `dtype: float32` if it is another; `device_map: cpu`, to see whether the "
        "device decides; `layout`, if the wrong modules were taken for heads and FFNs; then report "
        "the family and these lines.",
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
