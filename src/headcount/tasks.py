"""lm-evaluation-harness tasks: rendered to prompts, and scored with the harness's own metric code.

lm-eval does all that concerns a task: it loads the documents, draws the examples, renders the
prompts and computes the metrics. What is added here is a calibration set, disjoint from the
evaluated documents, and documents read from a local mirror instead of the hub. What a task can do
is decided in `headcount.task_kinds`, what it is judged by in `headcount.metrics`.

lm-eval is imported inside the functions that need it: importing it costs seconds.
"""

import random
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headcount import metrics, squad, task_data, task_files, task_kinds, task_reads
from headcount.hashes import file_hashes
from headcount.metrics import Metrics
from headcount.task_documents import Rows, kept, recorded, seen
from headcount.task_files import Definition, TaskError, installed
from headcount.task_kinds import SPLITS, Kind, Limits, Wanted

# lm-eval's command line draws the few-shot examples with this seed and seeds `random` with 0.
FEWSHOT_SEED, RANDOM_SEED = 1234, 0


# --- finding and loading ---


# What a group may say without changing its tasks.
GROUP_KEYS = {"group", "task", "tag", "aggregate_metric_list", "metadata"}
GROUP_KEYS |= {"group_alias", "task_alias"}


def find(name: str, task_path: str | Path | None = None) -> Path:
    """The YAML file that defines task `name`, below `task_path` or among lm-eval's own tasks.

    A file of lm-eval's is named from the package on (`lm_eval/tasks/...`), wherever it is
    installed. Only reads files, so that an unknown task is noticed at once.

    Raises `TaskError` when there is none, with the names that come close, or when there are two.
    """
    for directory in _directories(task_path):
        if (found := _definition(name, directory)) and found.kind == "task":
            own = directory != task_files.shipped()
            return found.path if own else found.path.relative_to(task_files.site_packages())
    names = [name for each in _directories(task_path) for name in task_files.definitions(each)]
    close = get_close_matches(name, names, n=3)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise TaskError(
        f"unknown task {name!r}{hint}: neither among lm-eval's tasks, groups and tags nor in "
        f"task_path: {task_path}"
    )


def _definition(name: str, directory: Path) -> Definition | None:
    """What defines `name` below `directory`. Raises `TaskError` when several files do."""
    found = task_files.definitions(directory).get(name, [])
    if len(found) > 1:
        both = " and in ".join(str(each.path) for each in found)
        raise TaskError(f"{name!r} is defined in {both}: rename all but one, or delete them")
    return found[0] if found else None


def shadowed(name: str, task_path: str | Path | None) -> str | None:
    """A remark on a task of `task_path` that has the name of one of lm-eval's own."""
    defined = [task_files.definitions(each).get(name) for each in _directories(task_path)]
    if len(defined) < 2 or not all(defined):
        return None
    mine, theirs = [each[0].path for each in defined if each]
    return (
        f"{name} is that of {mine}, which takes the place of lm-eval's own of this name "
        f"({theirs.relative_to(task_files.site_packages())})"
    )


def expand(names: Sequence[str], task_path: str | Path | None = None) -> list[str]:
    """The tasks that `names` stand for: a task for itself, a group or tag for its tasks.

    As in lm-eval: a name is looked for below `task_path`, then among lm-eval's own, and there it is
    a task, else a group, else a tag; a group's tasks come in its order, a tag's by name; groups
    may hold groups and tags. What comes up twice stays once, where it was first.

    Raises `TaskError` for a name that is unknown or defined twice, and for a group that changes its
    tasks' settings, lists none, or holds itself.
    """
    return list(dict.fromkeys(task for name in names for task in _expanded(name, task_path, ())))


def _expanded(name: str, task_path: str | Path | None, within: tuple[str, ...]) -> list[str]:
    """The tasks of a name that the groups `within` hold, the outermost first."""
    if name in within:
        raise TaskError(f"group {name!r} holds itself ({' > '.join((*within, name))})")
    for directory in _directories(task_path):
        found = _definition(name, directory)
        shipped = directory == task_files.shipped()
        tagged = [] if found and shipped else task_files.tagged(directory, name)
        if found and {*tagged} - {name}:
            raise TaskError(
                f"{name!r} is a {found.kind} ({found.path}), and a tag of {', '.join(tagged)}: "
                "rename one of the two"
            )
        if found and found.kind == "group":
            group = task_files.with_included(found.path)
            return _members(group, task_path, (*within, name))
        if found or tagged:
            return [name] if found else tagged
    find(name, task_path)  # raises
    return []


