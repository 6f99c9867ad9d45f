"""Where a task's documents are: files of its own, a mirror of the hub's datasets, or the hub.

A mirror is a directory that stands in for every dataset of the hub, for nodes without a network:

    DIR/<dataset_path with / as __>/<dataset_name or default>/<split>.parquet

and, where a task names files inside a dataset (`data_files`), those under their names there:

    DIR/<dataset_path with / as __>/<path of the file>

Nothing is downloaded here, and lm-eval is not imported.
"""

import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from headcount.artifacts import temporaries
from headcount.artifacts.hashes import file_hashes
from headcount.messages import did_you_mean
from headcount.tasks.files import TaskError, plain

# How the `datasets` library reads files of the hub, by the ends of their names.
ENDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}
ENDS |= {".arrow": "arrow"}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_FILE = re.compile(r"hf://datasets/(?P<dataset>[^/]+/[^/@]+)(@[^/]+)?/(?P<path>.+)")

SplitFiles = dict[str, list[Path]]  # split -> the files that it is read from


@cache
def readers() -> frozenset[str]:
    """Return the names of the `datasets` library's own readers, which are not hub datasets."""
    spec = importlib.util.find_spec("datasets")
    assert spec is not None and spec.origin is not None
    modules = (Path(spec.origin).parent / "packaged_modules").glob("*/*.py")
    return frozenset(path.stem for path in modules if path.stem == path.parent.name)


def evaluated_split(config: dict) -> str | None:
    """Return the split whose documents lm-eval evaluates."""
    return config.get("test_split") or config.get("validation_split")


def examples_split(config: dict) -> str | None:
    """Return the split that examples come from; None where the configuration lists them."""
    fewshot = config.get("fewshot_config") or {}
    if split := fewshot.get("split") or config.get("fewshot_split"):
        return split
    if fewshot.get("samples"):
        return None
    by_rule = ("training_split", "validation_split", "test_split")  # lm-eval's, in this order
    return next((config[kind] for kind in by_rule if config.get(kind)), None)


def splits(config: dict) -> list[str]:
    """Return the splits that a study may read for calibration, evaluation and examples."""
    names = [config.get("training_split"), evaluated_split(config), examples_split(config)]
    if not config.get("training_split"):
        names.append(config.get("validation_split"))
    return list(dict.fromkeys(name for name in names if name))


def files(config: dict, datasets: str | Path | None = None) -> SplitFiles | None:
    """Return the local files of the task's splits; None for a hub dataset or one made by code.

    Raises `TaskError` when a file is missing, of the task's own or in the mirror `datasets`.
    """
    if config.get("custom_dataset") or not config.get("dataset_path"):
        return None
    named = _data_files(config)
    if named and config["dataset_path"] in readers() and not _remote(named):
        return {split: _present(config, split, names) for split, names in named.items()}
    if home := _directory(config):
        return {"every split": _inside(home)}
    return _mirrored(config, named, Path(datasets)) if datasets else None


def from_mirror(config: dict, datasets: str | Path | None = None) -> dict:
    """Return `config` with its dataset read from the mirror `datasets`, if there is one.

    A task with files of its own is returned unchanged. Raises `TaskError` when the mirror lacks a
    file.
    """
    found = files(config, datasets)
    if found is None or not datasets or _is_local(config):
        return config
    paths = {split: [str(path) for path in of_split] for split, of_split in found.items()}
    first = Path(next(iter(paths.values()))[0])
    reader = next((ENDS[end] for end in first.suffixes if end in ENDS), "parquet")
    if first.suffix != ".parquet" and config["dataset_path"] in readers():
        reader = config["dataset_path"]
    # Options of reading (a CSV's columns) stay; the hub's revision goes.
    kwargs = config.get("dataset_kwargs") or {} if reader != "parquet" else {}
    kept = {key: kwargs[key] for key in kwargs if key not in ("revision", "trust_remote_code")}
    return {
        **config,
        "dataset_path": reader,
        "dataset_name": None,
        "dataset_kwargs": {**kept, "data_files": paths},
    }


def isolated(config: dict, cache: str | Path) -> dict:
    """Return `config` changed so that its documents are read into the empty directory `cache`.

    The `datasets` library identifies its copy of a local file by path and time alone, so that a
    changed file could be missed. It identifies a hub dataset by the commit: this one is read from
    the library's own cache, not downloaded again. Mapped and filtered documents are kept in
    `cache`, one copy for each time that lm-eval asks, as in a first run: a function may draw from a
    random generator.
    """
    if config.get("custom_dataset") or not config.get("dataset_path"):
        return config
    kwargs = {**(config.get("dataset_kwargs") or {})}
    if _is_local(config):
        return {**config, "dataset_kwargs": {**kwargs, "cache_dir": str(cache)}}

    def of_the_hub(**_: Any) -> Any:
        import datasets

        kwargs.pop("trust_remote_code", None)  # as lm-eval does it
        found = datasets.load_dataset(
            path=config["dataset_path"], name=config.get("dataset_name"), **kwargs
        )
        if not isinstance(found, datasets.DatasetDict):
            return found  # streamed: nothing is cached
        return datasets.DatasetDict({split: _linked(of, cache) for split, of in found.items()})

    return {**config, "custom_dataset": of_the_hub}


