"""The same questions to the engine and to the unmodified model, and how far answers may differ.

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

In half precision rounding alone leads far: to differences of a nat and more in a model of thirty
layers, under which fine faults hide. What a family does wrong shows in float32.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headcount import importance, induction
from headcount.families import ModelError
from headcount.model import LanguageModel, Prompt
from headcount.reference import Reference, Removal
from headcount.sweep import Masks, log_likelihoods

COPIES = 3  # of the reference, with other rounding errors
FACTOR = 8  # times the largest deviation of the copies
SHORT, SOME = 3, 12  # tokens of inputs
LONGEST = 128  # tokens of the longest random input; a study's own prompts: `prove_on`
TARGETS = 3  # tokens of the longer continuations

# The properties, in the order of the table.
WHOLE = "log-likelihoods"
REMOVALS = ("some heads removed", "all heads of a layer removed", "FFNs removed")
GREEDY = "greedy flags"
GRADIENTS = {"heads": "gradient scores of heads", "ffns": "gradient scores of FFNs"}
PATTERNS = "attention patterns"
AFTERWARDS = "the model itself, afterwards"

Group = tuple[str, str]  # a property, and the inputs, mask or layer that the results are of
Results = dict[Group, Tensor]  # of the engine [...], of the reference [1 + C, ...]


class VerificationError(RuntimeError):
    """The engine does not compute what the model computes."""


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


def finding(
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

    def __init__(self, model: LanguageModel, seed: int):
        self.model = model
        self.reference = Reference(model, COPIES, seed)
        self.batches = _batches(model, np.random.default_rng(seed))
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
                scores, margins = scores_and_margins(logits[:, mask], batch)
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
            except (MemoryError, torch.OutOfMemoryError, ModelError):
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
            results[AFTERWARDS, str(batch)] = scores_and_margins(logits[:1, 0], batch)[0][0]
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


def _batches(model: LanguageModel, random: np.random.Generator) -> list[Batch]:
    """Batches of rising lengths: two random inputs that begin alike; the longest is one alone.

    They begin with BOS, where the tokenizer has one: without it models are less stable.
    """
    ordinary = induction.ordinary_tokens(model.tokenizer, exclude_fraction=0)
    bos = [token for token in [model.tokenizer.bos_token_id] if token is not None]
    length = min(LONGEST, model.window)

    def draw(count: int) -> list[int]:
        return random.choice(ordinary, count).tolist()

    def batch(tokens: list[list[int]]) -> Batch:
        last = min(TARGETS, len(tokens[0]))
        ends = [row[len(row) - last + 1 :] for row in tokens]
        return Batch(tokens, [[end + draw(1), draw(1), draw(1)] for end in ends])

    batches = []
    for size in sorted({min(SHORT, length), min(SOME, length)}):
        ends = min(TARGETS, size) - 1
        context = (bos + draw(size))[: size - ends]
        batches.append(batch([context + draw(ends), context + draw(ends)]))
    return [*batches, batch([(bos + draw(length))[:length]])]


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
