"""Prompts of lm-evaluation-harness tasks, rendered by the harness itself.

lm-eval loads the documents, draws the examples and renders the prompts. This module adds a
calibration set that is disjoint from the evaluated documents. `headcount.tasks.spec` decides what a
study can do with a task, `headcount.tasks.metrics` scores it.
"""

import json
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headcount.tasks import datasets as task_datasets, doc_codec, spec as task_spec
from headcount.tasks.files import TaskError
from headcount.tasks.loading import FEWSHOT_SEED, load
from headcount.tasks.metrics import Metrics
from headcount.tasks.spec import SPLITS, Limits, TaskRequest, TaskSpec


class PromptRows(list[dict]):
    """Rows of the artifact `tasks`."""

    passed_over = 0  # documents left out of calibration because the same prompt is evaluated


def prepare(
    yaml: str | Path,
    shots: int,
    limits: Limits,
    seed: int | None,
    datasets: str | Path | None = None,
    metric: str | None = None,
    splits: Sequence[str] = SPLITS,
) -> PromptRows:
    """Return rows of the artifact `tasks`: every request of the documents of some splits.

    "evaluation" has lm-eval's own prompts, seeds and order; a row says whether lm-eval put the
    query among its own examples. "calibration" has documents drawn with `seed`, the same for every
    number of shots: from the training split; without one, from the validation split if the test
    split is evaluated; else from the evaluated split beyond the limit. No calibration document is
    rendered like one that may be evaluated, whatever the limit, or is among its own examples.
    `metric` overrides the rule of `headcount.tasks.metrics` for the headline metric.

    Raises `TaskError` when there are no calibration documents, or too few examples for `shots`.
    """
    request = TaskRequest([shots], limits, datasets, "calibration" in splits, metric)
    spec = task_spec.resolve(yaml, request)
    with task_datasets.uncached():
        return _prepared(yaml, spec, shots, limits, seed, datasets, splits)


def _prepared(
    yaml: str | Path,
    spec: TaskSpec,
    shots: int,
    limits: Limits,
    seed: int | None,
    datasets: str | Path | None,
    splits: Sequence[str],
) -> PromptRows:
    """Return the rows of `prepare` for a task whose spec is known."""
    task = load(yaml, datasets)
    rows = PromptRows()
    if "evaluation" in splits:
        rows += _requests(task, spec, shots, "evaluation", limit=limits.evaluation)
        if not any(row["gold"] for row in rows):
            raise TaskError(
                f"{spec.task}: no evaluated document of {spec.evaluated!r} has a right answer "
                "among its choices (labels are hidden?): evaluate a split that has labels"
            )
    if "calibration" in splits:
        # In a single split, documents beyond the limit calibrate.
        evaluated = {
            _rendered(task, doc) for doc in islice(task.task_docs, spec.calibrates_beyond or None)
        }
        examples = {"fewshot_split": spec.examples} if spec.examples else {}
        held = load(yaml, datasets, validation_split=None, test_split=spec.calibration, **examples)
        samples, rows.passed_over = _drawn(held, spec, limits, seed, evaluated)
        rows += _requests(held, spec, shots, "calibration", samples=samples)
    return rows


def split_rows(prompts: pa.Table, split: str) -> list[dict]:
    """Return the rows of one split of the artifact `tasks`, in document order."""
    return prompts.filter(pc.field("split") == split).to_pylist()


def remarks(rows: PromptRows, limits: Limits) -> list[str]:
    """Return caveats about the prompts in `rows`, a line each."""
    first = [row for row in rows if row["choice"] == 0]
    own = sum(row["query_in_examples"] for row in first)
    right = {(row["split"], row["doc_id"]) for row in rows if row["gold"]}
    unlabelled = sum((row["split"], row["doc_id"]) not in right for row in first)
    calibration = sum(row["split"] == "calibration" for row in first)
    said = []
    if own:
        said.append(
            f"{own} of {len(first)} queries are among their own examples, as lm-eval draws them: "
            "accuracy with shots is too high"
        )
    if unlabelled:
        said.append(f"{unlabelled} of {len(first)} documents have no right answer: they count as 0")
    if rows.passed_over:
        said.append(
            f"{rows.passed_over} documents are left out of calibration, since the same prompt and "
            "answer are evaluated"
        )
    if 0 < calibration < limits.calibration:
        said.append(f"calibration has {calibration} documents, {limits.calibration} were asked for")
    return said


