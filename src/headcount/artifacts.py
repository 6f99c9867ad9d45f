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

from headcount.hashes import file_hashes

# Ends of names, in a checkpoint's directory, of what decides no number.
NO_MODEL = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf")

PACKAGES = ("torch", "transformers", "lm_eval", "numpy", "scipy", "pyarrow")

_COMPONENT = [
    pa.field("layer", pa.int32(), nullable=False),
    pa.field("head", pa.int32()),  # null for an FFN
]


def _interval(statistic: str) -> list[pa.Field]:
    """A statistic and its 95 % interval, null where they are not defined."""
    return [pa.field(f"{statistic}{bound}", pa.float64()) for bound in ("", "_low", "_high")]


# score = sum(contributions) / sum(weights); a contribution and a weight for each of n documents, in
# the same order for every component.
_IMPORTANCE = [
    *_COMPONENT,
    pa.field("score", pa.float64(), nullable=False),
    pa.field("standard_error", pa.float64(), nullable=False),
    pa.field("n", pa.int32(), nullable=False),
    pa.field("contributions", pa.list_(pa.float64()), nullable=False),
    pa.field("weights", pa.list_(pa.float64()), nullable=False),
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
            pa.field("query_in_examples", pa.bool_(), nullable=False),
            pa.field("doc", pa.string()),  # the document as JSON, at its first choice
        ]
    ),
    "importance": pa.schema(_IMPORTANCE),
    # A property of one checkpoint: the engine and the unmodified model differ by `difference`, of
    # which rounding explains `bound`.
    "verified": pa.schema(
        [
            pa.field("property", pa.string(), nullable=False),
            pa.field("difference", pa.float64(), nullable=False),
            pa.field("bound", pa.float64(), nullable=False),
            pa.field("passed", pa.bool_(), nullable=False),
            pa.field("where", pa.string(), nullable=False),  # prompts, mask or layer; or an error
        ]
    ),
    # The importance by each of several estimators, over the same documents.
    "estimators": pa.schema([pa.field("estimator", pa.string(), nullable=False), *_IMPORTANCE]),
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
    # A prompt under a mask, of `headcount.evaluations`, which has the keys.
    "evaluations": pa.schema(
        [
            pa.field("mask", pa.binary(16), nullable=False),
            pa.field("prompt", pa.binary(16), nullable=False),
            pa.field("log_likelihood", pa.float64(), nullable=False),
            pa.field("is_greedy", pa.bool_(), nullable=False),
        ]
    ),
    # A prompt: sums over its tokens of |<A_t, d loss / d A_t>|, and without the bars, for each of
    # the N components.
    "gradients": pa.schema(
        [
            pa.field("prompt", pa.binary(16), nullable=False),
            pa.field("component", pa.string(), nullable=False),
            pa.field("absolute", pa.list_(pa.float32()), nullable=False),
            pa.field("signed", pa.list_(pa.float32()), nullable=False),
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
            *_interval("rho"),
            *_interval("overlap"),
            pa.field("overlap_chance", pa.float64(), nullable=False),
            # rho between permuted components, and between heads permuted within their layer
            pa.field("p_permuted", pa.float64()),  # two-sided p-value of rho
            *_interval("permuted")[1:],
            pa.field("p_within_layers", pa.float64()),
            *_interval("within_layers")[1:],
        ]
    ),
    # A ranking from one half of the documents against that from the other.
    "reliability": pa.schema(
        [
            pa.field("task", pa.string(), nullable=False),  # or "aggregate"
            pa.field("shots", pa.int32(), nullable=False),
            pa.field("n", pa.int32(), nullable=False),  # documents of both halves
            pa.field("splits", pa.int32(), nullable=False),
            *_interval("rho"),
            *_interval("overlap"),
            pa.field("overlap_chance", pa.float64(), nullable=False),
            *_interval("spearman_brown"),  # of the rho: what all n documents would have
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
        inside = path.is_relative_to(package)
        name = path.relative_to(package).as_posix() if inside else path.name
        if name not in files:
            files[name] = path.read_bytes()
            waiting += _headcount_imports(files[name], path)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name] + b"\0")
    return digest.hexdigest()


def _headcount_imports(source: bytes, path: Path) -> set[Path]:
    """Files of the `headcount` modules and subpackages that `source`, at `path`, imports.

    In any of Python's spellings; of an imported name that is no module, the module it is in.
    """
    package = Path(__file__).parent
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level and path.is_relative_to(package):
                home = path.parents[node.level - 1].relative_to(package.parent)  # "." is its parent
                module = ".".join([*home.parts, *filter(None, [module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    files = set()
    for name in names:
        top, *parts = name.split(".")
        for depth in range(1, len(parts) + 1) if top == "headcount" else ():
            module = package.joinpath(*parts[:depth])  # headcount.a.b runs headcount.a first
            files |= {module.with_suffix(".py"), module / "__init__.py"}
    return {file for file in files if file.exists()}


def files_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of `paths`, whatever directory they are in."""
    paths = sorted(paths)
    digest = hashlib.sha256()
    for path, content in zip(paths, file_hashes(paths), strict=True):
        digest.update(f"{path.name}\0{content}\0".encode())
    return digest.hexdigest()


def checkpoint_hash(directory: str | Path, gguf_file: str | None = None) -> str:
    """A fingerprint of the model in `directory`: weights, configuration, tokenizer and code.

    With `gguf_file` of that file alone. Of an adapter whose base model lies in a directory, of
    both. Documentation and pictures do not count.
    """
    directory = Path(directory)
    if gguf_file:
        return files_hash([directory / gguf_file])
    files = [path for path in directory.iterdir() if path.is_file()]
    files += directory.glob("*/**/*.py")  # code may be in folders
    digest = files_hash(path for path in files if path.suffix.lower() not in NO_MODEL)
    adapter = directory / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text()).get("base_model_name_or_path") or ""
        if Path(base).is_dir():
            digest = hashlib.sha256(f"{digest} {checkpoint_hash(base)}".encode()).hexdigest()
    return digest
