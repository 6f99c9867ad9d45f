"""The same questions to the engine and to the unmodified model."""

import numpy as np
import torch
from torch import Tensor

from headcount import importance, induction
from headcount.families import ModelError
from headcount.model import LanguageModel, ordinary_tokens
from headcount.progress import Progress
from headcount.proof import (
    COPIES,
    GREEDY,
    WHOLE,
    Batch,
    Group,
    VerificationError,
    scores_and_margins,
)
from headcount.reference import Reference, Removal
from headcount.sweep import Masks, log_likelihoods

SHORT, SOME = 3, 12  # tokens of inputs
LONGEST = 128  # tokens of the longest random input; a study's own prompts: `prove_on`
TARGETS = 3  # tokens of the longer continuations

# The properties, in the order of the table.
REMOVALS = ("some heads removed", "all heads of a layer removed", "FFNs removed")
GRADIENTS = {"heads": "gradient scores of heads", "ffns": "gradient scores of FFNs"}
PATTERNS = "attention patterns"
AFTERWARDS = "the model itself, afterwards"

Results = dict[Group, Tensor]  # of the engine [...], of the reference [1 + C, ...]


# --- the questions ---


class Examination:
    """The same questions to the reference and to the engine."""

    def __init__(self, model: LanguageModel, seed: int):
        self.model = model
        self.reference = Reference(model, COPIES, seed)
        self.batches = random_batches(model, np.random.default_rng(seed))
        self.shorter = self.batches[:-1]
        passes = len(self.batches) + 2 * len(self.shorter)  # gradients of these, and afterwards
        self.progress = Progress("the unmodified model", passes, "pass")
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
            masks: dict[tuple[str, str], Removal] = {(WHOLE, "whole"): ((), ())}
            masks |= self.masks if batch in self.shorter else {}
            logits = self.reference.logits(
                batch.tokens, TARGETS, list(masks.values()), self.heads
            )  # [1 + C, M, P, TARGETS, vocabulary]
            self.progress.advance(1)
            batch.add_greedy(logits[0, 0])
            for mask, (name, of_mask) in enumerate(masks):
                scores, margins = scores_and_margins(logits[:, mask], batch)
                if not scores[0].isfinite().all():
                    raise VerificationError(
                        f"model {self.model.hf.name_or_path}: its own log-likelihoods are not "
                        f"finite ({batch}, {of_mask}){self.model.unfit_weights()}; "
                        "try dtype: float32 or bfloat16"
                    )
                results[name, f"{batch}, {of_mask}"] = scores
                results[GREEDY, f"{batch}, {of_mask}"] = margins
                if batch in self.shorter and name == WHOLE:
                    results[AFTERWARDS, str(batch)] = scores
        for batch in self.shorter:
            of_heads, of_ffns = self.reference.gradients(batch.tokens, batch.first, self.heads)
            self.progress.advance(1)
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
            self.progress.advance(1)
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


def random_batches(model: LanguageModel, random: np.random.Generator) -> list[Batch]:
    """Batches of rising lengths: two random inputs that begin alike; the longest is one alone.

    They begin with BOS, where the tokenizer has one: without it models are less stable.
    """
    ordinary = ordinary_tokens(model.tokenizer, exclude_fraction=0)
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
