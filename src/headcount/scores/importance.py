"""Importance of attention heads and FFNs: gradient scores and removal oracles.

Every estimator gives each document a contribution and a weight for each component; the score is
the sum of the contributions over the sum of the weights. `gradient` and `loss_oracle` return them
for each gold prompt, `estimate` sums them within documents. Contributions [n, N] and weights [n, N]
have their components in the order (layer, head).
"""

from dataclasses import dataclass

import numpy as np

from headcount.engine import Masks
from headcount.engine.removal import Ablation
from headcount.models.language_model import LanguageModel, Prompt
from headcount.scores import evaluation_store, rankings
from headcount.scores.documents import Documents
from headcount.scores.evaluation_store import Store

# The configuration's `estimator`, with its `reduction` or `metric`.
ESTIMATORS = ("gradient-token", "gradient-example", "oracle-task", "oracle-loss")


@dataclass
class Importance:
    """Contributions and weights [n, N] of n documents to the N components of a model."""

    contributions: np.ndarray
    weights: np.ndarray

    def by_document(self, documents: np.ndarray, count: int) -> "Importance":
        """Return sums within each of `count` documents; `documents` [n] says whose each row is."""
        sums = np.zeros((2, count, self.weights.shape[1]))
        np.add.at(sums[0], documents, self.contributions)
        np.add.at(sums[1], documents, self.weights)
        return Importance(*sums)

    def rows(self, model: LanguageModel, component: str) -> list[dict]:
        """Return rows of the artifact `importance`.

        The score is a ratio of sums, hence its standard error by linearisation (Cochran, Sampling
        Techniques, 3rd ed., section 6.4): sqrt(n / (n - 1) * sum((c - score * w)^2)) / sum(w).
        """
        n = len(self.contributions)
        total = self.weights.sum(0)
        score = self.contributions.sum(0) / total
        residual = self.contributions - score * self.weights
        error = np.sqrt(n / max(n - 1, 1) * (residual**2).sum(0)) / total
        return [
            {
                "layer": layer,
                "head": head,
                "score": score[i],
                "standard_error": error[i],
                "n": n,
                "contributions": self.contributions[:, i],
                "weights": self.weights[:, i],
            }
            for i, (layer, head) in enumerate(components(model, component))
        ]


def components(model: LanguageModel, component: str) -> list[tuple[int, int | None]]:
    """Return (layer, head) of every head of `model`, or (layer, None) of every FFN."""
    return rankings.components(component, model.heads, model.ffns)


def estimate(
    estimator: str,
    model: LanguageModel,
    evaluation: Documents,
    component: str,
    ablation: Ablation | None = None,
    store: Store | None = None,
) -> Importance:
    """Return importance by one of `ESTIMATORS`, a row for each document of `evaluation`.

    An oracle replaces removed components by the stand-ins of `ablation`, zero by default.
    Evaluations in `store` are reused.

    Raises `ValueError` for another estimator, and what `gradient` and the oracles raise.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is not one of {', '.join(ESTIMATORS)}")
    if estimator == "oracle-task":
        return oracle(model, evaluation, component, ablation, store)
    prompts, documents = evaluation.gold(model)
    if estimator == "oracle-loss":
        of_prompts = loss_oracle(model, prompts, component, ablation, store)
    else:
        reduction = estimator.removeprefix("gradient-")
        of_prompts = gradient(model, prompts, component, reduction, store)
    return of_prompts.by_document(documents, len(evaluation.doc_ids))


# --- gradient ---


def gradient(
    model: LanguageModel,
    prompts: list[Prompt],
    component: str,
    reduction: str,
    store: Store | None = None,
) -> Importance:
    """Return how much the loss of the gold targets changes with a gate on each component.

    A is the output of the component (z of a head, the addition of an FFN to the residual stream),
    loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j) the loss of one prompt, whatever the batch:

    - `reduction="token"` (the code of Bansal et al. 2023): sum_t |<A_t, d loss / d A_t>|, divided
      by the number of positions that can carry a gradient: every input position, and in the top
      layer those that predict a target.
    - `reduction="example"` (the formula of their section 3.1, after Michel et al. 2019):
      |sum_t <A_t, d loss / d A_t>|, averaged over prompts.

    Raises `FloatingPointError` naming the layer when a score is not finite.
    """
    if reduction not in ("token", "example"):
        raise ValueError(f"reduction {reduction!r} is neither token nor example")
    absolute, signed = evaluation_store.contributions(
        model, prompts, component, store
    )  # [prompts, N]
    if reduction == "example":
        return Importance(np.abs(signed), np.ones(signed.shape))
    positions = np.array([len(prompt.tokens) for prompt in prompts])
    targets = np.array([len(prompt.targets) for prompt in prompts])
    weights = np.ones(absolute.shape) * positions[:, None]
    last = [layer == model.num_layers - 1 for layer, _ in components(model, component)]
    weights[:, last] = targets[:, None]
    return Importance(absolute, weights)


# --- oracles ---


def oracle(
    model: LanguageModel,
    evaluation: Documents,
    component: str,
    ablation: Ablation | None = None,
    store: Store | None = None,
) -> Importance:
    """Return the metric of the whole model minus that without each component, by document."""
    masks = each_removed(model, component, ablation)
    metric = evaluation.run(model, masks, store).metric  # [1 + N, documents]
    contributions = (metric[0] - metric[1:]).T  # [documents, N]
    return Importance(contributions, np.ones_like(contributions))


def loss_oracle(
    model: LanguageModel,
    prompts: list[Prompt],
    component: str,
    ablation: Ablation | None = None,
    store: Store | None = None,
) -> Importance:
    """Return the loss without each component minus that of the whole model, by gold prompt.

    loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j), in nats per target token, as for `gradient`. It
    changes with every removal, whereas accuracy over few documents mostly stays the same.
    """
    masks = each_removed(model, component, ablation)
    sums, _ = evaluation_store.log_likelihoods(model, prompts, masks, store)  # [1 + N, prompts]
    losses = -sums.numpy() / [len(prompt.targets) for prompt in prompts]
    contributions = (losses[1:] - losses[0]).T  # [prompts, N]
    return Importance(contributions, np.ones_like(contributions))


def each_removed(model: LanguageModel, component: str, ablation: Ablation | None = None) -> Masks:
    """Return 1 + N masks: the whole model, then the model without each component."""
    removals: list[tuple[list[tuple[int, int]], list[int]]] = [([], [])]
    for layer, head in components(model, component):
        removals.append(([], [layer]) if head is None else ([(layer, head)], []))
    return Masks.removing(model, removals, ablation)
