"""What a study can do with a task, told from its YAML and its data's schema, before anything runs.

One place decides the kind of a task, the splits that it is evaluated on, calibrated on and given
examples from, where these overlap, the metric that is reported, and the numbers of shots that it
can be run at. Planning asks it for all tasks at once, and the job that renders the prompts again.
Only files are read: lm-eval is not imported, nothing is downloaded.
"""

import ast
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
import jinja2.meta
import polars as pl

from headcount import task_data, task_files
from headcount.metrics import headline
from headcount.task_data import evaluated_split, examples_split
from headcount.task_files import Function, TaskError


@dataclass(frozen=True)
class Limits:
    """How many documents: at most `calibration`, and `evaluation` (None: the whole split)."""

    calibration: int
    evaluation: int | None


@dataclass(frozen=True)
class Wanted:
    """What a study wants of a task."""

    shots: Sequence[int]
    limits: Limits
    datasets: str | Path | None = None  # the mirror
    calibrate: bool = True  # held-out tasks are not, unless what they lose leaves a stand-in
    metric: str | None = None


@dataclass
class Kind:
    """What a task is, and what has to be known of the results."""

    task: str
    metric: str
    evaluated: str  # split
    examples: str | None  # split; None: listed in the configuration
    calibration: str | None  # split; None: no calibration documents are wanted
    calibrates_beyond: int  # the first so many documents of that split are evaluated
    warnings: list[str] = field(default_factory=list)


def examine(yaml: str | Path, wanted: Wanted) -> Kind:
    """What the study can do with the task in `yaml`.

    Raises `TaskError` with what speaks against it, everything that is found, each with its remedy.
    """
    config = task_files.with_included(task_files.installed(yaml))
    name = config.get("task", str(yaml))
    _check_output_type(name, config)
    problems: list[str] = []
    metric = _told(problems, headline, config, wanted.metric)
    evaluated = evaluated_split(config)
    if evaluated is None:
        raise TaskError(f"{name}: it has neither test_split nor validation_split to evaluate")
    files = _told(problems, task_data.files, config, wanted.datasets) or {}
    problems += _unsupported(config)
    problems += _missing_packages(config)
    rows = {split: task_data.documents(paths) for split, paths in files.items()}
    counts = {} if config.get("process_docs") else _counts(rows)
    split, beyond, problem = _calibration(config, wanted, counts)
    problems += [problem] if problem else []
    problems += _empty(counts, (evaluated, split))
    problems += _shots(config, wanted.shots, counts, split)
    problems += _fields(config, rows)
    if problems:
        raise TaskError("\n".join(f"{name}: {problem}" for problem in dict.fromkeys(problems)))
    return Kind(
        task=name,
        metric=metric,
        evaluated=evaluated,
        examples=examples_split(config),
        calibration=split,
        calibrates_beyond=beyond,
        warnings=_warnings(config, wanted, counts, split, beyond),
    )


def _told(problems: list[str], function, config: dict, argument):
    """What `function` returns; a `TaskError` of its is added to the problems."""
    try:
        return function(config, argument)
    except TaskError as error:
        problems.append(str(error).removeprefix(f"task {config['task']!r}: "))
        return None


# --- the configuration alone ---


def _check_output_type(name: str, config: dict) -> None:
    if "class" in config:
        raise TaskError(f"{name}: a Python class makes its prompts, not a YAML: leave it out")
    kind = config.get("output_type", "generate_until")  # lm-eval's default
    if kind not in ("multiple_choice", "loglikelihood"):
        raise TaskError(
            f"{name}: its output_type is {kind}, and headcount reads answers off log-likelihoods "
            "(multiple_choice, loglikelihood): leave it out"
        )


def _unsupported(config: dict) -> list[str]:
    problems = [
        f"it needs {key}, which headcount does not do: leave it out"
        for key in ("doc_to_image", "doc_to_audio", "unsafe_code")
        if config.get(key)
    ]
    for entry in config.get("filter_list") or []:
        names = [step["function"] for step in entry["filter"] if step["function"] != "take_first"]
        if names:
            problems.append(f"its filter_list changes answers by {', '.join(names)}: leave it out")
    return problems


def _missing_packages(config: dict) -> list[str]:
    """Packages that the task's own functions import and that are not installed."""
    modules = {
        value.home / (value.rpartition(".")[0].replace(".", "/") + ".py")
        for value in task_files.values(config)
        if isinstance(value, Function)
    }
    missing = {name for module in modules for name in _not_installed(module)}
    return [
        f"its functions import {name}, which is not installed: pip install {name}"
        for name in sorted(missing)
    ]


