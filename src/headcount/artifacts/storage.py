"""Parquet artifacts: their schemas, atomic writes, and the provenance that each carries.

A file appears under its name only when it is complete: it is written beside, flushed to disk, and
renamed. What made it (model, task, seeds, config slice, code hash, package versions) lies as JSON
in the Parquet metadata under the key `headcount`; nothing in it depends on the time or the machine,
so equal inputs give equal files. Beside it lies the `seal`, the SHA-256 of the file: Parquet's own
checksums leave out the footer, where names, types and this provenance are. What has a bit that was
not written, or is in the format of another version, is refused.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from headcount.artifacts import temporaries

FORMAT = 3  # of all artifacts: raised whenever an older one can no longer be read as it is
UNSEALED = b"sha256:" + b"0" * 64
SEAL = re.compile(rb"sha256:[0-9a-f]{64}")
# What can be wrong with the place where an artifact is to lie.
NO_PLACE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make that folder writable"),
}
# What is said of how an artifact was made, which nobody computes with.
UNREAD = {"key", "made_of", "packages", "model", "prompts", "remarks", "files", "seed"}


class DamagedError(OSError):
    """A file is not what was written, or not in a format that this version reads."""

    REMEDY = "; run the study again to make it again"

    def __init__(self, path: str | Path, what: str):
        super().__init__(f"{path} {what}{self.REMEDY}")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` on success and goes on failure.

    On success both the file and its name are on the disk, whatever happens next. Raises `OSError`
    as `has_place` does.
    """
    path = Path(path)
    with has_place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporaries.file(path) as temporary:
            yield temporary
            temporaries.flush(temporary)
            temporary.replace(path)
            temporaries.flush(path.parent)


@contextmanager
def has_place(path: Path) -> Iterator[None]:
    """Inside, `path` is written.

    Raises `OSError` with the remedy when there is no room for it, or no right to write.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        what = f"{path} cannot be written: {os.strerror(error.errno)}: {path.parent.absolute()}"
        remedy = f"{NO_PLACE[error.errno]}, or let `artifacts` name another, and run it again"
        raise OSError(f"{what}. {remedy}; what was there before is still there") from error


# --- Parquet ---


def write(path: str | Path, rows: Any, schema: pa.Schema, provenance: dict) -> None:
    """Write `rows` to the Parquet file `path`, cast to `schema`, with `provenance` inside.

    `rows` is a list of dicts, or what pyarrow makes a table of: a dict of columns, a polars frame.
    Columns that they lack are labels, which the provenance holds (see `labelled`). It also gets the
    `format` and, unless it has one, the `content`: a hash of the rows and of what is read of the
    provenance.

    Raises `ValueError` when a null stands where the schema allows none.
    """
    try:
        table = labelled(rows, schema, provenance)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    made = {"content": _content(table, provenance), **provenance, "format": FORMAT}
    with atomic(path) as temporary:
        temporary.write_bytes(_sealed(table, made))


def labelled(rows: Any, schema: pa.Schema, about: dict) -> pa.Table:
    """`rows`, as of `write`, as a table of `schema`, without its metadata.

    A column that they lack has the value of that name in `about` in every row; of a `model` that is
    described there, its name.

    Raises `ValueError` when a null stands where the schema allows none.
    """
    if isinstance(rows, list):
        given = set().union(*rows)
        rows = pa.Table.from_pylist(rows, pa.schema([f for f in schema if f.name in given]))
    table = pa.table(rows)
    for field in schema:
        if field.name not in table.column_names:
            value = about.get(field.name)
            value = value["name"] if isinstance(value, dict) else value
            table = table.append_column(field, pa.repeat(pa.scalar(value, field.type), len(table)))
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"column {field.name!r} holds nulls")
    return table.select(schema.names).cast(schema).replace_schema_metadata(None)


def _content(table: pa.Table, provenance: dict) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    told = {key: value for key, value in provenance.items() if key not in UNREAD}
    return hash_json([hashlib.sha256(sink.getvalue()).hexdigest(), told])


def _sealed(table: pa.Table, provenance: dict) -> bytes:
    """A Parquet file that holds its own SHA-256, computed with `UNSEALED` in that place."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        text = json.dumps(provenance, sort_keys=True)
        writer.add_key_value_metadata({"headcount": text, "seal": UNSEALED})
    data = sink.getvalue().to_pybytes()
    return data.replace(UNSEALED, _seal(data))


def _seal(data: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(data).hexdigest().encode()


def read(*paths: str | Path) -> pa.Table:
    """The Parquet artifacts at `paths`, as one; `polars.read_parquet` reads the same, but believes.

    Raises `DamagedError` unless their bytes are those that were written, in the present format.
    """
    return pa.concat_tables([_opened(path).read() for path in paths])


def frame(path: str | Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The Parquet artifact at `path`, or some of its columns, for polars. Raises as `read` does."""
    table = pl.from_arrow(_opened(path).read(columns))
    return table.select(columns) if columns else table


def provenance(path: str | Path) -> dict:
    """What made the artifact at `path`; of a JSON artifact, all that it holds.

    Raises as `read` does.
    """
    if Path(path).suffix == ".json":
        return read_json(path)
    return json.loads(_opened(path).metadata.metadata[b"headcount"])


def _opened(path: str | Path) -> pq.ParquetFile:
    """The Parquet file at `path`, read into memory and found to be in order."""
    data = Path(path).read_bytes()
    seals = SEAL.findall(data)
    if not seals:
        raise DamagedError(path, "does not record what it was made from, or is damaged")
    if _seal(data.replace(seals[-1], UNSEALED)) != seals[-1]:
        raise DamagedError(path, "is damaged: its bytes are not those that were written")
    file = pq.ParquetFile(pa.BufferReader(data))
    _check_format(path, json.loads(file.metadata.metadata[b"headcount"]))
    return file


# --- JSON ---


def write_json(path: str | Path, facts: dict) -> None:
    """Write a JSON artifact, with its `format` and its `seal`, a hash of all else in it."""
    facts = {**facts, "format": FORMAT}
    with atomic(path) as temporary:
        text = json.dumps({**facts, "seal": hash_json(facts)}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """What the JSON artifact at `path` holds, without its seal. Raises as `read` does."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        seal = facts.pop("seal")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedError(path, "does not record what it was made from, or is damaged") from None
    if seal != hash_json(facts):
        raise DamagedError(path, "is damaged: it is not what was written")
    _check_format(path, facts)
    return facts


def hash_json(value: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _check_format(path: str | Path, provenance: dict) -> None:
    if provenance.get("format") != FORMAT:
        raise DamagedError(path, "is in the format of another version of headcount")
