"""Does the engine compute what the model computes? Shown on a user's own checkpoint.

In the dtype and at the place that a study uses, the engine (`sweep`, `importance`, `induction`) is
compared with the unmodified Hugging Face model (`reference`) on random prompts and on prompts of
the study: very short ones, some of a few words and the study's longest, packed together, many with
a context in common. Every layer loses some of its heads under one of the masks.

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
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from headcount import importance, induction
from headcount import model as models
from headcount.artifacts import SCHEMAS
from headcount.model import LanguageModel, Prompt
from headcount.reference import Reference, Removal
from headcount.sweep import Masks, log_likelihoods

logger = logging.getLogger(__name__)

COPIES = 3  # of the reference, with other rounding errors
FACTOR = 8  # times the largest deviation of the copies
SHORT, SOME = 3, 24  # tokens of inputs
LONGEST = 128  # tokens of the longest input where there is no study
TARGETS = 3  # tokens of the longer continuations

# The properties, in the order of the table.
WHOLE = "log-likelihoods"
REMOVALS = ("some heads removed", "all heads of a layer removed", "FFNs removed")
GREEDY = "greedy flags"
GRADIENTS = {"heads": "gradient scores of heads", "ffns": "gradient scores of FFNs"}
PATTERNS = "attention patterns"
AFTERWARDS = "the model itself, afterwards"

WAYS = {"packed": "packed", "own": "by the model's own attention"}

Group = tuple[str, str]  # a property, and the inputs, mask or layer that the results are of
Results = dict[Group, Tensor]  # of the engine [...], of the reference [1 + C, ...]


class VerificationError(RuntimeError):
    """The engine does not compute what the model computes."""


def verify(model: LanguageModel, study: Sequence[Prompt] = (), seed: int = 0) -> pl.DataFrame:
    """Rows of the artifact `verified`: of every property the largest difference, and its bound.

    `study` are prompts of a study, its longest among them. The row of a property is of the group of
    results whose difference is the largest beside its bound. Where the engine ends with an error,
    the difference is infinite and the error stands in place of the group.
    """
    examination = Examination(model, study, seed)
    expected = examination.expected()
    found, error = examination.found()
    worst: dict[str, Finding] = {}
    for group, reference in expected.items():
        finding = _finding(group, reference, found.get(group), error)
        if group[0] not in worst or worst[group[0]].excess < finding.excess:
            worst[group[0]] = finding
    rows = [(name, f.difference, f.bound, f.passed, f.where) for name, f in worst.items()]
    return pl.DataFrame(rows, schema=pl.Schema(SCHEMAS["verified"]), orient="row")


def prove(model: LanguageModel, study: Sequence[Prompt] = (), seed: int = 0) -> pl.DataFrame:
    """The same rows, all of whose properties hold, on the way through the layers `model.way`.

    Raises `VerificationError`, which says what to do, when a property does not hold.
    """
    table = examine(model, study, seed)
    if not table["passed"].all():
        raise VerificationError(_block(table, model))
    return table


def examine(model: LanguageModel, study: Sequence[Prompt] = (), seed: int = 0) -> pl.DataFrame:
    """The rows of `verify` on the first way on which they hold: right before fast.

    Where packed prompts fail, `model.way` becomes the model's own attention.
    """
    table = verify(model, study, seed)
    holds = dict(table.select("property", "passed").iter_rows())
    if model.way == "packed" and holds[AFTERWARDS] and not all(holds.values()):
        logger.warning("%s\nIts own attention is tried instead.", _block(table, model))
        model.way = "own"
        table = verify(model, study, seed)
    return table


def study_prompts(model: LanguageModel, paths: Sequence[Path]) -> list[Prompt]:
    """The longest prompt of each artifact `tasks`, by its characters."""
    pairs = []
    for path in paths:
        rows = pl.read_parquet(path, columns=["context", "continuation"])
        length = rows["context"].str.len_chars() + rows["continuation"].str.len_chars()
        pairs.append(rows.row(length.arg_max()))
    return model.encode(pairs)


def _block(table: pl.DataFrame, model: LanguageModel) -> str:
    """What does not hold, and what to do."""
    failed = table.filter(~pl.col("passed")).iter_rows(named=True)
    lines = [
        f"model {model.hf.name_or_path}, {_family(model)}, {model.hf.dtype}: headcount does not "
        "compute what the model computes, so that no number of a study would mean anything",
        *(f"  {line}" for line in map(_told, failed)),
        "What to do: `dtype: float32` if it is another; `device_map: cpu`, to see whether the "
        "device decides; `layout`, if the wrong modules were taken for heads and FFNs; then report "
        "the family and these lines.",
    ]
    return "\n".join(lines)


def _told(row: dict) -> str:
    if math.isinf(row["difference"]):
        return f"{row['property']}: {row['where']}"
    differs = f"off by {row['difference']:.3g}, where rounding explains {row['bound']:.3g}"
    return f"{row['property']}: {differs} ({row['where']})"


def show(
    source: str, dtype: str = "float32", device_map: str = "cpu", console: Console | None = None
) -> bool:
    """Print the table of a model of the hub or in a directory, by random prompts alone.

    Returns whether every property holds. Raises `ModelError` when the model does not load.
    """
    with TemporaryDirectory() as directory:
        facts = models.resolve(source, revision=None, gguf_file=None, converted=directory)
    model = models.load(facts["path"], dtype=dtype, device_map=device_map)
    started = time.perf_counter()
    table = examine(model)
    (console or Console()).print(_printed(table, model, time.perf_counter() - started))
    return table["passed"].all()


def _printed(table: pl.DataFrame, model: LanguageModel, seconds: float) -> Table:
    printed = Table(
        title=f"{_family(model)}, {model.hf.dtype}: headcount beside the unmodified model",
        caption=f"difference: the largest; bound: what rounding explains; prompts went through the "
        f"layers {WAYS[model.way]}; {seconds:.1f} s",
        box=box.SIMPLE_HEAD,
    )
    for column in ("property", "difference", "bound", "", "where"):
        printed.add_column(column, justify="right" if column in table.columns[1:3] else "left")
    for row in table.iter_rows(named=True):
        verdict = "yes" if row["passed"] else "[red]NO[/red]"
        numbers = f"{row['difference']:.2g}", f"{row['bound']:.2g}"
        printed.add_row(row["property"], *numbers, verdict, row["where"])
    return printed


def _family(model: LanguageModel) -> str:
    return f"{type(model.hf).__name__} ({model.hf.config.model_type})"


# --- one result beside the other ---


@dataclass
class Finding:
    """The largest difference in a group of results, and what rounding explains there."""

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


def _finding(
    group: Group, reference: Tensor, found: Tensor | None, error: Exception | None
) -> Finding:
    """What the engine `found` beside the reference [1 + C, ...], whose first is exact."""
    exact, copies = reference[0].double(), reference[1:].double()
    rounding = FACTOR * (copies - exact).abs().max().item()
    # The results themselves are float32 at best.
    bound = rounding + torch.finfo(torch.float32).eps * exact.abs().max().item()
    if found is None:
        return Finding(f"{type(error).__name__}: {error}", math.inf, bound)
    if found.shape != exact.shape:
        shapes = f"{[*found.shape]} instead of {[*exact.shape]}"
        return Finding(f"{group[1]}: {shapes} results", math.inf, bound)
    if found.dtype == torch.bool:  # greedy flags beside margins
        differing = exact.abs()[found != (exact > 0)]
        return Finding(group[1], differing.max().item() if len(differing) else 0.0, bound)
    return Finding(group[1], (found.double() - exact).abs().max().item(), bound)


# --- the questions ---


class Examination:
    """The same questions to the reference and to the engine."""

    def __init__(self, model: LanguageModel, study: Sequence[Prompt], seed: int):
        self.model = model
        self.reference = Reference(model, COPIES, seed)
        self.batches = _batches(model, study, np.random.default_rng(seed))
        self.shorter = self.batches[:-1]
        self.patterns = self.reference.attentions(self.shorter[-1].tokens[0])
        # The model itself says how many heads a layer has, if it returns their patterns.
        self.heads = list(model.heads)
        for layer, pattern in self.patterns.items():
            self.heads[layer] = pattern.shape[1]
        self.masks = _masks(self.heads, self.reference.forward)

    def expected(self) -> Results:
        """Those of the reference; it also chooses continuations that are greedy."""
        results: Results = {}
        for batch in self.batches:
            masks = {(WHOLE, "whole"): ((), ())}
            masks |= self.masks if batch in self.shorter else {}
            logits = self.reference.logits(
                batch.tokens, TARGETS, list(masks.values()), self.heads
            )  # [1 + C, M, P, TARGETS, vocabulary]
            batch.add_greedy(logits[0, 0])
            for mask, (name, of_mask) in enumerate(masks):
                scores, margins = _scores(logits[:, mask], batch)
                if not scores[0].isfinite().all():
                    raise VerificationError(
                        f"model {self.model.hf.name_or_path}: its own log-likelihoods are not "
                        f"finite ({batch}, {of_mask}); try dtype: float32 or bfloat16"
                    )
                results[name, f"{batch}, {of_mask}"] = scores
                results[GREEDY, f"{batch}, {of_mask}"] = margins
                if batch in self.shorter and name == WHOLE:
                    results[AFTERWARDS, str(batch)] = scores
        for batch in self.shorter:
            of_heads, of_ffns = self.reference.gradients(batch.tokens, batch.first, self.heads)
            for name, gradients in ((GRADIENTS["heads"], of_heads), (GRADIENTS["ffns"], of_ffns)):
                for layer, gradient in gradients.items():  # [1 + C, P, T, H or 1]
                    results[name, f"{batch}, layer {layer}"] = gradient.abs().sum(2)
        for layer, pattern in self.patterns.items():
            results[PATTERNS, f"layer {layer}"] = pattern
        return results

    def found(self) -> tuple[Results, Exception | None]:
        """Those of the engine, and the first error that it ended with, if it did."""
        results: Results = {}
        first = None
        for part in (self._whole, self._removed, self._gradients, self._patterns, self._afterwards):
            try:
                results |= part()
            except (MemoryError, torch.OutOfMemoryError, models.ModelError):
                raise
            except Exception as error:  # whatever it is, it is a fault of the engine
                first = first or error
        return results, first

    def _whole(self) -> Results:
        return self._swept(self.batches, {(WHOLE, "whole"): ((), ())})

    def _removed(self) -> Results:
        return self._swept(self.shorter, self.masks)

    def _swept(self, batches: list["Batch"], masks: dict[Group, Removal]) -> Results:
        """Prompts of all batches, packed together."""
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        sizes = [len(batch.prompts) for batch in batches]
        removing = Masks.removing(self.model, list(masks.values()))
        swept = log_likelihoods(self.model, prompts, removing)
        results: Results = {}
        for mask, (name, of_mask) in enumerate(masks):
            parts = zip(batches, *(of[mask].split(sizes) for of in swept), strict=True)
            for batch, scores, greedy in parts:
                results[name, f"{batch}, {of_mask}"] = scores
                results[GREEDY, f"{batch}, {of_mask}"] = greedy
        return results

    def _gradients(self) -> Results:
        prompts = [prompt for batch in self.shorter for prompt in batch.first_prompts]
        sizes = [len(batch.tokens) for batch in self.shorter]
        results: Results = {}
        for component, name in GRADIENTS.items():
            scores = importance.gradient(self.model, prompts, component, "token").contributions
            parts = torch.from_numpy(scores).split(sizes)  # [P, N]
            layers = torch.tensor([i for i, _ in importance.components(self.model, component)])
            for batch, part in zip(self.shorter, parts, strict=True):
                for layer in layers.unique().tolist():
                    results[name, f"{batch}, layer {layer}"] = part[:, layers == layer]
        return results

    def _patterns(self) -> Results:
        patterns = induction.attention_patterns(self.model, self.shorter[-1].tokens[0])
        return {(PATTERNS, f"layer {i}"): pattern.cpu() for i, pattern in patterns.items()}

    def _afterwards(self) -> Results:
        """The unmodified model once more: nothing of the engine must stay in it."""
        results: Results = {}
        for batch in self.shorter:
            logits = self.reference.logits(batch.tokens, TARGETS, [((), ())], self.heads)
            results[AFTERWARDS, str(batch)] = _scores(logits[:1, 0], batch)[0][0]
        return results


def _masks(heads: list[int], forward: list[int]) -> dict[Group, Removal]:
    """What is removed, by property and name; every layer loses some of its heads in one of them."""
    attentive = [layer for layer, count in enumerate(heads) if count]
    one_each = [(layer, layer % heads[layer]) for layer in attentive]
    but_last = [(layer, head) for layer in attentive[::2] for head in range(heads[layer] - 1)]
    some, all_of, ffns = REMOVALS
    masks: dict[Group, Removal] = {
        (some, "one of every layer"): (one_each, []),
        (some, "all but one of every second layer"): (but_last, []),
        (some, "one of every layer, the last FFN too"): (one_each, forward[-1:]),
    }
    for layer in (attentive[len(attentive) // 2], attentive[-1]):
        removed = [(layer, head) for head in range(heads[layer])]
        masks[all_of, f"of layer {layer}"] = (removed, [])
    for layer in (forward[0], forward[-1]):
        masks[ffns, f"of layer {layer}"] = ([], [layer])
    return masks


# --- prompts ---


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


def _batches(
    model: LanguageModel, study: Sequence[Prompt], random: np.random.Generator
) -> list[Batch]:
    """Batches of rising lengths: two random inputs that begin alike, and some of the study.

    The longest input is one alone, the study's if there is one.
    """
    ordinary = induction.ordinary_tokens(model.tokenizer, exclude_fraction=0)
    longest = max(study, key=lambda prompt: len(prompt.tokens), default=None)
    length = len(longest.tokens) if longest else min(LONGEST, model.window)

    def draw(count: int) -> list[int]:
        return random.choice(ordinary, count).tolist()

    def batch(tokens: list[list[int]]) -> Batch:
        last = min(TARGETS, len(tokens[0]))
        ends = [row[len(row) - last + 1 :] for row in tokens]
        return Batch(tokens, [[end + draw(1), draw(1), draw(1)] for end in ends])

    batches = []
    for size in sorted({min(SHORT, length), min(SOME, length)}):
        context, ends = draw(size - min(TARGETS, size) + 1), min(TARGETS, size) - 1
        inputs = [context + draw(ends), context + draw(ends)]
        inputs += [prompt.tokens[-size:] for prompt in study if len(prompt.tokens) >= size][:2]
        batches.append(batch(inputs))
    return [*batches, batch([longest.tokens if longest else draw(length)])]


def _scores(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
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