def _drawn(
    held: Any, spec: TaskSpec, limits: Limits, seed: int | None, evaluated: set[str]
) -> tuple[list[int], int]:
    """Return the indices of the calibration documents, and how many were `evaluated` ones."""
    docs = held.task_docs
    order = np.arange(spec.calibrates_beyond, len(docs))
    order = np.random.default_rng(seed).permutation(order).tolist()
    drawn: list[int] = []
    passed_over = 0
    for index in order:
        if len(drawn) == limits.calibration:
            break
        if _rendered(held, docs[index]) in evaluated:
            passed_over += 1
        else:
            drawn.append(index)
    if not drawn:
        why, remedy = "", "evaluate fewer (limits: evaluation)"
        if spec.calibration != spec.evaluated:
            why = f", since {spec.evaluated!r} has them all"
            remedy = "do not name that split in its file, so that those beyond the limit calibrate"
        raise TaskError(
            f"{spec.task}: none of the {len(docs)} documents of {spec.calibration!r} is left for "
            f"calibration{why}: {remedy}, or list it under heldout_tasks"
        )
    return sorted(drawn), passed_over


def _requests(task: Any, spec: TaskSpec, shots: int, split: str, **which: Any) -> list[dict]:
    """Return rows for the requests of `task`'s evaluated documents, as lm-eval renders them."""
    pool = len(task.sampler.df) if hasattr(task, "sampler") else 0
    # lm-eval draws one more if it leaves the query out: if both splits have the same name, or none.
    leaves_out = task.fewshot_cfg.split == task.config.test_split
    needed = shots + (leaves_out and task.fewshot_cfg.sampler == "default") if shots else 0
    if needed > pool:
        raise TaskError(
            f"{spec.task}: {shots} shots need {needed} examples, there are {pool}: use fewer shots"
        )
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    examples = _recorded_examples(task) if shots else []
    try:
        task.build_all_requests(**which)
    except (AssertionError, TypeError, ValueError, KeyError, IndexError) as error:
        several = " (it cannot show several right answers)" if task.multiple_target else ""
        raise TaskError(
            f"{spec.task}: lm-eval cannot render its prompts at {shots} shots{several}: "
            f"{type(error).__name__}: {error}"
        ) from error
    metrics_of_task = Metrics.of_task(task, spec.metric)
    samples = which.get("samples")  # lm-eval renumbers chosen documents from 0
    rows = []
    of_document = groupby(task.instances, key=lambda request: request.doc_id)
    for number, (doc_id, group) in enumerate(of_document):
        requests = list(group)
        doc = requests[0].doc
        gold = metrics_of_task.gold(doc, len(requests))
        own = bool(examples) and any(example == doc for example in examples[number])
        rows += [
            {
                "split": split,
                "doc_id": samples[doc_id] if samples else doc_id,
                "choice": request.idx,
                "context": request.args[0],
                "continuation": request.args[1],
                "gold": request.idx in gold,
                "query_in_examples": own,
                "doc": doc_codec.encode(doc, task.task_docs.features) if request.idx == 0 else None,
            }
            for request in requests
        ]
    return rows


# --- what lm-eval renders ---


def _rendered(task: Any, doc: dict) -> str:
    """Return a document as it is rendered without examples: its context and right answers.

    `task` is an lm-eval task. Fields that no template shows, such as a document's number, are not
    included.
    """
    target = task.doc_to_target(doc)
    right = target if isinstance(target, list) else [target]
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
    context = task.fewshot_context(doc, 0)
    if task.multiple_input:  # the choices are contexts
        return json.dumps([choices, task.doc_to_text(doc), target], default=str)
    texts = [choices[n] if type(n) is int and 0 <= n < len(choices) else n for n in right]
    return json.dumps([context, texts], default=str)


def _recorded_examples(task: Any) -> list[list[dict]]:
    """Return a list that collects each document's examples while its requests are built."""
    drawn: list[list[dict]] = []
    sample = task.sampler.sample

    def recording(*args: Any, **kwargs: Any) -> Any:
        drawn.append(list(sample(*args, **kwargs)))
        return drawn[-1]

    task.sampler.sample = recording
    return drawn
