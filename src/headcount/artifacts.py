"""Parquet artifacts: their schemas, atomic writes, and the provenance that each carries.

A file appears under its name only when it is complete: it is written beside, flushed to disk, and
renamed. What made it (model, task, seeds, config slice, code hash, package versions) lies as JSON
in the Parquet metadata under the key `headcount`; nothing in it depends on the time or the machine,
so equal inputs give equal files.
"""

import ast
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGES = ("torch", "transformers", "lm_eval", "numpy", "scipy", "pyarrow")

_COMPONENT = [
    pa.field("layer", pa.int32(), nullable=False),
    pa.field("head", pa.int32()),  # null for an FFN
]

SCHEMAS: dict[str, pa.Schema] = {
    # A request of lm-eval: one choice of one document.
    "tasks": pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),  # "calibration" or "evaluation"
            pa.field("doc_id", pa.int32(), nullable=False),
            pa.field("choice", pa.int32(), nullable=False),
            pa.field("context", pa.string(), nullable=False),
            pa.field("continuation", pa.string(), nullable=False),
            pa.field("gold", pa.bool_(), nullable=False),
            pa.field("doc", pa.string()),  # the document as JSON, at its first choice
        ]
    ),
    # score = sum(contributions) / sum(weights); a contribution and a weight for each of n documents
    # (for each gold prompt, with the gradient estimator), in the same order for every component.
    "importance": pa.schema(
        [
            *_COMPONENT,
            pa.field("score", pa.float64(), nullable=False),
            pa.field("standard_error", pa.float64(), nullable=False),
            pa.field("n", pa.int32(), nullable=False),
            pa.field("contributions", pa.list_(pa.float64()), nullable=False),
            pa.field("weights", pa.list_(pa.float64()), nullable=False),
        ]
    ),
    # rank 0 is removed first.
    "rankings": pa.schema(
        [
            *_COMPONENT,
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
        ]
    ),
    # A document at a pruning level. Levels are percentages asked for, `removed` are counts.
    "pruning": pa.schema(
        [
            pa.field("ranking", pa.string(), nullable=False),  # resolved name, a task for "closest"
            pa.field("heads_level", pa.float64(), nullable=False),
            pa.field("ffns_level", pa.float64(), nullable=False),
            pa.field("heads_removed", pa.int32(), nullable=False),
            pa.field("ffns_removed", pa.int32(), nullable=False),
            pa.field("doc_id", pa.int32(), nullable=False),
            pa.field("log_likelihoods", pa.list_(pa.float64()), nullable=False),
            pa.field("is_greedy", pa.list_(pa.bool_()), nullable=False),
            pa.field("metric", pa.float64(), nullable=False),  # its mean over documents is reported
            pa.field("results", pa.string(), nullable=False),  # lm-eval's process_results as JSON
        ]
    ),
    # A request, by headcount unpruned and by lm-eval's own model.
    "parity": pa.schema(
        [
            pa.field("case", pa.string()),  # the edge case; null for a task's own requests
            pa.field("doc_id", pa.int32()),  # null for an edge case
            pa.field("same_request", pa.bool_(), nullable=False),
            pa.field("targets", pa.int32(), nullable=False),  # tokens of the continuation
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("log_likelihood", pa.float64(), nullable=False),
            pa.field("hflm_log_likelihood", pa.float64(), nullable=False),
            pa.field("is_greedy", pa.bool_(), nullable=False),
            pa.field("hflm_is_greedy", pa.bool_(), nullable=False),
        ]
    ),
    # A pair of rankings; the `aggregate` row compares a task with the mean over tasks.
    "correlation": pa.schema(
        [
            pa.field("a", pa.string(), nullable=False),  # a task or "aggregate"
            pa.field("b", pa.string(), nullable=False),
            pa.field("shots_a", pa.int32(), nullable=False),
            pa.field("shots_b", pa.int32(), nullable=False),
            *(
                pa.field(f"{statistic}{bound}", pa.float64())  # null where it is not defined
                for statistic in ("rho", "overlap")
                for bound in ("", "_low", "_high")
            ),
            pa.field("overlap_chance", pa.float64(), nullable=False),
        ]
    ),
    "induction": pa.schema(
        [
            *_COMPONENT,
            pa.field("score", pa.float64(), nullable=False),
            pa.field("standard_error", pa.float64(), nullable=False),
            pa.field("n", pa.int32(), nullable=False),  # random sequences
        ]
    ),
}


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` on success and goes on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: str | Path, rows, schema: pa.Schema, provenance: dict) -> None:
    """Write `rows` to the Parquet file `path`, cast to `schema`, with `provenance` inside.

    `rows` is a list of dicts, or what pyarrow makes a table of: a dict of columns, a polars frame.
    Raises `ValueError` when a null stands where the schema allows none.
    """
    table = pa.Table.from_pylist(rows, schema) if isinstance(rows, list) else pa.table(rows)
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"{path}: column {field.name!r} holds nulls")
    table = table.select(schema.names).cast(schema)
    metadata = {b"headcount": json.dumps(provenance, sort_keys=True).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read(path: str | Path) -> pa.Table:
    """The Parquet artifact at `path`; `polars.read_parquet(path)` reads the same."""
    return pq.read_table(path)


def provenance(path: str | Path) -> dict:
    """What made the Parquet artifact at `path`."""
    return json.loads(pq.read_schema(path).metadata[b"headcount"])


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: version(name) for name in PACKAGES}


# --- content hashes, by which the workflow decides what is stale ---


def code_hash(script: str | Path) -> str:
    """SHA-256 of a script and of every `headcount` module that it imports, directly or not.

    Imports are read from the source, wherever they stand in it; nothing is executed.
    """
    package = Path(__file__).parent
    files, waiting = {}, [Path(script)]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files[path] = path.read_bytes()
            waiting += _headcount_imports(files[path], path)
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda file: (file.name, file)):
        name = path.relative_to(package) if path.is_relative_to(package) else path.name
        digest.update(str(name).encode() + b"\0" + files[path] + b"\0")
    return digest.hexdigest()


def _headcount_imports(source: bytes, path: Path) -> set[Path]:
    """Files of the `headcount` modules that the file imports, in any of Python's spellings."""
    package = Path(__file__).parent
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = [node.module] if node.module else []
            if node.level and path.is_relative_to(package):
                here = path.relative_to(package.parent).parts
                origin = [*here[: -node.level], *origin]
            module = ".".join(origin)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {file for name in names for file in _module_files(name, package)}


def _module_files(name: str, package: Path) -> Iterator[Path]:
    """The files that importing `headcount.a.b` runs, the package's own (empty) one left out."""
    first, *parts = name.split(".")
    for end in range(1, len(parts) + 1) if first == package.name else ():
        module = package.joinpath(*parts[:end])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.exists():
                yield file


def files_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of `paths`, quick even for hundreds of gigabytes.

    Of a file over 64 MB count its size and 64 blocks of 64 kB spread evenly, the first (where
    safetensors have their header) and the last included.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= 64 * 2**20:
                digest.update(file.read())
                continue
            for block in range(64):
                file.seek(block * (size - 2**16) // 63)
                digest.update(file.read(2**16))
    return digest.hexdigest()


def checkpoint_hash(directory: str | Path) -> str:
    """A fingerprint of the model in `directory`: its files, but for documentation."""
    files = (path for path in Path(directory).iterdir() if path.is_file())
    return files_hash(path for path in files if path.suffix not in (".md", ".py", ".png"))
