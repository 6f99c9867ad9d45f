"""lm-evaluation-harness tasks: found by name, loaded as the harness loads them, and what they mean.

lm-eval is imported inside the functions that need it: importing it costs seconds.
"""

import random
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from headcount.artifacts.hashes import file_hashes
from headcount.tasks import code as task_code, datasets as task_datasets, files, metrics, squad
from headcount.tasks.files import Definition, TaskError, installed

# lm-eval's command line draws the few-shot examples with this seed and seeds `random` with 0.
FEWSHOT_SEED, RANDOM_SEED = 1234, 0

# Keys of a group that do not change its tasks.
GROUP_KEYS = {"group", "task", "tag", "aggregate_metric_list", "metadata"}
GROUP_KEYS |= {"group_alias", "task_alias"}


def find(name: str, task_path: str | Path | None = None) -> Path:
    """Return the YAML file that defines task `name`, below `task_path` or in lm-eval.

    A file of lm-eval is named relative to its installation (`lm_eval/tasks/...`). Only file names
    and keys are read, so that an unknown task is noticed at once.

    Raises `TaskError` with the closest names when there is none, or when several files define it.
    """
    for directory in _directories(task_path):
        if (found := _definition(name, directory)) and found.kind == "task":
            own = directory != files.shipped()
            return found.path if own else found.path.relative_to(files.site_packages())
    names = [name for each in _directories(task_path) for name in files.definitions(each)]
    close = get_close_matches(name, names, n=3)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise TaskError(
        f"unknown task {name!r}{hint}: neither among lm-eval's tasks, groups and tags nor in "
        f"task_path: {task_path}"
    )


def _definition(name: str, directory: Path) -> Definition | None:
    """Return the definition of `name` below `directory`; raise `TaskError` if there are several."""
    found = files.definitions(directory).get(name, [])
    if len(found) > 1:
        both = " and in ".join(str(each.path) for each in found)
        raise TaskError(f"{name!r} is defined in {both}: rename all but one, or delete them")
    return found[0] if found else None


def shadowed(name: str, task_path: str | Path | None) -> str | None:
    """Return a remark if the task of `task_path` has the name of one of lm-eval's own."""
    defined = [files.definitions(each).get(name) for each in _directories(task_path)]
    if len(defined) < 2 or not all(defined):
        return None
    mine, theirs = [each[0].path for each in defined if each]
    return (
        f"{name} is defined in {mine}, which takes the place of lm-eval's own task of this name "
        f"({theirs.relative_to(files.site_packages())})"
    )


def expand(names: Sequence[str], task_path: str | Path | None = None) -> list[str]:
    """Return the tasks that `names` stand for: a task for itself, a group or tag for its tasks.

    As in lm-eval, a name is looked for below `task_path`, then among lm-eval's own tasks, and taken
    for a task, else a group, else a tag. A group's tasks come in its order, a tag's by name; groups
    may contain groups and tags. A task that comes up twice is listed once, at its first place.

    Raises `TaskError` for a name that is unknown or defined twice, and for a group that changes its
    tasks' settings, lists no task, or contains itself.
    """
    return list(dict.fromkeys(task for name in names for task in _expanded(name, task_path, ())))


def _expanded(name: str, task_path: str | Path | None, within: tuple[str, ...]) -> list[str]:
    """Return the tasks of a name inside the groups `within`, the outermost first."""
    if name in within:
        raise TaskError(
            f"group {name!r} contains itself ({' > '.join((*within, name))}): take one name out"
        )
    for directory in _directories(task_path):
        found = _definition(name, directory)
        shipped = directory == files.shipped()
        tagged = [] if found and shipped else files.tagged(directory, name)
        if found and {*tagged} - {name}:
            raise TaskError(
                f"{name!r} is a {found.kind} ({found.path}), and a tag of {', '.join(tagged)}: "
                "rename one of the two"
            )
        if found and found.kind == "group":
            group = files.with_included(found.path)
            return _members(group, task_path, (*within, name))
        if found or tagged:
            return [name] if found else tagged
    find(name, task_path)  # raises
    return []


