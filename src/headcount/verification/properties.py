"""The properties in which the engine must equal the unmodified model.

For most, engine and reference rely on the same places of heads and FFNs. Three properties do not,
and fail if these are wrong: gradient scores by the attention patterns that the model returns,
layers emptied of heads and FFN (`headcount.verification._emptied`), and independence of a prompt's
score from later tokens and other prompts of the batch.
"""

import numpy as np
import torch
from torch import Tensor

from headcount.engine import Masks, ablation, log_likelihoods
from headcount.engine.padded import feels_later_tokens
from headcount.engine.removal import Ablation, Removal
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel, ordinary_tokens
from headcount.progress import Progress
from headcount.scores import importance, induction
from headcount.verification import _emptied as emptied, _stand_ins
from headcount.verification.reference import Reference
from headcount.verification.tolerance import (
    COPIES,
    FACTOR,
    GREEDY,
    WHOLE,
    Batch,
    Group,
    VerificationError,
    scores_and_margins,
)

SHORT, SOME = 3, 12  # tokens of inputs
LONGEST = 128  # tokens of the longest random input; `prove_on` takes a study's own prompts
TARGETS = 3  # tokens of the longer continuations
LATER = 3  # tokens after an input

# The properties, in the order of the table.
REMOVALS = ("some heads removed", "all heads of a layer removed", "FFNs removed")
GRADIENTS = {"heads": "gradient scores of heads", "ffns": "gradient scores of FFNs"}
BY_PATTERNS = "gradient scores of heads, by their attention"
PATTERNS = "attention patterns"
STAND_INS = {"mean": "means in place of what is removed", "resample": "draws in its place"}
EMPTIED = "layers without heads and FFNs"
ALONE = "the model itself, a prompt alone"
AFTERWARDS = "the model itself, afterwards"
OF_EVERY_BACKEND = (EMPTIED, ALONE, AFTERWARDS)  # which hold, or fail, in both backends

STOPPING = (MemoryError, torch.OutOfMemoryError, ModelError)  # not faults of the engine
Results = dict[Group, Tensor]  # [...] of the engine, [1 + C, ...] of the reference


# --- engine and reference ---


