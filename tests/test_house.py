"""The packages of the library: who may import whom, and what each offers."""

import ast
import importlib
from pathlib import Path

import pytest
from study import REPOSITORY

import headcount

LIBRARY = REPOSITORY / "src" / "headcount"
# Package -> those that it may import.
ABOVE: dict[str, set[str]] = {"artifacts": set(), "tasks": {"artifacts"}, "models": {"artifacts"}}
ABOVE["engine"] = {"artifacts", "models"}
ABOVE["scores"] = {*ABOVE}
ABOVE["verification"] = ABOVE["report"] = {*ABOVE}
ABOVE["interop"] = {*ABOVE}
ABOVE["study"] = {*ABOVE}
ABOVE["cli"] = {*ABOVE}
BESIDE = {"messages", "progress", "yaml_files"}  # which import no package, and all may import
LINES = 400  # of a module, at most


def imports(path: Path) -> list[list[str]]:
    """The parts of each dotted name below `headcount` that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.split(".")[1:] for name in found if name.startswith("headcount.")]


def test_every_package_has_its_place():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == {*ABOVE}
    beside = {path.stem for path in LIBRARY.glob("*.py") if not path.stem.startswith("__")}
    assert beside == {*BESIDE, "notebook"}


def test_no_package_takes_the_name_of_a_function():
    """Python would put the package in its place as soon as it is imported."""
    assert not {*ABOVE, *BESIDE} & {*headcount.__all__}


@pytest.mark.parametrize("package", ABOVE)
def test_imports_run_one_way(package):
    upward = [
        (path.name, ".".join(name))
        for path in sorted((LIBRARY / package).rglob("*.py"))
        for name in imports(path)
        if name[0] not in {package, *ABOVE[package], *BESIDE}
    ]
    assert not upward


@pytest.mark.parametrize("module", sorted(BESIDE))
def test_what_stands_beside_imports_no_package(module):
    assert {name[0] for name in imports(LIBRARY / f"{module}.py")} <= BESIDE


@pytest.mark.parametrize("package", sorted({*ABOVE} - {"cli"}))
def test_a_package_offers_its_modules_or_keeps_them(package):
    """Each is named in `__all__`, or begins with an underscore."""
    offered = importlib.import_module(f"headcount.{package}").__all__
    inner = {path.stem for path in (LIBRARY / package).glob("*.py")} - {"__init__"}
    inner |= {path.parent.name for path in (LIBRARY / package).glob("*/__init__.py")}
    assert {name for name in inner if not name.startswith("_")} <= {*offered}


def test_what_is_private_stays_in_its_package():
    outside = [
        *((path, path.relative_to(LIBRARY).parts[0]) for path in LIBRARY.rglob("*.py")),
        *((path, "") for path in (REPOSITORY / "scripts").glob("*.py")),
        *((path, "") for path in (REPOSITORY / "benchmarks").glob("*.py")),
        *((path, "") for path in LIBRARY.with_name("headcount_workflow").glob("*.py")),
    ]
    taken = [
        (path.name, ".".join(name))
        for path, package in outside
        for name in imports(path)
        if name[0] != package and any(part.startswith("_") for part in name)
    ]
    assert not taken


@pytest.mark.parametrize("other", ["snakemake", "headcount_workflow"])
def test_the_library_does_not_know_the_workflow(other):
    knows = [
        path.name
        for path in LIBRARY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(other))
        or (isinstance(node, ast.Import) and any(a.name.startswith(other) for a in node.names))
    ]
    assert not knows


def test_scripts_are_thin():
    scripts = (REPOSITORY / "scripts").glob("*.py")
    assert {path.name for path in scripts if len(path.read_text().splitlines()) > 30} == set()


def test_a_module_can_be_read_in_one_go():
    lengths = {path.name: len(path.read_text().splitlines()) for path in LIBRARY.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}
