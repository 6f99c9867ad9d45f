"""The code of a task, and the files that it reads beside its documents.

A file that a string in the code names is part of the task's meaning
(`headcount.tasks.loading.meaning`) and is hashed. Other files that the code opens, or imports by a
computed name, are noticed while it runs (`watched`), through Python's audit events, and reported. A
file that a library opens without Python, as polars and pyarrow do, raises no such event: it is
hashed where the code names it, else missed.
"""

import ast
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from headcount.artifacts import syntax
from headcount.artifacts.source_code import (
    INSTALLED,
    STANDARD_LIBRARY,
    Sources,
    forget_compiled,
    reached,
)
from headcount.artifacts.temporaries import PREFIX
from headcount.tasks import datasets as task_datasets, files as task_files

# Functions and methods that read or run a file, whose name may be computed.
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
# Directories that hold nothing that a task's author wrote.
ELSEWHERE = {*INSTALLED, "proc", "dev", "sys", "huggingface"}


def code_of(yaml: str | Path) -> Sources:
    """Return the code that the functions of the task in `yaml` reach.

    Raises `TaskError` when a file cannot be read.
    """
    config = task_files.with_included(task_files.installed(yaml))
    functions = [
        value for value in task_files.values(config) if isinstance(value, task_files.Function)
    ]
    modules = [(function.home, function.rpartition(".")[0]) for function in functions]
    try:
        return reached(modules)
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise task_files.TaskError(
            f"{yaml}: its functions do not load: {place}: {error.msg}"
        ) from error
    except OSError as error:
        raise task_files.TaskError(
            f"{yaml}: {error.filename} cannot be read: {error.strerror}"
        ) from error


def files(yaml: str | Path, datasets: str | Path | None = None) -> list[Path]:
    """Return the files that decide the task in `yaml`: YAML, code, what that names, documents."""
    path = task_files.installed(yaml)
    config = task_datasets.with_resolved_paths(task_files.with_included(path), path)
    documents = task_datasets.files(config, datasets) or {}
    code = code_of(yaml)
    known = [*task_files.chain(path), *own(code), *named(code).values()]
    return [*known, *(file for of_split in documents.values() for file in of_split)]


def state(files: Iterable[str | Path]) -> dict[str, list[int] | None]:
    """Return, by file, what changes with its content even if its time is set back; None: absent."""
    states: dict[str, list[int] | None] = {}
    for file in files:
        states[str(file)] = None
        with suppress(OSError):
            found = os.stat(file)
            states[str(file)] = [found.st_ino, found.st_size, found.st_ctime_ns]
    return states


def own(code: Sources) -> list[Path]:
    """Return the files of a task's code that belong to no installed package."""
    return [path for path in code.files if not INSTALLED & {*path.parts}]


def named(code: Sources) -> dict[str, Path]:
    """Return, by string in the code, the file that it names.

    A name is relative to the directory of the code, to one that another string names there, or to
    the current directory.
    """
    found: dict[str, Path] = {}
    for path in own(code):
        texts = sorted(_texts(path))
        beside = [path.parent / text for text in texts if (path.parent / text).is_dir()]
        for text in texts:
            places = [home / text for home in (path.parent, *beside, Path())]
            there = next((place for place in places if _is_file(place)), None)
            if there and there.resolve() not in code.files:
                found[text] = there
    return dict(sorted(found.items()))


def _texts(path: Path) -> set[str]:
    """Return the strings in a file of code that may name files."""
    nodes = ast.walk(ast.parse(path.read_bytes()))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and 0 < len(text) < LONGEST_NAME}


def _readers(path: Path) -> list[tuple[int, str]]:
    """Return line and name of each call in a file of code that reads or runs a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    named = [(call, syntax.called(call)) for call in calls if not syntax.imports_of([call])]
    return [(call.lineno, name) for call, name in named if name in READERS]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a string that cannot be a name
        return False


def notes(code: Sources) -> list[str]:
    """Return a line for each place where the code visibly reads a file that is not hashed."""
    return [
        f"{path.name}, line {line}: what {called} reads there is in no key: when you change it, "
        "change `metadata: version` of the task as well"
        for path in own(code)
        if not named(Sources({path: code.files[path]}))
        for line, called in _readers(path)
    ]


# --- as it happens ---


_watching: list[tuple[set[str], set[Path]]] = []  # files of the code; files it has opened


@contextmanager
def watched(code: Sources) -> Iterator[set[Path]]:
    """Yield the set of files that the code opens for reading, filled while the context lasts."""
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    opened: set[Path] = set()
    _watching.append(({str(path) for path in own(code)}, opened))
    try:
        yield opened
    finally:
        _watching.pop()


_hooked: list[bool] = []  # an audit hook stays for the life of the process


def _hear(event: str, arguments: tuple) -> None:
    if event != "open" or not _watching:
        return
    path, _, flags = arguments
    if isinstance(path, int) or (flags or 0) & os.O_ACCMODE != os.O_RDONLY:
        return
    code, opened = _watching[-1]
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename in code:
            opened.add(Path(os.fsdecode(path)).absolute())
            return
        frame = frame.f_back


def unfollowed(opened: Iterable[Path], code: Sources, known: Iterable[Path]) -> list[str]:
    """Return a remark on each file that a task's code has `opened` and no key contains.

    `known` are its documents.
    """
    hashed = {path.resolve() for path in (*code.files, *named(code).values(), *known)}
    remarks = []
    for path in sorted({_source(path).resolve() for path in opened} - hashed):
        is_own = not ELSEWHERE & {*path.parts} and PREFIX not in str(path)
        if is_own and path.is_file() and not path.is_relative_to(STANDARD_LIBRARY):
            remarks.append(
                f"its code reads {path}, whose changes make nothing out of date: name it by a "
                "string in the code, or change `metadata: version` of the task with it"
            )
    return remarks


def _source(path: Path) -> Path:
    """Return the source file of compiled code; any other file as it is."""
    with suppress(ValueError):
        return Path(importlib.util.source_from_cache(str(path))) if path.suffix == ".pyc" else path
    return path


# --- Python's own caches ---


def forget(code: Sources) -> None:
    """Make the next import run the code of a task as it is now.

    Modules imported before from its files, or under their names, are dropped. So is compiled code
    older than the last change of its file, which Python recognises by size and full seconds only.
    """
    files = {str(path) for path in own(code)}
    names = {str(name.with_suffix("")).replace("/", ".") for name in code.files.values()}
    for name, module in list(sys.modules.items()):
        about = getattr(module, "__dict__", {})  # asking a lazy module itself takes long
        file = about.get("__file__") or ""
        is_own = (
            file
            and not INSTALLED & {*Path(file).parts}
            and STANDARD_LIBRARY not in Path(file).parents
        )
        if "__mtime__" in about or file in files or (name in names and is_own):
            del sys.modules[name]
    forget_compiled(own(code))
