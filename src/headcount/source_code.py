"""What code means: the code that a job runs, by its syntax trees, and the packages that it uses.

Imports are read from the source, wherever they stand in it; nothing is executed. A module that is
installed (in a `site-packages`) counts by the version of its distribution, any other by its code.
Comments, docstrings, formatting and where a file lies are no part of the meaning. Modules that
are imported by a computed name, and files that the code opens, are not followed.

Syntax trees differ between minor versions of Python, which count anyway.
"""

import ast
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

INSTALLED = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = Path(os.__file__).resolve().parent
# Installed modules that decide none of headcount's numbers: they fetch files, start jobs, hold
# tables, read what is hashed as it was read, say on how many cores, or show what was computed.
SILENT = {"huggingface_hub", "jsonschema", "polars", "pyarrow", "rich", "safetensors", "snakemake"}
SILENT |= {"snakemake_interface_logger_plugins", "threadpoolctl", "tqdm", "yaml"}
# Those that decide them, with the distributions that they leave some to. They find parts of theirs
# by computed names: wherever one lies, it counts whole.
DECIDING = {
    "altair": ("vl-convert-python",),
    "lm_eval": ("datasets", "jinja2", "scikit-learn"),
    "transformers": ("accelerate", "tokenizers"),
    **dict.fromkeys(("accelerate", "datasets", "jinja2", "numpy", "scipy", "sklearn"), ()),
    **dict.fromkeys(("tokenizers", "torch"), ()),
}
# Functions and methods that read a file or run one, by a name that may be computed.
READERS = {
    "open",
    "read_text",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_parquet",
    "load_dataset",
}
READERS |= {"import_module", "__import__", "exec", "eval", "run_path", "run_module"}
READERS |= {"spec_from_file_location", "loadtxt"}
LONGEST_NAME = 256
# Local parts of versions that say on what hardware a release runs, and no more.
HARDWARE = re.compile(r"cpu|cuda[\d.]*|cu\d+|rocm[\d.]+|xpu")


def code_hash(script: str | Path) -> str:
    """SHA-256 of what a script, and all that it imports directly or not, means.

    Installed packages are left to `packages`. Raises `SyntaxError`.
    """
    return reached([(Path(script).parent, Path(script).stem)]).hash()


def packages(script: str | Path) -> dict[str, str | None]:
    """Distribution -> version: of the packages that decide a script's numbers, and of Python.

    Of Python the minor version, since `random` may draw otherwise in another. Versions have no
    local part that only names hardware (`+cpu`, `+cu126`), which is placement. What a version does
    not tell follows it: the commit of an installation from a repository, a hash of the code of one
    from a directory or an archive of sources, or of a package outside of any `site-packages`, as an
    editable installation leaves it.
    """
    return reached([(Path(script).parent, Path(script).stem)]).packages()


@dataclass
class Sources:
    """The code that is reached from some modules."""

    files: dict[Path, PurePosixPath]  # by place: the name, relative to where imports begin
    installed: set[str]  # top-level modules

    def hash(self) -> str:
        """SHA-256 of the names and meanings of the files, wherever they lie."""
        read = [(str(name), _read(path.read_bytes(), path)) for path, name in self.files.items()]
        says = any(source.reads_docstrings for _, source in read)
        kept = [(name, source.tree, says and source.docstrings) for name, source in read]
        return hashlib.sha256(repr(sorted({*kept})).encode()).hexdigest()

    def packages(self, silent: Set[str] = frozenset(SILENT)) -> dict[str, str | None]:
        """Distribution -> version of the installed modules but the `silent`, and Python's."""
        modules = self.installed - silent
        names = {name for module in modules for name in _distributions(module)}
        names |= {name for module in modules for name in DECIDING.get(module, ())}
        versions = {name.replace("_", "-").lower(): _version(name) for name in sorted(names)}
        checkouts = {name: _checkout(name, tuple(sys.path)) for name in sorted(modules)}
        return {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            **versions,
            **{f"{name} (its code)": found for name, found in checkouts.items() if found},
        }


File = tuple[Path, PurePosixPath]  # its place; its name, relative to where imports begin


def reached(modules: Sequence[tuple[Path, str]]) -> Sources:
    """The code that `modules` reach: each a directory, and a module's name as imported there.

    A name is looked for in these directories and where Python finds it. Found in several places it
    counts in each, since which of them comes first may differ between processes.
    Raises `SyntaxError`.
    """
    homes = frozenset(home.resolve() for home, _ in modules)
    sources = Sources({}, set())
    waiting: list[File] = []
    for home, module in modules:
        waiting += _absolute(module, frozenset([home.resolve()]), sources.installed)
    while waiting:
        path, name = waiting.pop()
        if path not in sources.files:
            sources.files[path] = name
            files, installed = _imports((path, name), path.read_bytes(), homes, tuple(sys.path))
            waiting += files
            sources.installed |= installed
    return sources