@cache
def _not_installed(module: Path) -> frozenset[str]:
    """Top-level packages that a file imports at its top level and that are not there."""
    try:
        tree = ast.parse(module.read_bytes())
    except (OSError, SyntaxError):
        return frozenset()  # told when it is imported
    names = {
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    tops = {name.partition(".")[0] for name in names}
    beside = {path.stem for path in module.parent.glob("*.py")}
    return frozenset(name for name in tops - beside if importlib.util.find_spec(name) is None)


# --- splits ---


def _calibration(
    config: dict, wanted: Wanted, counts: dict[str, int]
) -> tuple[str | None, int, str | None]:
    """The split that calibrates, how many of its first documents do not, and what is wrong."""
    if not wanted.calibrate:
        return None, 0, None
    evaluated = evaluated_split(config)
    for split in (config.get("training_split"), config.get("validation_split")):
        if split and split != evaluated:
            return split, 0, None
    limit, there = wanted.limits.evaluation, counts.get(evaluated)
    if limit is None or (there is not None and limit >= there):
        count = "" if there is None else f" of {there} documents"
        problem = (
            f"its single split, {evaluated!r}{count}, is evaluated whole: set limits: evaluation "
            "below that to leave documents for calibration, or list it under heldout_tasks"
        )
        return evaluated, 0, problem
    return evaluated, limit, None


def _empty(counts: dict[str, int], splits: Iterable[str | None]) -> list[str]:
    """What speaks against splits that are read: they hold no document."""
    return [f"its split {split!r} holds no documents" for split in splits if counts.get(split) == 0]


def _counts(rows: dict[str, pl.LazyFrame | None]) -> dict[str, int]:
    """Documents of the splits whose files can be looked into."""
    return {
        split: frame.select(pl.len()).collect().item()
        for split, frame in rows.items()
        if frame is not None
    }


def _shots(
    config: dict, shots: Sequence[int], counts: dict[str, int], calibration: str | None
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
    config: dict, wanted: Wanted, counts: dict[str, int], calibration: str | None, beyond: int
) -> list[str]:
    """What the results have to be read with."""
    warnings = []
    evaluated = evaluated_split(config)
    if max(wanted.shots) and examples_split(config) == evaluated and not _leaves_out(config):
        warnings.append(
            f"examples are drawn from {evaluated!r}, the evaluated documents, and lm-eval does not "
            "leave a query out of its own: accuracy with shots is too high"
        )
    there = counts.get(calibration, 0) - beyond
    if calibration in counts and there < wanted.limits.calibration:
        warnings.append(
            f"{there} documents calibrate, limits: calibration asks for {wanted.limits.calibration}"
        )
    return warnings


def _leaves_out(config: dict) -> bool:
    """Whether lm-eval leaves a query out of its own examples.

    It does where the split named for examples is the test split: also where there is neither.
    """
    fewshot = config.get("fewshot_config") or {}
    return (fewshot.get("split") or config.get("fewshot_split")) == config.get("test_split")


# --- the documents' fields ---


def _fields(config: dict, rows: dict[str, pl.LazyFrame | None]) -> list[str]:
    """Fields that the templates name and the documents lack; labels that name no choice."""
    frame = rows.get(evaluated_split(config))
    if frame is None or config.get("process_docs"):
        return []
    columns = frame.collect_schema().names()
    there = f"its documents have {', '.join(columns)}"
    problems = []
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = config.get(key)
        if not isinstance(template, str) or isinstance(template, Function) or template in columns:
            continue
        try:
            parsed = jinja2.Environment().parse(template)
        except jinja2.TemplateSyntaxError as error:
            problems.append(f"{key} is no template: {error.message}")
            continue
        named = {node.name for node in parsed.find_all(jinja2.nodes.Name) if node.ctx == "load"}
        made = {node.name for node in parsed.find_all(jinja2.nodes.Name) if node.ctx == "store"}
        unknown = named - made - {*columns} - {*jinja2.defaults.DEFAULT_NAMESPACE, "loop"}
        problems += [f"{key} names {name!r}, {there}" for name in sorted(unknown)]
        if not named and key == "doc_to_target" and _names_nothing(config, template):
            problems.append(f"{key} is {template!r}, which is no field and no choice; {there}")
    return problems or _labels(config, frame, columns)


def _names_nothing(config: dict, target: str) -> bool:
    choices = config.get("doc_to_choice")
    return (
        config["output_type"] == "multiple_choice"
        and not target.strip().isdigit()
        and not (isinstance(choices, list) and target in choices)
        and "{" not in target
    )


def _labels(config: dict, frame: pl.LazyFrame, columns: list[str]) -> list[str]:
    """Whether no evaluated document's label names a choice, where both are plain fields."""
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    if target not in columns or not frame.collect_schema()[target].is_integer():
        return []
    if isinstance(choices, list | dict):
        number = pl.lit(len(choices))
    elif choices in columns and isinstance(frame.collect_schema()[choices], pl.List):
        number = pl.col(choices).list.len()
    else:
        return []
    valid = frame.select(((pl.col(target) >= 0) & (pl.col(target) < number)).any()).collect().item()
    return (
        []
        if valid
        else [
            f"{target!r} names a choice in no document of {evaluated_split(config)!r} (labels are "
            "hidden?): evaluate a split that has labels"
        ]
    )
