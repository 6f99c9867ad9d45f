"""What code means: the definitions that a job's numbers rest on, and the packages that it uses.

Nothing is executed. From a script on, each name that counted code mentions leads to the statement
that binds it, in whatever module: of headcount's own modules the statements that are so reached
count, and those that do something when they are imported; any other module counts whole. A module
that is installed (in a `site-packages`) counts by the version of its distribution.

No part of the meaning are comments, docstrings, formatting and what is only said (see `syntax`),
where a statement stands, what its module is called, and the functions of the modules that decide
nothing (`SILENT_MODULES`).
Modules that are imported by a computed name, and files that the code opens, are not followed.
"""

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions
from pathlib import Path, PurePosixPath

from headcount.artifacts import syntax
from headcount.artifacts.syntax import WHOLE

OWN = {"headcount", "headcount_workflow"}
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
    **dict.fromkeys(
        ["accelerate", "datasets", "jinja2", "numpy", "scipy", "sklearn", "tokenizers", "torch"], ()
    ),
}
# headcount's own modules that decide none of its numbers: their functions load, store, log, hash
# and show what others compute, or run jobs. A constant of theirs that counted code reads counts.
SILENT_MODULES = {
    *(f"headcount_workflow.job{name}" for name in ("", "_log", "_model", "_server", "_task")),
    *(f"headcount.artifacts.{name}" for name in ("gpus", "hashes", "lineage", "locks", "parts")),
    *(
        f"headcount.artifacts.{name}"
        for name in ("source_code", "storage", "syntax", "temporaries")
    ),
    *("headcount.models.checkpoints", "headcount.progress"),
}
CHECKOUT = " (its code)"  # after the name of a package whose code counts as it lies there
# Local parts of versions that say on what hardware a release runs, and no more.
HARDWARE = re.compile(r"cpu|cuda[\d.]*|cu\d+|rocm[\d.]+|xpu")


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
    installed: set[str] = field(default_factory=set)  # top-level modules
    # Of the statements that count, each by its file and its place there.
    meanings: dict[tuple[Path, int], str] = field(default_factory=dict)

    def hash(self) -> str:
        """SHA-256 of the meanings of the statements, wherever they stand."""
        says = any(syntax.read(path).reads_docstrings for path in self.files)
        docstrings = sorted(repr(syntax.docstrings(path)) for path in self.files) if says else []
        return _hash(repr((sorted({*self.meanings.values()}), docstrings)))

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
            **{f"{name}{CHECKOUT}": found for name, found in checkouts.items() if found},
        }


File = tuple[Path, PurePosixPath]  # its place; its name, relative to where imports begin
Counted = tuple[File, int | None]  # a statement; None: what is done when the file is imported


def reached(modules: Sequence[tuple[Path, str]], code: "Code | None" = None) -> Sources:
    """The code that `modules` reach: each a directory, and a module's name as imported there.

    A name is looked for in these directories and where Python finds it. Found in several places it
    counts in each, since which of them comes first may differ between processes. `code` has what
    was read before from the same directories, as it still is. Raises `SyntaxError`.
    """
    code = code or Code(home for home, _ in modules)
    waiting: list[Counted] = []
    for home, module in modules:
        waiting += [(file, None) for file in _along(home.resolve(), module.split("."))]
        for file in _module(home.resolve(), module):
            waiting += code.whole(file)
    sources, seen = Sources({}), set(waiting)
    while waiting:
        file, index = waiting.pop()
        step = code.step(file, index)
        sources.installed |= step.installed
        if index is None:
            sources.files[file[0]] = file[1]
        else:
            sources.meanings[file[0], index] = step.meaning
        new = step.further - seen
        seen |= new
        waiting += new
    return sources


@dataclass
class Step:
    """What follows from one thing that counts."""

    meaning: str = ""
    further: set[Counted] = field(default_factory=set)
    installed: set[str] = field(default_factory=set)


