"""What a study can do with a task, by its YAML and the files of its data, before anything runs.

This module alone decides a task's splits for evaluation, calibration and examples, its headline
metric, and the numbers of shots that it allows. `headcount.study.checks` asks for all tasks at
once, the job that renders the prompts for its own. Only files are read: lm-eval is not imported,
nothing is downloaded.
"""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from headcount.messages import did_you_mean
from headcount.tasks import (
    _functions,
    _templates,
    datasets as task_datasets,
    files as task_files,
    streams,
)
from headcount.tasks.datasets import evaluated_split, examples_split
from headcount.tasks.files import TaskError
from headcount.tasks.metrics import headline
from headcount.tasks.streams import Split

SPLITS = ("calibration", "evaluation")  # of a study; a task has names of its own


@dataclass(frozen=True)
class Limits:
    """The most documents to calibrate on and to evaluate (None: the whole split)."""

    calibration: int
    evaluation: int | None


@dataclass(frozen=True)
class TaskRequest:
    """What a study asks of a task."""

    shots: Sequence[int]
    limits: Limits
    datasets: str | Path | None = None  # the mirror
    calibrate: bool = True  # not needed by held-out tasks, unless ablation needs stand-ins
    metric: str | None = None


@dataclass
class TaskSpec:
    """What a study does with a task, and caveats about the results."""

    task: str
    metric: str
    evaluated: str  # split
    examples: str | None  # split; None: listed in the configuration
    calibration: str | None  # split; None: no calibration documents are asked for
    calibrates_beyond: int  # number of its first documents that are evaluated instead
    warnings: list[str] = field(default_factory=list)


def resolve(yaml: str | Path, request: TaskRequest, read: bool = True) -> TaskSpec:
    """Return what the study can do with the task in `yaml`.

    Its documents are read only if `read`.

    Raises `TaskError` with a line for each problem, with its remedy.
    """
    yaml = task_files.installed(yaml)
    config = task_datasets.with_resolved_paths(task_files.with_included(yaml), yaml)
    name = config.get("task", str(yaml))
    _check_output_type(name, config)
    problems: list[str] = []
    metric = _attempt(problems, headline, config, request.metric)
    evaluated = evaluated_split(config)
    if evaluated is None:
        raise TaskError(
            f"{name}: it has no test_split or validation_split to evaluate: name one in {yaml}"
        )
    files = _attempt(problems, task_datasets.files, config, request.datasets) or {}
    problems += _unsupported(config)
    problems += _unknown_keys(config)
    problems += _functions.problems(config)
    problems += task_datasets.unknown_splits(config, files) if files else []
    documents: dict[str, Split] = {}
    if read:
        documents = _attempt(problems, streams.open_splits, config, request.datasets) or {}
    counts = _counts(documents, task_datasets.splits(config), request)
    for split in [split for split in files if read and not counts.get(split)]:
        problems += filter(None, [task_datasets.unreadable(config, files[split])])
    few = {} if config.get("process_docs") else _few(counts, request)
    split, beyond, problem = _calibration(config, request, few)
    problems += [problem] if problem else []
    problems += _empty(few, (evaluated, split))
    problems += _shots(config, request.shots, few, split)
    if evaluated in documents:
        problems += _templates.problems(config, documents[evaluated], request.limits.evaluation)
    if problems:
        raise TaskError("\n".join(f"{name}: {problem}" for problem in dict.fromkeys(problems)))
    return TaskSpec(
        task=name,
        metric=metric,
        evaluated=evaluated,
        examples=examples_split(config),
        calibration=split,
        calibrates_beyond=beyond,
        warnings=_warnings(config, request, few, split, beyond),
    )


def _attempt(problems: list[str], function: Callable, config: dict, argument: Any) -> Any:
    """Return the result of `function`; add the `TaskError` that it raises to the problems."""
    try:
        return function(config, argument)
    except TaskError as error:
        problems.append(str(error).removeprefix(f"task {config['task']!r}: "))
        return None


# --- the configuration alone ---


# lm-eval's output types that headcount does not support.
LM_EVALS_OWN = ("generate_until", "loglikelihood_rolling")


def _check_output_type(name: str, config: dict) -> None:
    if "class" in config:
        raise TaskError(f"{name}: a Python class, not its YAML, makes its prompts: leave it out")
    kind = config.get("output_type", "generate_until")  # lm-eval's default
    if kind not in ("multiple_choice", "loglikelihood"):
        remedy = did_you_mean(kind, ("multiple_choice", "loglikelihood"))
        if kind in LM_EVALS_OWN or not remedy:
            remedy = ": leave it out"
        raise TaskError(
            f"{name}: its output_type is {kind}, and headcount reads answers off log-likelihoods "
            f"(multiple_choice, loglikelihood){remedy}"
        )


def _unsupported(config: dict) -> list[str]:
    problems = [
        f"it needs {key}, which headcount does not support: leave it out"
        for key in ("doc_to_image", "doc_to_audio", "unsafe_code")
        if config.get(key)
    ]
    for entry in config.get("filter_list") or []:
        names = [step["function"] for step in entry["filter"] if step["function"] != "take_first"]
        if names:
            problems.append(f"its filter_list changes answers by {', '.join(names)}: leave it out")
    return problems


# Keys of task files that lm-eval's class TaskConfig does not have.
STRUCTURAL = {"include", "class", "group", "task_list", "group_alias"}