def _linked(documents: Any, cache: str | Path) -> Any:
    """Return the same documents in a directory below `cache`, which keeps their derivatives."""
    import datasets

    directory = tempfile.mkdtemp(dir=cache)
    links = [str(Path(directory, f"{i}.arrow")) for i in range(len(documents.cache_files))]
    for link, file in zip(links, documents.cache_files, strict=True):
        Path(link).symlink_to(file["filename"])
    parts = [datasets.Dataset.from_file(link, split=documents.split) for link in links]
    if sum(map(len, parts)) == len(documents) and parts:
        return datasets.concatenate_datasets(parts)
    documents.save_to_disk(directory)  # a slice of a split
    return datasets.load_from_disk(directory)


@contextmanager
def uncached() -> Iterator[str]:
    """Yield an empty directory for `isolated`, removed at the end of the outermost context."""
    if _open:
        yield tempfile.mkdtemp(dir=_open[-1])
        return
    try:
        with temporaries.Directory() as directory:
            _open.append(directory)
            yield directory
    finally:
        _open.clear()


_open: list[str] = []  # the directory of `uncached`, while it exists


def with_resolved_paths(config: dict, yaml: str | Path) -> dict:
    """Return `config` with the relative paths of its documents resolved.

    A path starts in the current directory, where the study runs. If nothing exists there, each
    directory above the task's file `yaml` is tried, the nearest first. A path that exists nowhere
    stays as it is.
    """
    if config.get("dataset_path") not in readers() or not config.get("dataset_kwargs"):
        return config

    def found(path: str) -> str:
        if isinstance(path, list):
            return [found(one) for one in path]
        if not isinstance(path, str) or "://" in path or glob(path, recursive=True):
            return path
        above = (str(home / path) for home in Path(yaml).resolve().parents)
        return next((there for there in above if glob(there, recursive=True)), path)

    kwargs = {**config["dataset_kwargs"]}
    home = kwargs.get("data_dir")
    if isinstance(home, str) and kwargs.get("data_files"):  # relative to this directory
        del kwargs["data_dir"]
        kwargs["data_files"] = _from(Path(home).expanduser(), kwargs["data_files"])
    if isinstance(files := kwargs.get("data_files"), dict):
        kwargs["data_files"] = {split: found(path) for split, path in files.items()}
    elif files:
        kwargs["data_files"] = found(files)
    if "data_dir" in kwargs:
        kwargs["data_dir"] = found(kwargs["data_dir"])
    return {**config, "dataset_kwargs": kwargs}


def _from(home: Path, files: Any) -> Any:
    """Return names of files, by split or in a list, below the directory `home`."""
    if isinstance(files, dict):
        return {split: _from(home, names) for split, names in files.items()}
    if isinstance(files, list):
        return [_from(home, name) for name in files]
    return files if "://" in files else str(home / files)


def unknown_splits(config: dict, found: SplitFiles) -> list[str]:
    """Return a line for each split that `config` names and its data files lack."""
    if config["dataset_path"] not in readers() or not _data_files(config):
        return []
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    return [
        f"{key} is {config[key]!r}, and its data_files have {', '.join(found)}"
        f"{did_you_mean(config[key], found)}"
        for key in keys
        if config.get(key) and config[key] not in found
    ]


def unreadable(config: dict, paths: list[Path]) -> str | None:
    """Return the first mistake in some JSON files, with its place; None if there is none.

    A file is a list of documents or has one per line. Files that the task reads with options of its
    own are not checked.
    """
    if config["dataset_path"] != "json" or {*(config.get("dataset_kwargs") or {})} != {
        "data_files"
    }:
        return None
    for path in paths:
        if path.suffix not in (".json", ".jsonl"):
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            return f"{path} cannot be read: {error}"
        if not text.strip():
            return f"{path} is empty: fill in its documents"
        try:
            if text.lstrip()[0] == "[":
                json.loads(text)
                continue
        except json.JSONDecodeError as error:
            return (
                f"{path}, line {error.lineno}, column {error.colno} is not valid JSON: {error.msg}"
            )
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                json.loads(line or "{}")
            except json.JSONDecodeError as error:
                return f"{path}, line {number}, column {error.colno} is not valid JSON: {error.msg}"
    return None


def _is_local(config: dict) -> bool:
    """Whether the task names local files or a local directory."""
    named = _data_files(config)
    reads_files = config["dataset_path"] in readers() and bool(named) and not _remote(named)
    return reads_files or _directory(config) is not None


