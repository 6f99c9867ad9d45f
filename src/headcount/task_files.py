"""The YAML files that define lm-eval's tasks, groups and tags, read without importing lm-eval.

lm-eval's own index of its 14,000 files takes several seconds, and the workflow asks for a task's
file each time it is read.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path


@cache
def site_packages() -> Path:
    """The directory that lm-eval is installed in."""
    return Path(importlib.util.find_spec("lm_eval").origin).parents[1]


def shipped() -> Path:
    """The directory of lm-eval's own tasks."""
    return site_packages() / "lm_eval" / "tasks"


@cache
def defined(directory: Path, kind: str) -> dict[str, Path]:
    """Name -> YAML file, for every file below `directory` with a line `task: NAME` (or `group`)."""
    line = re.compile(rf"""^"?{kind}"?:[ \t]*["']?([^\s"'\[#]+)""".encode(), re.MULTILINE)
    found = {}
    for path in sorted(directory.rglob("*.yaml")):
        if match := line.search(path.read_bytes()):
            found.setdefault(match[1].decode(), path)
    return found


@cache
def tagged(directory: Path, tag: str) -> list[str]:
    """Names of the tasks below `directory` that have the tag, perhaps from a file they include."""
    files = (path for path in directory.rglob("*") if path.suffix in (".yaml", ""))
    texts = {path: path.read_bytes() for path in files if path.is_file()}
    includes = {path: set(_INCLUDE.findall(text)) for path, text in texts.items()}
    reached, naming = set(), {path for path, text in texts.items() if tag.encode() in text}
    while naming:  # the tag's files, those that include one of them, and so on
        reached |= naming
        names = {path.name.encode() for path in naming}
        naming = {path for path in texts if includes[path] & names} - reached
    tasks = set()
    for path in reached:
        if path.suffix == ".yaml":
            config, _ = with_included(path)
            tags = config.get("tag") or []
            if tag in ([tags] if isinstance(tags, str) else tags) and "group" not in config:
                tasks |= {config["task"]} if "task" in config else set()
    return sorted(tasks)


# The last part of each path in `include: PATH` or in a list of them.
_INCLUDE = re.compile(rb"""^(?:include:|\s*-)[ \t]*["']?(?:\S*/)?([^\s"'/]+)""", re.MULTILINE)


def with_included(yaml: Path) -> tuple[dict, list[Path]]:
    """A file's configuration with that of the files it includes, and all these files."""
    config, files, merged = raw(yaml), [yaml], {}
    includes = config.pop("include", [])
    for included in [includes] if isinstance(includes, str) else includes:
        inner, inner_files = with_included(yaml.parent / included)
        merged |= inner
        files += inner_files
    return merged | config, files


def raw(yaml: Path) -> dict:
    """The YAML file as it stands, `!function` tags and included files unresolved."""
    import yaml as pyyaml

    class Loader(getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node))
    return pyyaml.load(yaml.read_text(), Loader)  # a SafeLoader


def local_data(config: dict) -> list[str]:
    """The local files that a task's configuration names for its splits."""
    named = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    named = named.values() if isinstance(named, dict) else [named]
    return [file for files in named for file in (files if isinstance(files, list) else [files])]
