"""The YAML files that define lm-eval's tasks, groups and tags, read without importing lm-eval.

lm-eval's own index of its 14,000 files takes several seconds, and the workflow looks up task files
at every start.
"""

import ast
import importlib.util
import os
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from headcount import yaml_files


class TaskError(ValueError):
    """A task that cannot be found, loaded or prepared; the message says what to change."""


class Function(str):
    """The name of a function, `module.name`, that a task's configuration calls (`!function`)."""

    home: Path  # the directory of the file that names it, where its module is looked for first


@cache
def site_packages() -> Path:
    """Return the directory that lm-eval is installed in."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


def shipped() -> Path:
    """Return the directory of lm-eval's own tasks."""
    return site_packages() / "lm_eval" / "tasks"


def installed(yaml: str | Path) -> Path:
    """Return the path of a file as `headcount.tasks.loading.find` names it."""
    shipped_with_lm_eval = Path(yaml).parts[0] == "lm_eval"
    return site_packages() / yaml if shipped_with_lm_eval else Path(yaml)


def task_name(yaml: str | Path) -> str:
    """Return the name of the task that a file defines."""
    return with_included(installed(yaml)).get("task", str(yaml))


class Definition(NamedTuple):
    """A file that defines a task or a group."""

    kind: str  # "task" or "group"
    path: Path


@cache
def definitions(directory: Path) -> dict[str, list[Definition]]:
    """Return the files below `directory` that define each name, in lm-eval's order of reading.

    lm-eval takes the first of several.
    """
    named = _named_in_lines if directory == shipped() else _named
    found = defaultdict(list)
    for path in _below(directory, ".yaml"):
        keys = named(path)
        kind = next((_KINDS[key] for key in _KINDS if key in keys), "")
        if isinstance(name := keys.get(kind), str):
            found[name].append(Definition(kind, path))
    return dict(found)


def defined(directory: Path, kind: str) -> dict[str, Path]:
    """Return the YAML files of the tasks (or groups) below `directory`, by name."""
    return {
        name: first.path
        for name, (first, *_) in definitions(directory).items()
        if first.kind == kind
    }


def _below(directory: Path, *suffixes: str) -> list[Path]:
    """Return the files below `directory` that lm-eval reads, in its order."""
    found: list[str] = []
    if _passed_over() & {*directory.parts}:
        return []
    for home, inner, names in os.walk(directory):  # a third of the time of `rglob`
        inner[:] = {*inner} - _passed_over()
        found += [f"{home}/{name}" for name in names if os.path.splitext(name)[1] in suffixes]
    return [Path(path) for path in sorted(found) if os.path.isfile(path)]


@cache
def _passed_over() -> frozenset[str]:
    """Return the names of directories that lm-eval skips, from its source."""
    for node in ast.parse((shipped() / "_index.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_IGNORE_DIRS":
            return frozenset(ast.literal_eval(node.value))
    raise TaskError("lm_eval/tasks/_index.py lists no _IGNORE_DIRS: install another lm-eval")


def _named(yaml: Path) -> dict[str, Any]:
    """Return the keys that say what a file defines, those of included files too."""
    try:
        config = with_included(yaml)
    except TaskError:  # reported where its task is used
        return _named_in_lines(yaml)
    return {key: config[key] for key in _KINDS if key in config}


# What a file with one of these keys defines. As in lm-eval, the first key counts.
_KINDS = {"class": "task", "group": "group", "task": "task"}
_LINE = re.compile(rb"""^"?(class|group|task)"?:[ \t]*["']?([^\s"'\[#]+)""", re.MULTILINE)


def _named_in_lines(yaml: Path) -> dict[str, Any]:
    """Return the same by lines `key: NAME`, as lm-eval writes them: parsing all files takes 8 s."""
    found: dict[str, str] = {}
    for key, name in _LINE.findall(yaml_files.text(yaml)):
        found.setdefault(key.decode(), name.decode())
    return found


@cache
def tagged(directory: Path, tag: str) -> list[str]:
    """Return the tasks below `directory` with the tag, their own or of an included file."""
    texts = {path: yaml_files.text(path) for path in _below(directory, ".yaml", "")}
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


def with_included(yaml: Path, seen: set[Path] | None = None) -> dict:
    """Return a file's configuration with that of the files it includes.

    Raises `TaskError` when a file cannot be read, or is included twice (by itself, say), which
    lm-eval does not follow.
    """
    yaml, seen = yaml.resolve(), set() if seen is None else seen
    if yaml in seen:
        raise TaskError(f"{yaml} is included twice: take its name out of one `include:`")
    seen.add(yaml)
    config = raw(yaml)
    merged: dict = {}
    includes = config.pop("include", None) or []
    for included in [includes] if isinstance(includes, str) else includes:
        merged |= with_included(yaml.parent / included, seen)
    return merged | config


def chain(yaml: Path) -> list[Path]:
    """Return a file, the files that it includes, and so on."""
    includes = raw(yaml).get("include", [])
    listed = [includes] if isinstance(includes, str) else includes
    return [yaml, *(one for path in listed for one in chain(yaml.resolve().parent / path))]


def values(config: Any) -> list:
    """Return the scalars in a configuration, at any depth."""
    if isinstance(config, dict):
        return [value for inner in config.values() for value in values(inner)]
    if isinstance(config, list):
        return [value for inner in config for value in values(inner)]
    return [config]


def plain(config: Any) -> Any:
    """Return a configuration as JSON can hold it, keys in alphabetical order."""
    if isinstance(config, dict):
        return {str(key): plain(config[key]) for key in sorted(config, key=str)}
    if isinstance(config, list):
        return [plain(value) for value in config]
    if isinstance(config, Function):
        return f"!function {config}"
    return config if config is None or isinstance(config, str | int | float) else str(config)


def raw(yaml: Path) -> dict:
    """Return the content of one YAML file: includes unresolved, a `!function` as its name.

    Raises `TaskError` with the place when it is not YAML.
    """
    import yaml as pyyaml

    class Loader(getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)):  # type: ignore[misc]
        pass

    def function(loader: Any, node: Any) -> Any:
        name = Function(loader.construct_scalar(node))
        name.home = yaml.resolve().parent
        return name

    Loader.add_constructor("!function", function)
    try:
        return yaml_files.load(yaml, Loader)
    except yaml_files.YamlError as error:
        raise TaskError(str(error)) from error
