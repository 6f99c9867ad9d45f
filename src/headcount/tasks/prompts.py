"""lm-evaluation-harness tasks: rendered to prompts, and scored with the harness's own metric code.

lm-eval does all that concerns a task: it loads the documents, draws the examples, renders the
prompts and computes the metrics. What is added here is a calibration set, disjoint from the
evaluated documents, and documents read from a local mirror instead of the hub. What a task can do
is decided in `headcount.tasks.spec`, what it is judged by in `headcount.tasks.metrics`.

lm-eval is imported inside the functions that need it: importing it costs seconds.
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

    passed_over = 0  # documents that do not calibrate, since the same are evaluated


def prepare(
    yaml: str | Path,
    shots: int,
    limits: Limits,
    seed: int | None,
    datasets: str | Path | None = None,
    metric: str | None = None,
    splits: Sequence[str] = SPLITS,
) -> PromptRows:
    """Rows of the artifact `tasks`: every request of the documents of some splits.

    "evaluation": lm-eval's own prompts, seeds and order; where lm-eval lets a query be among its
    own examples, the row says so. "calibration": documents drawn with `seed`, the same for every
    number of shots, from the training split; without one, from the validation split if the test
    split is evaluated, or else from the evaluated split beyond the limit. None of them is, by what
    is rendered, among those that may be evaluated, whatever the limit, nor among its own examples.
    `metric` is the headline metric, where the study overrides the rule of
    `headcount.tasks.metrics`.

    Raises `TaskError` when calibration documents, or examples for `shots`, cannot be had.
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
    """The rows of `prepare`, of a task that was examined."""
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
        # Of a single split those beyond the limit are drawn.
        evaluated = {
            _rendered(task, doc) for doc in islice(task.task_docs, spec.calibrates_beyond or None)
        }
        examples = {"fewshot_split": spec.examples} if spec.examples else {}
        held = load(yaml, datasets, validation_split=None, test_split=spec.calibration, **examples)
        samples, rows.passed_over = _drawn(held, spec, limits, seed, evaluated)
        rows += _requests(held, spec, shots, "calibration", samples=samples)
    return rows


def split_rows(prompts: pa.Table, split: str) -> list[dict]:
    """Rows of one split of the artifact `tasks`, in document order."""
    return prompts.filter(pc.field("split") == split).to_pylist()


def remarks(rows: PromptRows, limits: Limits) -> list[str]:
    """What the prompts have to be read with: of `rows` of the artifact `tasks`."""
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
            f"{rows.passed_over} documents do not calibrate, since the same prompt and answer are "
            "evaluated"
        )
    if 0 < calibration < limits.calibration:
        said.append(f"{calibration} documents calibrate, {limits.calibration} were asked for")
    return said


def _drawn(
    held: Any, spec: TaskSpec, limits: Limits, seed: int | None, evaluated: set[str]
) -> tuple[list[int], int]:
    """Indices of the calibration documents, and how many were passed over: they are `evaluated`."""
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
            f"{spec.task}: no document of {spec.calibration!r} is left for calibration, of "
            f"{len(docs)}{why}: {remedy}, or list it under heldout_tasks"
        )
    return sorted(drawn), passed_over


def _requests(task: Any, spec: TaskSpec, shots: int, split: str, **which: Any) -> list[dict]:
    """Rows for the requests of `task`'s evaluated documents, as `lm_eval` would render them."""
    pool = len(task.sampler.df) if hasattr(task, "sampler") else 0
    # lm-eval draws one more where it leaves the query out, by the names of the splits (None too).
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
        several = " (of several right answers it can show none)" if task.multiple_target else ""
        raise TaskError(
            f"{spec.task}: lm-eval cannot render its prompts at {shots} shots{several}: "
            f"{type(error).__name__}: {error}"
        ) from error
    metrics_of_task = Metrics.of_task(task, spec.metric)
    samples = which.get("samples")  # lm-eval numbers chosen documents anew, from 0
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
    """What is rendered of a document without examples: its context and its right answers.

    `task` is one of lm-eval's. Fields that no template shows, as numbers of documents, are no part.
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
    """The examples of each document in turn, filled while the task's requests are built."""
    drawn: list[list[dict]] = []
    sample = task.sampler.sample

    def recording(*args: Any, **kwargs: Any) -> Any:
        drawn.append(list(sample(*args, **kwargs)))
        return drawn[-1]

    task.sampler.sample = recording
    return drawn