def _directory(config: dict) -> Path | None:
    """Return the directory of the documents, if the task names one."""
    path = config["dataset_path"]
    if path in readers():
        path = (config.get("dataset_kwargs") or {}).get("data_dir")
        if path is None:
            return None
    elif HUB_NAME.fullmatch(path) and not Path(path).is_dir():
        return None
    if "://" in path or Path(path).is_file():
        return None
    if not Path(path).is_dir():
        raise TaskError(
            f"task {config['task']!r}: the directory {path} of its documents is not there "
            "(dataset_path, data_dir; a relative path begins where the study is run)"
        )
    return Path(path)


def _inside(home: Path) -> list[Path]:
    """Return the files in a directory that the `datasets` library does not take for hidden."""
    paths = ((path, path.relative_to(home).parts) for path in home.rglob("*") if path.is_file())
    hidden = (".", "__")
    return sorted(p for p, parts in paths if not any(part.startswith(hidden) for part in parts))


def _data_files(config: dict) -> dict[str, list[str]]:
    """Return the files that the configuration names, by split."""
    named = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    if not isinstance(named, dict):
        named = {"train": named}  # as the `datasets` library takes it
    return {split: [one] if isinstance(one, str) else list(one) for split, one in named.items()}


def _remote(named: dict[str, list[str]]) -> bool:
    return any("://" in name for names in named.values() for name in names)


def _present(config: dict, split: str, names: list[str]) -> list[Path]:
    """Return the files of a split, patterns resolved."""
    found: list[Path] = []
    for name in names:
        matches = sorted(glob(name, recursive=True)) if has_magic(name) else [name]
        missing = [match for match in matches if not Path(match).is_file()]
        if missing or not matches:
            raise TaskError(
                f"task {config['task']!r}: the data file {name} of its split {split!r} is not "
                "there (dataset_kwargs: data_files; a relative path begins where the study is run)"
            )
        found += map(Path, matches)
    return found


def _mirrored(config: dict, named: dict[str, list[str]], mirror: Path) -> SplitFiles:
    """Return the files in the mirror, by split."""
    dataset, inside = config["dataset_path"], {}
    for split, names in named.items():
        hub = [HUB_FILE.fullmatch(name) for name in names]
        dataset = hub[0]["dataset"] if hub[0] else dataset
        inside[split] = [
            match["path"] if match else name for match, name in zip(hub, names, strict=True)
        ]
    home = mirror / dataset.replace("/", "__")
    table = home / (config.get("dataset_name") or "default")
    found = {}
    for split in splits(config):
        own = [home / name for name in inside.get(split, [])]
        expected = own if own and all(map(Path.is_file, own)) else [table / f"{split}.parquet"]
        if not expected[0].is_file():
            either = f"{own[0]} or {expected[0]}" if own else str(expected[0])
            raise TaskError(
                f"task {config['task']!r}: its split {split!r} is not in the mirror: expected the "
                f"file {either} (config key `datasets`)"
            )
        found[split] = expected
    return found


# --- what decides the documents ---


def content(config: dict, datasets: str | Path | None = None) -> dict:
    """Return what decides the documents of the task's splits, as JSON.

    Files count by the way they are read and the SHA-256 of their bytes: split by split in the order
    of reading, whatever their names; in a directory by name, since names there define the splits. A
    hub dataset counts by its name, configuration and revision. The copy in the hub's cache does not
    count: a job that fetches it would outdate its own result.

    Raises `TaskError` when a file is missing or cannot be read.
    """
    kwargs = {**(config.get("dataset_kwargs") or {})}
    kwargs.pop("trust_remote_code", None)  # a permission
    if config.get("custom_dataset") or not config.get("dataset_path"):
        return plain({"kwargs": kwargs})
    home, found = _directory(config), files(config, datasets)
    named = {"name": config.get("dataset_name")}
    if found is None:
        return plain({"dataset": config["dataset_path"], **named, "kwargs": kwargs})
    if home:
        paths = found["every split"]
        names = [path.relative_to(home).as_posix() for path in paths]
        reader = config["dataset_path"] if config["dataset_path"] in readers() else None
        inside = dict(zip(names, _hashes(config, paths), strict=True))
        kwargs.pop("data_dir", None) if reader else None
        return plain({"reader": reader, **named, "kwargs": kwargs, "directory": inside})
    config = from_mirror(config, datasets)
    kwargs = {key: value for key, value in config["dataset_kwargs"].items() if key != "data_files"}
    kwargs.pop("trust_remote_code", None)
    used = [split for split in splits(config) if split in found] or list(found)
    hashes = {split: _hashes(config, found[split]) for split in used}
    return plain({"reader": config["dataset_path"], "kwargs": kwargs, "splits": hashes})


def _hashes(config: dict, paths: list[Path]) -> list[str]:
    try:
        return file_hashes(paths)
    except OSError as error:
        raise TaskError(
            f"task {config['task']!r}: {error.filename} cannot be read: {error.strerror}"
        ) from error