def _unknown_keys(config: dict) -> list[str]:
    known = _task_keys()
    return [
        f"{key} is not a key of lm-eval's tasks{did_you_mean(key, known)}"
        for key in config
        if key not in known | STRUCTURAL
    ]


@cache
def _task_keys() -> frozenset[str]:
    """Return the keys that lm-eval reads from a task's file, by its source."""
    source = task_files.site_packages() / "lm_eval" / "config" / "task.py"
    classes = {
        node.name: node
        for node in ast.parse(source.read_bytes()).body
        if isinstance(node, ast.ClassDef)
    }
    fields = [node for node in classes["TaskConfig"].body if isinstance(node, ast.AnnAssign)]
    return frozenset(field.target.id for field in fields)


# --- splits ---


def deciding(yaml: str | Path, split: str, limits: Limits) -> Limits:
    """Return those of a study's limits that decide the prompts of one of its `SPLITS`.

    Calibration documents from another split than the evaluated one do not depend on how many
    documents are evaluated. A limit that decides nothing is None, or 0.
    """
    if split == "evaluation":
        return Limits(0, limits.evaluation)
    config = task_files.with_included(task_files.installed(yaml))
    return limits if _other_split(config) is None else Limits(limits.calibration, None)


def _other_split(config: dict) -> str | None:
    """Return the split to calibrate on if it is another than the evaluated one, else None."""
    names = (config.get("training_split"), config.get("validation_split"))
    evaluated = evaluated_split(config)
    return next((split for split in names if split and split != evaluated), None)


def _calibration(
    config: dict, request: TaskRequest, counts: dict[str | None, int]
) -> tuple[str | None, int, str | None]:
    """Return the calibration split, how many of its first documents to skip, and the problem."""
    if not request.calibrate:
        return None, 0, None
    if other := _other_split(config):
        return other, 0, None
    evaluated = evaluated_split(config)
    limit, there = request.limits.evaluation, counts.get(evaluated)
    if limit is None or (there is not None and limit >= there):
        count = "" if there is None else f" of {there} documents"
        problem = (
            f"its single split, {evaluated!r}{count}, is evaluated whole: set limits: evaluation "
            "below that to leave documents for calibration, or list it under heldout_tasks"
        )
        return evaluated, 0, problem
    return evaluated, limit, None


def _empty(counts: dict[str | None, int], splits: Iterable[str | None]) -> list[str]:
    """Return a line for each split that holds no document."""
    return [f"its split {split!r} holds no documents" for split in splits if counts.get(split) == 0]


def _counts(
    documents: dict[str, Split], splits: Iterable[str], request: TaskRequest
) -> dict[str, int | None]:
    """Return how many documents the splits have, counted to `_enough`; None: unknown."""
    enough = _enough(request)
    return {split: documents[split].count(enough) for split in splits if split in documents}


def _few(counts: dict[str, int | None], request: TaskRequest) -> dict[str | None, int]:
    """Return the counts of splits that may have too few documents."""
    enough = _enough(request)
    return {split: n for split, n in counts.items() if n is not None and n < enough}


def _enough(request: TaskRequest) -> int:
    """Return a number of documents that is enough for all uses of a split in the study."""
    return request.limits.calibration + (request.limits.evaluation or 0) + max(request.shots) + 1


def _shots(
    config: dict, shots: Sequence[int], counts: dict[str | None, int], calibration: str | None
) -> list[str]:
    """Return the problem with some numbers of shots, if there is one."""
    most = max(shots)
    if most and config.get("num_fewshot") == 0:
        return ["gives no examples (num_fewshot: 0 in its YAML): leave it out, or use shots: [0]"]
    split = examples_split(config)
    fewshot = config.get("fewshot_config") or {}
    listed = fewshot.get("samples")
    there = counts.get(split) if split else len(listed) if isinstance(listed, list) else None
    # lm-eval draws one more if it leaves the query out, unless it takes the first of another split.
    calibrates = split is not None and split == calibration
    queries = calibrates or split == evaluated_split(config)
    default = fewshot.get("sampler", "default") == "default"
    one_more = (calibrates or _leaves_out(config)) and (queries or default)
    needed = most + one_more if most else 0
    if there is not None and needed > there:
        where = f"in {split!r}" if split else "in its fewshot_config"
        return [f"{most} shots need {needed} examples, there are {there} {where}: use fewer shots"]
    return []


def _warnings(
    config: dict,
    request: TaskRequest,
    counts: dict[str | None, int],
    calibration: str | None,
    beyond: int,
) -> list[str]:
    """Return caveats about the results, a line each."""
    warnings = []
    evaluated = evaluated_split(config)
    if max(request.shots) and examples_split(config) == evaluated and not _leaves_out(config):
        warnings.append(
            f"examples are drawn from {evaluated!r}, the evaluated documents, and lm-eval does not "
            "leave a query out of its own: accuracy with shots is too high"
        )
    there = counts.get(calibration, 0) - beyond
    if calibration in counts and there < request.limits.calibration:
        asked = request.limits.calibration
        warnings.append(f"calibration has {there} documents, limits: calibration asks for {asked}")
    return warnings


def _leaves_out(config: dict) -> bool:
    """Whether lm-eval leaves a query out of its own examples.

    It does if the split named for examples is the test split, or if neither is named.
    """
    fewshot = config.get("fewshot_config") or {}
    return (fewshot.get("split") or config.get("fewshot_split")) == config.get("test_split")