@cache
def _imports(
    file: File, content: bytes, homes: frozenset[Path], _: tuple[str, ...]
) -> tuple[list[File], set[str]]:
    """The files that a file's imports run, and the installed modules; told once a process.

    The last argument is Python's path, on which both depend.
    """
    path, name = file
    files: list[File] = []
    installed: set[str] = set()
    for level, imported in _read(content, path).imports:
        if level:
            above = name.parents[min(level, len(name.parents)) - 1]
            parts = ["", *imported.split(".")]
            files += [(at, above / inner) for at, inner in _along(path.parents[level - 1], parts)]
        else:
            files += _absolute(imported, homes, installed)
    return files, installed


def _absolute(name: str, homes: frozenset[Path], installed: set[str]) -> Iterator[File]:
    """The files that an import of `name` runs; an installed module is added to `installed`."""
    parts = name.split(".")
    found = _homes(parts[0], tuple(sys.path))
    if parts[0] in sys.stdlib_module_names:  # unless a file of that name comes before it
        found = frozenset(home for home in found if not home.is_relative_to(STANDARD_LIBRARY))
    # Of this package the code counts even where it was installed as a copy.
    elif parts[0] != "headcount" and any(
        parts[0] in DECIDING or _is_installed(home) for home in found
    ):
        installed.add(parts[0])
        found = frozenset()
    for home in sorted(homes | found):
        yield from _along(home, parts)


@cache
def _homes(top: str, _: tuple[str, ...]) -> frozenset[Path]:
    """The directories in which Python, with this path, finds the top-level module `top`."""
    # Not `importlib.util.find_spec`, which says where a module came from that was imported before.
    specs = (finder.find_spec(top, None) for finder in sys.meta_path)
    if (spec := next(filter(None, specs), None)) is None:
        return frozenset()
    inside = spec.submodule_search_locations
    alone = spec.has_location and inside is None and spec.origin
    files = [alone] if alone else inside or []
    return frozenset(Path(file).resolve().parent for file in files)


@cache
def _is_installed(home: Path) -> bool:
    """Whether packages are installed into a directory; `pip --target` names one as it likes."""
    return bool(INSTALLED & {*home.parts}) or any(home.glob("*.dist-info"))


def _along(home: Path, parts: list[str]) -> Iterator[File]:
    """The files below `home` that an import of `a.b.c` runs: of a, of a.b, of a.b.c.

    What is no module, as the names that are taken out of one, is passed over.
    """
    for depth in range(1, len(parts) + 1):
        inner = "/".join(filter(None, parts[:depth]))
        if parts[depth - 1] == "*":  # any module that the package may list in its __all__
            files = [str(path.relative_to(home)) for path in sorted(home.glob(f"{inner}.py"))]
        else:
            files = [f"{inner}/__init__.py".removeprefix("/"), f"{inner}.py"]
        for file in files:
            if os.path.isfile(f"{home}/{file}"):  # a third of the time of a `Path` for each
                yield home / file, PurePosixPath(file)


# --- a file ---


@dataclass(frozen=True)
class _Source:
    tree: str  # hash
    docstrings: str  # hash
    reads_docstrings: bool
    imports: tuple[tuple[int, str], ...]  # level (0: absolute) and dotted name
    texts: frozenset[str]  # that may name files
    readers: tuple[tuple[int, str], ...]  # line and name of what is called to read or to run a file


def forget_compiled(files: Iterable[Path]) -> None:
    """Remove compiled code that is not newer than the last change of its file."""
    for path in files:
        with suppress(OSError):
            compiled = Path(importlib.util.cache_from_source(str(path)))
            if compiled.stat().st_ctime_ns <= path.stat().st_ctime_ns:
                compiled.unlink()


def read_source(path: Path) -> _Source:
    """What the file at `path` means, and what it names."""
    return _read(path.read_bytes(), path)


@cache
def _read(content: bytes, path: Path) -> _Source:
    """What a file means."""
    reader = _Reader()
    reader.visit(ast.parse(content, str(path)))
    return _Source(
        tree=_hash(" ".join(reader.tree)),
        docstrings=_hash(repr(reader.idle)),
        reads_docstrings=reader.reads_docstrings,
        imports=tuple(sorted(reader.imports)),
        texts=frozenset(reader.texts),
        readers=tuple(reader.readers),
    )


