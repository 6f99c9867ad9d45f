"""The documents of one prepared task, evaluated under masks with lm-eval's metrics."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from headcount.engine import Masks, ablation
from headcount.engine.removal import Ablation
from headcount.models.language_model import LanguageModel, Prompt, PromptError
from headcount.scores.evaluation_store import Store, log_likelihoods
from headcount.tasks import doc_codec
from headcount.tasks.files import TaskError, task_name
from headcount.tasks.metrics import Metrics
from headcount.tasks.prompts import split_rows


@dataclass
class DocumentScores:
    """D documents under M masks."""

    log_likelihoods: list[list[list[float]]]  # [M][D][choices], nats
    is_greedy: list[list[list[bool]]]  # [M][D][choices]
    results: list[list[dict]]  # [M][D] metric name -> value, as lm-eval's process_results gives it
    metric: np.ndarray  # [M, D] the headline metric


class Documents(Protocol):
    """Documents that importance and pruning are computed from."""

    doc_ids: list[int]

    def gold(self, model: LanguageModel) -> tuple[list[Prompt], np.ndarray]:
        """Return the P prompts whose continuation is a right answer, and the document of each."""

    def run(self, model: LanguageModel, masks: Masks, store: Store | None = None) -> DocumentScores:
        """Score every document under every mask."""


class Evaluation:
    """Documents of one split of the artifact `tasks`, and their headline metric.

    `metric` overrides the rule of `headcount.tasks.metrics` for it.

    Raises `TaskError` when the split holds no document.
    """

    def __init__(self, prompts: pa.Table, split: str, yaml: str | Path, metric: str | None = None):
        self.requests = split_rows(prompts, split)
        if not self.requests:
            raise TaskError(f"{task_name(yaml)}: its prompts hold no {split} document")
        self.doc_ids = [row["doc_id"] for row in self.requests if row["choice"] == 0]
        self.docs = [doc_codec.decode(row["doc"]) for row in self.requests if row["choice"] == 0]
        self.yaml, self.metric = yaml, metric
        self.truncated = 0  # prompts cut to the model's window; set by `run`

    @cached_property
    def metrics(self) -> Metrics:
        """lm-eval's metrics of the task; lm-eval is imported on first use."""
        return Metrics(self.yaml, self.docs[0], self.metric)

    def described(self) -> dict:
        """Return the provenance of an artifact computed from these documents, after `run`."""
        return {"metric": self.metrics.name, "chance": self.chance, "truncated": self.truncated}

    @property
    def chance(self) -> float | None:
        """The headline metric of guessing, or None if that is not defined."""
        requests = Counter(row["doc_id"] for row in self.requests)
        right = Counter(row["doc_id"] for row in self.requests if row["gold"])
        of_docs = [self.metrics.chance(right[doc], requests[doc]) for doc in self.doc_ids]
        known = [chance for chance in of_docs if chance is not None]
        return float(np.mean(known)) if len(known) == len(of_docs) else None

    def gold(self, model: LanguageModel) -> tuple[list[Prompt], np.ndarray]:
        """Return the P prompts whose continuation is a right answer, and the document of each.

        A document is given by its index in `doc_ids`; it can have several right answers, or none.
        """
        rows = [row for row in self.requests if row["gold"]]
        prompts = encode(model, rows, self.yaml)
        index = {doc_id: i for i, doc_id in enumerate(self.doc_ids)}
        return prompts, np.array([index[row["doc_id"]] for row in rows])

    def run(self, model: LanguageModel, masks: Masks, store: Store | None = None) -> DocumentScores:
        """Score every document under every mask, reusing the evaluations in `store`."""
        encoded = encode(model, self.requests, self.yaml)
        self.truncated = sum(prompt.truncated for prompt in encoded)
        sums, greedy = log_likelihoods(model, encoded, masks, store)
        starts = [i for i, row in enumerate(self.requests) if row["choice"] == 0][1:]
        sums = [[part.tolist() for part in np.split(row, starts)] for row in sums.numpy()]
        greedy = [[part.tolist() for part in np.split(row, starts)] for row in greedy.numpy()]
        results = [
            [self.metrics.of(*document) for document in zip(self.docs, *under_mask, strict=True)]
            for under_mask in zip(sums, greedy, strict=True)
        ]
        metric = np.array([[r[self.metrics.name] for r in row] for row in results], dtype=float)
        return DocumentScores(sums, greedy, results, metric)


def fit_ablation(
    model: LanguageModel, prompts: pa.Table, kind: str, seed: int, yaml: str | Path
) -> Ablation | None:
    """Return the stand-ins of removed components, fitted on a task's gold calibration prompts.

    Kinds: see `headcount.engine.ablation`.
    """
    if kind == "zero":
        return None
    gold = [row for row in split_rows(prompts, "calibration") if row["gold"]]
    return ablation.fit(model, encode(model, gold, yaml), kind, seed)


def encode(model: LanguageModel, rows: list[dict], yaml: str | Path) -> list[Prompt]:
    """Return the prompts of some rows of the artifact `tasks`.

    Raises `TaskError` naming task, document and choice when one has no log-likelihood.
    """
    try:
        return model.encode(request_pairs(rows))
    except PromptError as error:
        row = rows[error.index]
        raise TaskError(
            f"{task_name(yaml)}, {row['split']} document {row['doc_id']}, choice {row['choice']}: "
            f"{error}"
        ) from error


def request_pairs(rows: list[dict]) -> list[tuple[str, str]]:
    """Return (context, continuation) of each row."""
    return [(row["context"], row["continuation"]) for row in rows]