class Code:
    """Code that is imported from some directories; each file is read, and each step found, once."""

    def __init__(self, homes: Iterable[Path]):
        self.homes = frozenset(home.resolve() for home in homes)
        self.files: dict[Path, syntax.Source] = {}
        self.places: dict[tuple[Path | None, syntax.Import], list[File]] = {}
        self.steps: dict[Counted, Step] = {}
        self.now = Step()  # the one that is being found

    def step(self, file: File, index: int | None) -> Step:
        """What follows when a statement counts, or a file is imported."""
        if (file, index) not in self.steps:
            self.now = Step()
            if index is None:
                self._import_all(file)
            else:
                self._follow(file, self.read(file).statements[index])
            self.steps[file, index] = self.now
        return self.steps[file, index]

    def read(self, file: File) -> syntax.Source:
        """What a file means."""
        if file[0] not in self.files:
            self.files[file[0]] = syntax.read(file[0])
        return self.files[file[0]]

    def whole(self, file: File) -> list[Counted]:
        """All statements of a file."""
        return [(file, index) for index in range(len(self.read(file).statements))]

    def _import_all(self, file: File) -> None:
        """Of headcount's modules what is done counts, of any other all that is in it."""
        source = self.read(file)
        for imported in source.imports:
            self._import(file, imported)
        is_own = file[1].parts[0] in OWN
        for index, statement in enumerate(source.statements):
            if statement.acts or not is_own:
                self.now.further.add((file, index))

    def _follow(self, file: File, statement: syntax.Statement) -> None:
        for imported in statement.imports:
            self._import(file, imported)
        stand = []
        for name, *rest in statement.mentions:
            imports = [one for one in statement.imports if one.bound == name]
            imports += self.read(file).imported.get(name, [])
            told = [self._imported(file, one, rest) for one in imports]
            stand.append(" ".join([*told, self._defined(file, name)]))
        self.now.meaning = _hash(statement.text + repr(stand))

    def _import(self, file: File, imported: syntax.Import) -> None:
        if not imported.level and _found(imported.top, tuple(sys.path))[1]:
            self.now.installed.add(imported.top)
        parts = [*filter(None, imported.module.split(".")), *filter(None, [imported.name])]
        for home, above in self._beginnings(file, imported):
            for at, inner in _along(home, ["", *parts] if imported.level else parts):
                one = (at, above / inner)
                if not is_silent(one):
                    self.now.further.add((one, None))
                    self.now.further |= {*self.whole(one)} if imported.bound == WHOLE else set()

    def _beginnings(self, file: File, imported: syntax.Import) -> list[File]:
        """The directories in which an import is looked for, and the names of what lies there."""
        path, name = file
        if imported.level:
            above = name.parents[min(imported.level, len(name.parents)) - 1]
            return [(path.parents[imported.level - 1], above)]
        found, _ = _found(imported.top, tuple(sys.path))
        return [(home, PurePosixPath()) for home in sorted(self.homes | found)]

    # --- what a name stands for, in words that tell it from anything else ---

    def _imported(self, file: File, imported: syntax.Import, rest: Sequence[str]) -> str:
        known = (file[0].parent if imported.level else None, imported)
        if known not in self.places:
            self.places[known] = [
                (at, above / inner)
                for home, above in self._beginnings(file, imported)
                for at, inner in _module(home, imported.module)
            ]
        names = [*filter(None, [imported.name]), *rest]
        told = [self._attribute(module, names) for module in self.places[known]]
        return " ".join(told) if told else f"{imported.module}.{imported.name}"

    def _attribute(self, module: File, names: Sequence[str]) -> str:
        path, source = module[0], self.read(module)
        if not names:
            return self._all_of(module)
        name, *rest = names
        bound = [source.statements[index] for index in source.binding.get(name, ())]
        if any(one.is_definition for one in bound) and is_silent(module):
            return name
        if bound:
            return self._defined(module, name)
        if name in source.imported:
            return " ".join(self._imported(module, one, rest) for one in source.imported[name])
        if path.stem == "__init__" and (inside := [*_module(path.parent, name)]):
            return self._attribute((inside[0][0], module[1].parent / inside[0][1]), rest)
        return name

    def _all_of(self, module: File) -> str:
        """A module, of which anything may be used; of a package what it offers, too."""
        if is_silent(module):
            return "a module that decides nothing"
        self.now.further |= {*self.whole(module)}
        source = self.read(module)
        offered = [one for one in source.imports if one.bound and module[0].stem == "__init__"]
        told = [self._imported(module, one, ()) for one in offered]
        return _hash(repr([*told, *(statement.text for statement in source.statements)]))

    def _defined(self, file: File, name: str) -> str:
        source = self.read(file)
        found = source.binding.get(name, [])
        self.now.further |= {(file, index) for index in found}
        return " ".join(source.statements[index].identity for index in found)


def is_silent(file: File) -> bool:
    """Whether a module decides nothing."""
    return ".".join(file[1].with_suffix("").parts).removesuffix(".__init__") in SILENT_MODULES


@cache
def _found(top: str, path: tuple[str, ...]) -> tuple[frozenset[Path], bool]:
    """The directories of a top-level module that is not installed, and whether it is."""
    found = _homes(top, path)
    if top in sys.stdlib_module_names:  # unless a file of that name comes before it
        return frozenset(h for h in found if not h.is_relative_to(STANDARD_LIBRARY)), False
    # Of these packages the code counts even where it was installed as a copy.
    if top not in OWN and any(top in DECIDING or is_installed(home) for home in found):
        return frozenset(), True
    return found, False


def _module(home: Path, name: str) -> Iterator[File]:
    """The file of a module below `home`; without a name, of the package that this is."""
    inner = name.replace(".", "/")
    for file in (f"{inner}/__init__.py".removeprefix("/"), f"{inner}.py"):
        if os.path.isfile(f"{home}/{file}"):
            yield home / file, PurePosixPath(file)


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
def is_installed(home: Path) -> bool:
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


def forget_compiled(files: Iterable[Path]) -> None:
    """Remove compiled code that is not newer than the last change of its file."""
    for path in files:
        with suppress(OSError):
            compiled = Path(importlib.util.cache_from_source(str(path)))
            if compiled.stat().st_ctime_ns <= path.stat().st_ctime_ns:
                compiled.unlink()


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
    homes = sorted(home for home in _homes(module, path) if not is_installed(home))
    files = {
        file: file.relative_to(home) for home in homes for file in home.glob(f"{module}/**/*.py")
    }
    hashes = [(str(files[file]), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return _hash(repr(sorted(hashes))) if hashes else None