class _Reader:
    """Writes a syntax tree down, once through, without what does nothing or only repeats."""

    def __init__(self) -> None:
        self.tree: list[str] = []
        self.idle: list = []  # values of the statements that were left out
        self.imports: set[tuple[int, str]] = set()
        self.reads_docstrings = False
        self.texts: set[str] = set()
        self.readers: list[tuple[int, str]] = []

    def visit(self, node: ast.AST) -> None:
        imported = {*_imported(node)}
        self.imports |= imported
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.texts |= {node.value} if 0 < len(node.value) < LONGEST_NAME else set()
        elif isinstance(node, ast.Call) and not imported and _called(node) in READERS:
            self.readers.append((node.lineno, str(_called(node))))
        self.reads_docstrings |= _reads_docstrings(node)
        self.tree.append(type(node).__name__)
        for key in node._fields:
            value = getattr(node, key, None)
            if value is None and not isinstance(node, ast.Constant):
                continue
            if key in ("ctx", "kind", "type_comment") or value == []:
                continue  # told by the place; u"text" is "text"; a comment; differs in versions
            self.tree.append(key)
            if isinstance(value, ast.AST):
                self.visit(value)
            elif isinstance(value, list):
                self.tree.append("[")
                for item in value:
                    self._item(item)
                self.tree.append("]")
            else:
                self.tree.append(repr(value))
        self.tree.append(")")

    def _item(self, item: Any) -> None:
        if isinstance(item, ast.Pass):
            return
        if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant):
            self.idle.append(item.value.value)
        elif isinstance(item, ast.AST):
            self.visit(item)
        else:
            self.tree.append(repr(item))  # a name that is global, or null before `**`


def _imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """What a node imports; of a name taken out of a module, both."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield 0, alias.name
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield node.level, f"{node.module or ''}.{alias.name}".removeprefix(".")
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.args[0].value
        if _called(node) in ("import_module", "__import__") and isinstance(name, str):
            yield len(name) - len(name.lstrip(".")), name.lstrip(".")


def _called(node: ast.Call) -> str | None:
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _reads_docstrings(node: ast.AST) -> bool:
    """Whether a node is `x.__doc__`, `getdoc` or `getattr(x, "__doc__")`."""
    if isinstance(node, ast.Call):
        return any(getattr(argument, "value", None) == "__doc__" for argument in node.args)
    return {"__doc__", "getdoc"} & {getattr(node, "attr", None), getattr(node, "id", None)} != set()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- installed packages ---


@cache
def _distributions(module: str) -> tuple[str, ...]:
    """The distributions that a top-level module belongs to, most of which have its name."""
    try:
        Distribution.from_name(module)
    except PackageNotFoundError:
        return tuple(_by_module().get(module, ()))
    return (module,)


@cache
def _by_module() -> Mapping[str, list[str]]:
    """The distributions of every top-level module; half a second, for all that is installed."""
    return packages_distributions()


@cache
def _version(distribution: str) -> str | None:
    """The version of a distribution, as `packages` gives it; None where it is not installed."""
    try:
        found = Distribution.from_name(distribution)
    except PackageNotFoundError:
        return None
    public, _, local = found.version.partition("+")
    version = public if HARDWARE.fullmatch(local) else found.version
    return "@".join(filter(None, [version, _origin(found)]))


def _origin(found: Distribution) -> str | None:
    """Of an installation that is no release's: the commit, or a hash of its code.

    Where it comes from stands in `direct_url.json` (PEP 610), except in conda's packages, whose own
    build wrote that file.
    """
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return commit
    is_conda = (found.read_text("INSTALLER") or "").strip() == "conda"
    is_editable = origin.get("dir_info", {}).get("editable")  # its code counts where it lies
    if not origin or is_conda or is_editable or origin["url"].endswith(".whl"):
        return None
    record = (found.read_text("RECORD") or "").splitlines()  # name, hash, size
    return _hash("\n".join(sorted(line for line in record if ".py,sha256=" in line)))


@cache
def _checkout(module: str, path: tuple[str, ...]) -> str | None:
    """SHA-256 of the code of a package that was not copied to where packages are installed."""
    homes = sorted(home for home in _homes(module, path) if not _is_installed(home))
    files = {
        file: file.relative_to(home) for home in homes for file in home.glob(f"{module}/**/*.py")
    }
    hashes = [(str(files[file]), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return _hash(repr(sorted(hashes))) if hashes else None