def _members(group: dict, task_path: str | Path | None, within: tuple[str, ...]) -> list[str]:
    """Return the tasks of a group, by its configuration."""
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
    """Return the directories to look for tasks in, in this order."""
    if task_path and not Path(task_path).is_dir():
        raise TaskError(f"task_path: {task_path} is not a directory: correct the path")
    return [*([Path(task_path)] if task_path else []), files.shipped()]


def version(yaml: str | Path) -> float | str | None:
    """Return the version in the metadata of the task in `yaml`, if there is one."""
    config = files.with_included(installed(yaml))
    return (config.get("metadata") or {}).get("version")


def load(yaml: str | Path, datasets: str | Path | None = None, **overrides: Any) -> Any:
    """Return the lm-eval task defined in `yaml`, with configuration keys replaced by `overrides`.

    `datasets` is a mirror of the hub's datasets (`headcount.tasks.datasets`). Random generators are
    seeded first, as lm-eval's command line does, since some tasks shuffle documents or choices
    while they load. The task's functions are imported again, since their modules may hold a random
    generator.

    Raises `TaskError` when the task does not load or a file is missing.
    """
    import torch
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    squad.supply()
    task_code.forget(task_code.code_of(yaml))
    random.seed(RANDOM_SEED)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
    try:
        config = {**load_yaml(installed(yaml), resolve_func=True), **overrides}
        for structural in ("tag", "group", "task_list"):
            config.pop(structural, None)
        config = task_datasets.from_mirror(
            task_datasets.with_resolved_paths(config, installed(yaml)), datasets
        )
        with task_datasets.uncached() as cache:
            task = ConfigurableTask(config=task_datasets.isolated(config, cache))
        task.config.dataset_kwargs = config.get("dataset_kwargs")
        task.config.custom_dataset = config.get("custom_dataset")
        return task
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # from lm-eval, the hub, the task's own functions
        raise TaskError(
            f"{yaml}: the task does not load: {type(error).__name__}: {error}"
        ) from error


# --- what a task means ---

# Keys that name a task, or that only groups use. `data_content` covers the documents.
NO_MEANING = {"task", "tag", "group", "task_list", "task_alias", "group_alias"}
DOCUMENTS = {"dataset_path", "dataset_name", "dataset_kwargs"}


def meaning(yaml: str | Path) -> dict:
    """Return what decides the prompts and metrics of the task in `yaml`, as JSON.

    The documents are left to `data_content`. `config` is the resolved configuration, a function by
    its name; `code` a hash of the modules of these functions and of all that they import;
    `packages` the versions of the packages that they use; `files` the hashes of the files that
    strings in the code name. File names, comments and the order of keys do not count.
    `headcount.tasks.code` reports what else the code reads.

    Raises `TaskError` when a file cannot be read.
    """
    config = files.with_included(installed(yaml))
    kept = {key: config[key] for key in config if key not in NO_MEANING | DOCUMENTS}
    if isinstance(kept.get("doc_to_choice"), dict):  # their order is that of the choices
        kept["doc_to_choice"] = [[key, value] for key, value in kept["doc_to_choice"].items()]
    code = task_code.code_of(yaml)
    named = task_code.named(code)
    try:
        return {
            "config": files.plain(kept),
            "code": code.hash() if code.files else None,
            "packages": code.packages(silent=set()) if code.files or code.installed else {},
            "files": dict(zip(named, file_hashes([*named.values()]), strict=True)),
        }
    except OSError as error:
        raise TaskError(f"{yaml}: {error.filename} cannot be read: {error.strerror}") from error


def headline(yaml: str | Path, wanted: str | None = None) -> str:
    """Return the headline metric of the task in `yaml`: see `headcount.tasks.metrics.headline`."""
    return metrics.headline(files.with_included(installed(yaml)), wanted)


def data_content(yaml: str | Path, datasets: str | Path | None = None) -> dict:
    """Return what decides the documents of the task in `yaml`, as JSON.

    See `headcount.tasks.datasets.content`. Raises `TaskError` when a file is missing.
    """
    config = files.with_included(installed(yaml))
    return task_datasets.content(
        task_datasets.with_resolved_paths(config, installed(yaml)), datasets
    )
