"""What a study can do with a task, told from its YAML and its data's schema, before anything runs.

One place decides the kind of a task, the splits that it is evaluated on, calibrated on and given
examples from, where these overlap, the metric that is reported, and the numbers of shots that it
can be run at. Planning asks it for all tasks at once, and the job that renders the prompts again.
Only files are read: lm-eval is not imported, nothing is downloaded.
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

SPLITS = ("calibration", "evaluation")  # of a study, which a task names as it likes


@dataclass(frozen=True)
class Limits:
    """How many documents: at most `calibration`, and `evaluation` (None: the whole split)."""

    calibration: int
    evaluation: int | None


@dataclass(frozen=True)
class TaskRequest:
    """What a study wants of a task."""

    shots: Sequence[int]
    limits: Limits
    datasets: str | Path | None = None  # the mirror
    calibrate: bool = True  # held-out tasks are not, unless what they lose leaves a stand-in
    metric: str | None = None


@dataclass
class TaskSpec:
    """What a task is, and what has to be known of the results."""

    task: str
    metric: str
    evaluated: str  # split
    examples: str | None  # split; None: listed in the configuration
    calibration: str | None  # split; None: no calibration documents are wanted
    calibrates_beyond: int  # the first so many documents of that split are evaluated
    warnings: list[str] = field(default_factory=list)


def resolve(yaml: str | Path, request: TaskRequest, read: bool = True) -> TaskSpec:
    """What the study can do with the task in `yaml`.

    Its documents are looked into only if `read`.

    Raises `TaskError` with what speaks against it, everything that is found, each with its remedy.
    """
    yaml = task_files.installed(yaml)
    config = task_datasets.with_resolved_paths(task_files.with_included(yaml), yaml)
    name = config.get("task", str(yaml))
    _check_output_type(name, config)
    problems: list[str] = []
    metric = _attempt(problems, headline, config, request.metric)
    evaluated = evaluated_split(config)
    if evaluated is None:
        raise TaskError(f"{name}: it has neither test_split nor validation_split to evaluate")
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
    """What `function` returns; a `TaskError` of its is added to the problems."""
    try:
        return function(config, argument)
    except TaskError as error:
        problems.append(str(error).removeprefix(f"task {config['task']!r}: "))
        return None


# --- the configuration alone ---


# Types of output that lm-eval knows and headcount does not read answers off.
LM_EVALS_OWN = ("generate_until", "loglikelihood_rolling")


def _check_output_type(name: str, config: dict) -> None:
    if "class" in config:
        raise TaskError(f"{name}: a Python class makes its prompts, not a YAML: leave it out")
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


# Keys of task files that are none of lm-eval's class TaskConfig.
STRUCTURAL = {"include", "class", "group", "task_list", "group_alias"}


def _unknown_keys(config: dict) -> list[str]:
    known = _task_keys()
    return [
        f"{key} is no key of lm-eval's tasks{did_you_mean(key, known)}"
        for key in config
        if key not in known | STRUCTURAL
    ]


@cache
def _task_keys() -> frozenset[str]:
    """The keys that lm-eval reads from a task's file, from its source."""
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
    """Of a study's limits those that decide the prompts of one of its `SPLITS`.

    Where documents to calibrate on are had from another split than the evaluated one, they do not
    depend on how many are evaluated. What does not count is None, or 0.
    """
    if split == "evaluation":
        return Limits(0, limits.evaluation)
    config = task_files.with_included(task_files.installed(yaml))
    return limits if _other_split(config) is None else Limits(limits.calibration, None)


def _other_split(config: dict) -> str | None:
    """The split to calibrate on, of a task that has another than the evaluated one."""
    names = (config.get("training_split"), config.get("validation_split"))
    evaluated = evaluated_split(config)
    return next((split for split in names if split and split != evaluated), None)


def _calibration(
    config: dict, request: TaskRequest, counts: dict[str | None, int]
) -> tuple[str | None, int, str | None]:
    """The split that calibrates, how many of its first documents do not, and what is wrong."""
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
    """What speaks against splits that are read: they hold no document."""
    return [f"its split {split!r} holds no documents" for split in splits if counts.get(split) == 0]


def _counts(
    documents: dict[str, Split], splits: Iterable[str], request: TaskRequest
) -> dict[str, int | None]:
    """How many documents the splits have, of many `_enough` or more; None: it cannot be told."""
    enough = _enough(request)
    return {split: documents[split].count(enough) for split in splits if split in documents}


def _few(counts: dict[str, int | None], request: TaskRequest) -> dict[str | None, int]:
    """The counts of splits that may have too few documents."""
    enough = _enough(request)
    return {split: n for split, n in counts.items() if n is not None and n < enough}


def _enough(request: TaskRequest) -> int:
    """So many documents are enough for all that a study wants of a split."""
    return request.limits.calibration + (request.limits.evaluation or 0) + max(request.shots) + 1


def _shots(
    config: dict, shots: Sequence[int], counts: dict[str | None, int], calibration: str | None
) -> list[str]:
    """What speaks against some numbers of shots."""
    most = max(shots)
    if most and config.get("num_fewshot") == 0:
        return ["gives no examples (num_fewshot: 0 in its YAML): leave it out, or use shots: [0]"]
    split = examples_split(config)
    fewshot = config.get("fewshot_config") or {}
    listed = fewshot.get("samples")
    there = counts.get(split) if split else len(listed) if isinstance(listed, list) else None
    # lm-eval draws one more where it leaves the query out, unless it takes the first of others.
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
    """What the results have to be read with."""
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
        warnings.append(f"{there} documents calibrate, limits: calibration asks for {asked}")
    return warnings


def _leaves_out(config: dict) -> bool:
    """Whether lm-eval leaves a query out of its own examples.

    It does where the split named for examples is the test split: also where there is neither.
    """
    fewshot = config.get("fewshot_config") or {}
    return (fewshot.get("split") or config.get("fewshot_split")) == config.get("test_split")
