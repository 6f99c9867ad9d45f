"""The YAML files that define lm-eval's tasks, groups and tags, read without importing lm-eval.

lm-eval's own index of its 14,000 files takes several seconds, and the workflow asks for a task's
file each time it is read.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from headcount import yaml_files


class TaskError(ValueError):
    """A task that cannot be found, loaded or prepared; the message says what to change."""


class Function(str):
    """The name of a function, `module.name`, that a task's configuration calls (`!function`)."""

    home: Path  # the directory that its module is looked for in first: the file's that names it


@cache
def site_packages() -> Path:
    """The directory that lm-eval is installed in."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


def shipped() -> Path:
    """The directory of lm-eval's own tasks."""
    return site_packages() / "lm_eval" / "tasks"


def installed(yaml: str | Path) -> Path:
    """Where a file that `headcount.tasks.find` names is."""
    shipped_with_lm_eval = Path(yaml).parts[0] == "lm_eval"
    return site_packages() / yaml if shipped_with_lm_eval else Path(yaml)


def task_name(yaml: str | Path) -> str:
    """The name of the task that a file defines."""
    return with_included(installed(yaml)).get("task", str(yaml))


@cache
def defined(directory: Path, kind: str) -> dict[str, Path]:
    """Name -> YAML file, for every file below `directory` with a line `task: NAME` (or `group`)."""
    line = re.compile(rf"""^"?{kind}"?:[ \t]*["']?([^\s"'\[#]+)""".encode(), re.MULTILINE)
    found: dict[str, Path] = {}
    for path in sorted(directory.rglob("*.yaml")):
        if match := line.search(yaml_files.text(path)):
            found.setdefault(match[1].decode(), path)
    return found


@cache
def tagged(directory: Path, tag: str) -> list[str]:
    """Names of the tasks below `directory` that have the tag, perhaps from a file they include."""
    files = (path for path in directory.rglob("*") if path.suffix in (".yaml", ""))
    texts = {path: yaml_files.text(path) for path in files if path.is_file()}
    includes = {path: set(_INCLUDE.findall(text)) for path, text in texts.items()}
    reached, naming = set(), {path for path, text in texts.items() if tag.encode() in text}
    while naming:  # the tag's files, those that include one of them, and so on
        reached |= naming
        names = {path.name.encode() for path in naming}
        naming = {path for path in texts if includes[path] & names} - reached
    tasks = set()
    for path in reached:
        if path.suffix == ".yaml":
            config = with_included(path)
            tags = config.get("tag") or []
            if tag in ([tags] if isinstance(tags, str) else tags) and "group" not in config:
                tasks |= {config["task"]} if "task" in config else set()
    return sorted(tasks)


# The last part of each path in `include: PATH` or in a list of them.
_INCLUDE = re.compile(rb"""^(?:include:|\s*-)[ \t]*["']?(?:\S*/)?([^\s"'/]+)""", re.MULTILINE)


def with_included(yaml: Path) -> dict:
    """A file's configuration with that of the files it includes."""
    config = raw(yaml)
    merged: dict = {}
    includes = config.pop("include", [])
    for included in [includes] if isinstance(includes, str) else includes:
        merged |= with_included(yaml.resolve().parent / included)
    return merged | config


def chain(yaml: Path) -> list[Path]:
    """A file, those that it includes, and so on."""
    includes = raw(yaml).get("include", [])
    listed = [includes] if isinstance(includes, str) else includes
    return [yaml, *(one for path in listed for one in chain(yaml.resolve().parent / path))]


def values(config: Any) -> list:
    """The scalars in a configuration, at any depth."""
    if isinstance(config, dict):
        return [value for inner in config.values() for value in values(inner)]
    if isinstance(config, list):
        return [value for inner in config for value in values(inner)]
    return [config]


def plain(config: Any) -> Any:
    """A configuration, or a part of one, as JSON can hold it, keys in alphabetical order."""
    if isinstance(config, dict):
        return {str(key): plain(config[key]) for key in sorted(config, key=str)}
    if isinstance(config, list):
        return [plain(value) for value in config]
    if isinstance(config, Function):
        return f"!function {config}"
    return config if config is None or isinstance(config, str | int | float) else str(config)


def raw(yaml: Path) -> dict:
    """The YAML file as it stands, included files unresolved, a `!function` by its name.

    Raises `TaskError` when it is no YAML, with the place.
    """
    import yaml as pyyaml

    class Loader(getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)):  # type: ignore[misc]
        pass

    def function(loader: Any, suffix: str, node: Any) -> Any:
        name = Function(loader.construct_scalar(node))
        name.home = yaml.resolve().parent
        return name

    Loader.add_multi_constructor("!", function)
    try:
        return yaml_files.load(yaml, Loader)
    except yaml_files.SlipError as error:
        raise TaskError(str(error)) from error