class Properties:
    """The properties of one model, by the reference and by the engine."""

    def __init__(self, model: LanguageModel, seed: int):
        self.model = model
        self.reference = Reference(model, COPIES, seed)
        self.batches = random_batches(model, np.random.default_rng(seed))
        self.shorter = self.batches[:-1]
        # Shorter batches also have gradients, two kinds of stand-ins, and two passes unchanged.
        passes = len(self.batches) + 6 * len(self.shorter)
        self.progress = Progress("the unmodified model", passes, "pass")
        self.patterns = self.reference.attentions(self.shorter[-1].tokens[0])
        # If the model returns attention patterns, these give the number of heads of a layer.
        self.heads = list(model.heads)
        for layer, pattern in self.patterns.items():
            self.heads[layer] = pattern.shape[1]
        self.masks = _masks(self.heads, self.reference.forward)
        self.replaced = _replaced(self.heads, self.reference.forward)
        self.fitted: dict[str, Ablation | None] = {}  # stand-ins of the engine, by kind
        self.remarks: dict[Group, str] = {}  # for results that fail
        self.error: Exception | None = None  # the first of the engine

    def expected(self) -> Results:
        """Return the results of the reference, which also adds greedy continuations."""
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
                        f"finite ({batch}, {of_mask}){self.model.non_finite_weights()}; "
                        "try dtype: float32 or bfloat16"
                    )
                results[name, f"{batch}, {of_mask}"] = scores
                results[GREEDY, f"{batch}, {of_mask}"] = margins
                if batch in self.shorter and name == WHOLE:
                    results[AFTERWARDS, str(batch)] = results[ALONE, str(batch)] = scores
        # A few units in the last place of a sum of hidden states of variance 1.
        eps = torch.finfo(self.model.hf.dtype).eps
        few = torch.tensor([[0.0], [emptied.ROUNDINGS * eps / FACTOR]])
        results |= {(EMPTIED, f"layer {i}"): few for i in range(self.model.num_layers)}
        return results | self._expected_gradients() | self._expected_stand_ins()

    def _expected_gradients(self) -> Results:
        results: Results = {}
        for batch in self.shorter:
            of_heads, of_ffns = self.reference.gradients(batch.tokens, batch.first, self.heads)
            self.progress.advance(1)
            by_patterns = self.reference.gradients_by_patterns(batch.tokens, batch.first)
            self.progress.advance(1)
            for layer, gradient in by_patterns.items():  # [1 + C, P, T, H]
                results[BY_PATTERNS, f"{batch}, layer {layer}"] = gradient.abs().sum(2)
            for name, gradients in ((GRADIENTS["heads"], of_heads), (GRADIENTS["ffns"], of_ffns)):
                for layer, gradient in gradients.items():  # [1 + C, P, T, H or 1]
                    results[name, f"{batch}, layer {layer}"] = gradient.abs().sum(2)
        for layer, pattern in self.patterns.items():
            results[PATTERNS, f"layer {layer}"] = pattern
        return results

    def _expected_stand_ins(self) -> Results:
        results: Results = {}
        inputs = [batch.tokens for batch in self.shorter]
        for kind, name in STAND_INS.items():
            fitted = self._fitted(kind)
            instead = fitted and _stand_ins.of_reference(self.reference, inputs, fitted, kind)
            for batch in self.shorter:
                logits = self.reference.logits(
                    batch.tokens, TARGETS, list(self.replaced.values()), self.heads, instead
                )
                self.progress.advance(1)
                for mask, of_mask in enumerate(self.replaced):
                    scores, _ = scores_and_margins(logits[:, mask], batch)
                    results[name, f"{batch}, {of_mask}"] = scores
        return results

    def _fitted(self, kind: str) -> Ablation | None:
        """Return the engine's stand-ins from the shorter inputs; None if it fails."""
        prompts = [prompt for batch in self.shorter for prompt in batch.first_prompts]
        try:
            self.fitted[kind] = ablation.fit(self.model, prompts, kind, seed=0)
        except STOPPING:
            raise
        except Exception as error:
            self.error = self.error or error
        return self.fitted.get(kind)

    def found(self) -> Results:
        """Return the results of the engine; keep its first error in `error`."""
        results: Results = {}
        parts = (self._whole, self._removed, self._gradients, self._patterns)
        for part in (*parts, self._stood_in, self._emptied, self._alone, self._afterwards):
            try:
                results |= part()
            except STOPPING:
                raise
            except Exception as error:  # any other error is a fault of the engine
                self.error = self.error or error
        return results

    def _whole(self) -> Results:
        return self._swept(self.batches, {(WHOLE, "whole"): ((), ())})

    def _removed(self) -> Results:
        return self._swept(self.shorter, self.masks)

    def _stood_in(self) -> Results:
        results: Results = {}
        for kind, fitted in self.fitted.items():
            masks = {(STAND_INS[kind], of_mask): gone for of_mask, gone in self.replaced.items()}
            results |= self._swept(self.shorter, masks, fitted)
        return results

    def _swept(
        self,
        batches: list["Batch"],
        masks: dict[Group, Removal],
        fitted: Ablation | None = None,
    ) -> Results:
        """Return the engine's results on the prompts of all batches, packed together."""
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        sizes = [len(batch.prompts) for batch in batches]
        removing = Masks.removing(self.model, list(masks.values()), fitted)
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
                    if component == "heads":
                        results[BY_PATTERNS, f"{batch}, layer {layer}"] = part[:, layers == layer]
        return results

    def _patterns(self) -> Results:
        patterns = induction.attention_patterns(self.model, self.shorter[-1].tokens[0])
        return {(PATTERNS, f"layer {i}"): pattern.cpu() for i, pattern in patterns.items()}

    def _emptied(self) -> Results:
        results: Results = {}
        tokens = torch.tensor(self.shorter[-1].tokens)
        for layer, left in enumerate(emptied.left(self.model, tokens)):
            group = EMPTIED, f"layer {layer}"
            results[group] = left.mixture.abs().amax()[None]
            if left.modules:
                self.remarks[group] = f"{left.modules}, beside what headcount takes for its FFN"
        return results

    def _alone(self) -> Results:
        """Return the model's scores of each input alone, with later tokens unless these count."""
        results: Results = {}
        alone = Reference(self.model, copies=0, seed=0)
        for batch in self.shorter:
            room = self.model.window - len(batch.tokens[0])
            later = 0 if feels_later_tokens(self.model) else min(LATER, room)
            logits = [
                alone.logits([row + row[:later]], TARGETS + later, [((), ())], self.heads)
                for row in batch.tokens
            ]
            scored = min(TARGETS, len(batch.tokens[0]))
            together = torch.cat(logits, 2)[..., -scored - later :, :]
            together = together[..., :scored, :]  # [1, 1, P, last, vocabulary]
            self.progress.advance(1)
            results[ALONE, str(batch)] = scores_and_margins(together[:, 0], batch)[0][0]
            self.remarks[ALONE, str(batch)] = (
                "its log-likelihoods change with tokens after a prompt, or with other prompts of "
                "the batch: it is not a causal language model"
            )
        return results

    def _afterwards(self) -> Results:
        """Return the unmodified model's scores once more: the engine must leave no trace in it."""
        results: Results = {}
        for batch in self.shorter:
            logits = self.reference.logits(batch.tokens, TARGETS, [((), ())], self.heads)
            self.progress.advance(1)
            results[AFTERWARDS, str(batch)] = scores_and_margins(logits[:1, 0], batch)[0][0]
        return results


def _masks(heads: list[int], forward: list[int]) -> dict[Group, Removal]:
    """Return removals by property and name; in one, every layer loses some of its heads."""
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


def _replaced(heads: list[int], forward: list[int]) -> dict[str, Removal]:
    """Return the removals that leave stand-ins, by name."""
    attentive = [layer for layer, count in enumerate(heads) if count]
    one_each = [(layer, layer % heads[layer]) for layer in attentive]
    middle = attentive[len(attentive) // 2]
    all_of = [(middle, head) for head in range(heads[middle])]
    return {
        "for one head of every layer and the last FFN": (one_each, forward[-1:]),
        f"for the heads of layer {middle} and the first FFN": (all_of, forward[:1]),
    }


# --- prompts ---


def random_batches(model: LanguageModel, random: np.random.Generator) -> list[Batch]:
    """Return batches of rising lengths: two random inputs that begin alike; one in the longest.

    They begin with BOS if the tokenizer has one: without it models are less stable.
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
