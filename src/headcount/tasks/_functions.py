"""The functions that a task's configuration names (`!function`): whether they exist.

lm-eval looks for the module beside the YAML file, then imports it as Python does. This module does
both by reading source: nothing is executed, not even the packages that hold a module.
"""

import ast
import importlib.util
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path

from headcount.messages import did_you_mean
from headcount.tasks import files as task_files
from headcount.tasks.files import Function


def problems(config: dict) -> list[str]:
    """Return a line for each function of `config` that does not exist or lacks a package."""
    found: list[str] = []
    missing: set[str] = set()
    for name in task_files.values(config):
        if not isinstance(name, Function):
            continue
        module, _, function = name.rpartition(".")
        path = _source(module, name.home)
        if path is None:
            beside = name.home / (module.replace(".", "/") + ".py")
            found.append(
                f"!function {name}: {beside} is not there, and no module {module!r} is installed: "
                "create it, or correct the name (MODULE.FUNCTION)"
            )
            continue
        defined, lacking = _read(path)
        missing |= lacking
        if defined and function not in defined:
            hint = did_you_mean(function, defined)
            found.append(f"!function {name}: {path} defines no {function}{hint}")
    found += [
        f"its functions import {name}, which is not installed: pip install {name}"
        for name in sorted(missing)
    ]
    return found


def _source(module: str, home: Path) -> Path | None:
    """Return the file of a module that a YAML file in `home` names, or None.

    A module without source, such as a built-in one, has a path that is not a Python file.
    """
    beside = home / (module.replace(".", "/") + ".py")
    if module and beside.is_file():
        return beside
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):  # a module that was created at run time
        spec = None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin or "built-in")
    ends = [*all_suffixes(), *(f"/__init__{suffix}" for suffix in all_suffixes()), ""]
    places = [Path(place, *inner) for place in spec.submodule_search_locations or []]
    files = (Path(f"{place}{end}") for place in places for end in ends)
    return next((file for file in files if file.exists()), None)


@cache
def _read(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that a module defines at top level, and the packages that it lacks.

    The names are empty where the source does not show all of them: the module does not parse,
    imports everything of another one, or creates names as it runs (lm-eval's MMMLU adds a function
    for each subject to `globals()`). The packages are empty where it changes Python's path.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset(), frozenset()  # its import reports this
    imports = [node for node in tree.body if isinstance(node, ast.Import)]
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name for node in imports for alias in node.names}
    modules |= {node.module for node in froms if node.module and not node.level}
    names = {alias.asname or alias.name for node in froms + imports for alias in node.names}
    changes_path = False
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names |= {"*"} if node.name == "__getattr__" else {node.name}
        elif isinstance(node, ast.Name):
            made = node.id in ("globals", "locals", "vars", "setattr", "exec")
            names |= {"*"} if made else {node.id} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, ast.Attribute):
            changes_path |= ast.unparse(node) in ("sys.path", "sys.meta_path", "site.addsitedir")
    lacking = () if changes_path else _lacking({name.partition(".")[0] for name in modules}, path)
    return frozenset() if "*" in names else frozenset(names), frozenset(lacking)


def _lacking(modules: set[str], path: Path) -> set[str]:
    """Return those of the top-level modules imported by the file `path` that are not installed."""
    beside = {file.stem for file in path.parent.glob("*.py")}
    return {name for name in modules - beside if importlib.util.find_spec(name) is None}