def _members(group: dict, task_path: str | Path | None, within: tuple[str, ...]) -> list[str]:
    """Tasks of a group, by its configuration."""
    if not isinstance(group.get("task"), list):
        raise TaskError(f"group {group['group']!r} lists no tasks: name them under `task:`")
    tasks = []
    for member in group["task"]:
        inner = {"task": member} if isinstance(member, str) else member
        if changed := sorted({*group, *inner} - GROUP_KEYS):
            raise TaskError(
                f"group {group['group']!r} sets {', '.join(changed)} of its tasks, which headcount "
                "takes as their own files define them: list the tasks instead"
            )
        if isinstance(inner.get("task"), list):
            tasks += _members(inner, task_path, within)
        else:
            tasks += _expanded(inner.get("task") or inner["group"], task_path, within)
    return tasks


def _directories(task_path: str | Path | None) -> list[Path]:
    """Where tasks are looked for, in this order."""
    if task_path and not Path(task_path).is_dir():
        raise TaskError(f"task_path: {task_path} is not a directory")
    return [*([Path(task_path)] if task_path else []), task_files.shipped()]


def version(yaml: str | Path) -> float | str | None:
    """The version of the task in `yaml`, if its metadata say one."""
    config = task_files.with_included(installed(yaml))
    return (config.get("metadata") or {}).get("version")


def load(yaml: str | Path, datasets: str | Path | None = None, **overrides: Any) -> Any:
    """The lm-eval task defined in `yaml`, with configuration keys replaced by `overrides`.

    `datasets` is a mirror of the hub's datasets, as `headcount.task_data` says. lm-eval's command
    line seeds before it loads a task, since some shuffle their documents or choices while loading;
    so does this, and imports the task's functions anew, whose modules may keep a random generator.

    Raises `TaskError` when the task does not load or a file is missing.
    """
    import torch
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    squad.supply()
    task_reads.forget(task_reads.code_of(yaml))
    random.seed(RANDOM_SEED)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
    try:
        config = {**load_yaml(installed(yaml), resolve_func=True), **overrides}
        for structural in ("tag", "group", "task_list"):
            config.pop(structural, None)
        config = task_data.located(task_data.placed(config, installed(yaml)), datasets)
        with task_data.uncached() as cache:
            task = ConfigurableTask(config=task_data.anew(config, cache))
        task.config.dataset_kwargs = config.get("dataset_kwargs")
        task.config.custom_dataset = config.get("custom_dataset")
        return task
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # of lm-eval, of the hub, of the task's own functions
        raise TaskError(
            f"{yaml}: the task does not load: {type(error).__name__}: {error}"
        ) from error


# --- what a task means ---

# What names a task, and what only groups look at. `documents` answers for the documents.
NO_MEANING = {"task", "tag", "group", "task_list", "task_alias", "group_alias"}
DOCUMENTS = {"dataset_path", "dataset_name", "dataset_kwargs"}


def meaning(yaml: str | Path) -> dict:
    """What decides the prompts and metrics of the task in `yaml`, beside its documents; as JSON.

    `config` as lm-eval resolves it, a function by its name; `code`, a hash of the modules of these
    functions and all that they import, wherever these lie; `packages`, versions of those that they
    use; and `files`, hashes of those that a text in the code names. File names, comments and the
    order of keys are no part of it. `headcount.task_reads` tells what else the code reads.

    Raises `TaskError` when a file cannot be read.
    """
    config = task_files.with_included(installed(yaml))
    kept = {key: config[key] for key in config if key not in NO_MEANING | DOCUMENTS}
    if isinstance(kept.get("doc_to_choice"), dict):  # the order is that of the choices
        kept["doc_to_choice"] = [[key, value] for key, value in kept["doc_to_choice"].items()]
    code = task_reads.code_of(yaml)
    named = task_reads.named(code)
    try:
        return {
            "config": task_files.plain(kept),
            "code": code.hash() if code.files else None,
            "packages": code.packages(silent=set()) if code.files or code.installed else {},
            "files": dict(zip(named, file_hashes([*named.values()]), strict=True)),
        }
    except OSError as error:
        raise TaskError(f"{yaml}: {error.filename} cannot be read: {error.strerror}") from error


def headline(yaml: str | Path, wanted: str | None = None) -> str:
    """The metric that the task in `yaml` is judged by: see `headcount.metrics.headline`."""
    return metrics.headline(task_files.with_included(installed(yaml)), wanted)


def documents(yaml: str | Path, datasets: str | Path | None = None) -> dict:
    """What decides the documents of the task in `yaml`, or in the mirror `datasets`; as JSON.

    See `task_data.content`. Raises `TaskError` when a file is not there.
    """
    config = task_files.with_included(installed(yaml))
    return task_data.content(task_data.placed(config, installed(yaml)), datasets)


# --- prompts ---


def prepare(
    yaml: str | Path,
    shots: int,
    limits: Limits,
    seed: int | None,
    datasets: str | Path | None = None,
    metric: str | None = None,
    splits: Sequence[str] = SPLITS,
) -> Rows:
    """Rows of the artifact `tasks`: every request of the documents of some splits.

    "evaluation": lm-eval's own prompts, seeds and order; where lm-eval lets a query be among its
    own examples, the row says so. "calibration": documents drawn with `seed`, the same for every
    number of shots, from the training split; without one, from the validation split if the test
    split is evaluated, or else from the evaluated split beyond the limit. None of them is, by what
    is rendered, among those that may be evaluated, whatever the limit, nor among its own examples.
    `metric` is the headline metric, where the study overrides the rule of `headcount.metrics`.

    Raises `TaskError` when calibration documents, or examples for `shots`, cannot be had.
    """
    wanted = Wanted([shots], limits, datasets, "calibration" in splits, metric)
    kind = task_kinds.examine(yaml, wanted)
    with task_data.uncached():
        return _prepared(yaml, kind, shots, limits, seed, datasets, splits)


def _prepared(
    yaml: str | Path,
    kind: Kind,
    shots: int,
    limits: Limits,
    seed: int | None,
    datasets: str | Path | None,
    splits: Sequence[str],
) -> Rows:
    """The rows of `prepare`, of a task that was examined."""
    task = load(yaml, datasets)
    rows = Rows()
    if "evaluation" in splits:
        rows += _requests(task, kind, shots, "evaluation", limit=limits.evaluation)
        if not any(row["gold"] for row in rows):
            raise TaskError(
                f"{kind.task}: no evaluated document of {kind.evaluated!r} has a right answer "
                "among its choices (labels are hidden?): evaluate a split that has labels"
            )
    if "calibration" in splits:
        # Of a single split those beyond the limit are drawn.
        evaluated = {
            seen(task, doc) for doc in islice(task.task_docs, kind.calibrates_beyond or None)
        }
        examples = {"fewshot_split": kind.examples} if kind.examples else {}
        held = load(yaml, datasets, validation_split=None, test_split=kind.calibration, **examples)
        samples, rows.passed_over = _drawn(held, kind, limits, seed, evaluated)
        rows += _requests(held, kind, shots, "calibration", samples=samples)
    return rows


def split_rows(prompts: pa.Table, split: str) -> list[dict]:
    """Rows of one split of the artifact `tasks`, in document order."""
    return prompts.filter(pc.field("split") == split).to_pylist()


def remarks(rows: Rows, limits: Limits) -> list[str]:
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
    held: Any, kind: Kind, limits: Limits, seed: int | None, evaluated: set[str]
) -> tuple[list[int], int]:
    """Indices of the calibration documents, and how many were passed over: they are `evaluated`."""
    docs = held.task_docs
    order = np.arange(kind.calibrates_beyond, len(docs))
    order = np.random.default_rng(seed).permutation(order).tolist()
    drawn: list[int] = []
    passed_over = 0
    for index in order:
        if len(drawn) == limits.calibration:
            break
        if seen(held, docs[index]) in evaluated:
            passed_over += 1
        else:
            drawn.append(index)
    if not drawn:
        why, remedy = "", "evaluate fewer (limits: evaluation)"
        if kind.calibration != kind.evaluated:
            why = f", since {kind.evaluated!r} has them all"
            remedy = "do not name that split in its file, so that those beyond the limit calibrate"
        raise TaskError(
            f"{kind.task}: no document of {kind.calibration!r} is left for calibration, of "
            f"{len(docs)}{why}: {remedy}, or list it under heldout_tasks"
        )
    return sorted(drawn), passed_over


def _requests(task: Any, kind: Kind, shots: int, split: str, **which: Any) -> list[dict]:
    """Rows for the requests of `task`'s evaluated documents, as `lm_eval` would render them."""
    pool = len(task.sampler.df) if hasattr(task, "sampler") else 0
    # lm-eval draws one more where it leaves the query out, by the names of the splits (None too).
    leaves_out = task.fewshot_cfg.split == task.config.test_split
    needed = shots + (leaves_out and task.fewshot_cfg.sampler == "default") if shots else 0
    if needed > pool:
        raise TaskError(
            f"{kind.task}: {shots} shots need {needed} examples, there are {pool}: use fewer shots"
        )
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    examples = recorded(task) if shots else []
    try:
        task.build_all_requests(**which)
    except (AssertionError, TypeError, ValueError, KeyError, IndexError) as error:
        several = " (of several right answers it can show none)" if task.multiple_target else ""
        raise TaskError(
            f"{kind.task}: lm-eval cannot render its prompts at {shots} shots{several}: "
            f"{type(error).__name__}: {error}"
        ) from error
    metrics_of_task = Metrics.of_task(task, kind.metric)
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
                "doc": kept(doc, task.task_docs.features) if request.idx == 0 else None,
            }
            for request in requests
        ]
    return rows
