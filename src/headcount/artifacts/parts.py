"""Rows that come little by little, from several processes, in Parquet files that never change.

A part is written atomically under a name of its own. When a process has written its last one it
makes one part of the small ones, and removes those: what it has read and written anew itself. So
whoever else writes at the same time loses nothing; a row may be there twice for a while.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from headcount.artifacts import schemas, storage

logger = logging.getLogger(__name__)

SECONDS = 120  # of work that a kill can cost: rows wait so long before they are written
MANY = 8  # small parts
SMALL = 32 * 2**20  # bytes


class PartFiles:
    """The parts of one kind (an artifact schema) in `directory` that were made alike.

    `made` says by what; its hash is in the parts' names, and itself in their provenance. Parts that
    were made so and lie in directories `beside` are read as well.
    """

    def __init__(
        self, directory: str | Path, kind: str, made: dict, beside: Sequence[str | Path] = ()
    ):
        self.directory, self.kind, self.made = Path(directory), kind, made
        self.beside = [Path(one) for one in beside]
        self.prefix = prefix(kind, made)
        self.waiting: list[pa.Table] = []
        self.written = time.monotonic()
        self.unreadable: set[Path] = set()

    def tables(self) -> Iterator[pa.Table]:
        """All rows, part by part; a damaged part is warned of, once, and left out."""
        yield from self.waiting
        seen: set[Path] = set()
        while paths := [path for path in self._readable() if path not in seen]:
            for path in paths:
                seen.add(path)
                if (table := self._read(path)) is not None:
                    yield table

    def paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"{self.prefix}*.parquet"))

    def _readable(self) -> list[Path]:
        beside = (path for one in self.beside for path in one.glob(f"{self.prefix}*.parquet"))
        return [*self.paths(), *sorted(beside)]

    def add(self, rows: dict) -> None:
        """Keep the rows, columns by name, and write what waits if that has waited long enough."""
        self.waiting.append(pa.table(rows, schema=schemas.SCHEMAS[self.kind]))
        if time.monotonic() - self.written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write what waits as a part."""
        if self.waiting:
            self._write(pa.concat_tables(self.waiting))
            self.waiting = []
        self.written = time.monotonic()

    def close(self) -> None:
        """Write what waits; then make one part of the small ones if there are many."""
        self.write()
        small = [path for path in self.paths() if _size(path) < SMALL]
        if len(small) <= MANY:
            return
        tables = {path: table for path in small if (table := self._read(path)) is not None}
        self._write(pa.concat_tables(tables.values()))
        for path in tables:
            path.unlink(missing_ok=True)

    def _write(self, rows: pa.Table) -> None:
        path = self.directory / f"{self.prefix}{uuid.uuid4().hex}.parquet"
        storage.write(path, rows, schemas.SCHEMAS[self.kind], {"evaluations": self.made})

    def _read(self, path: Path) -> pa.Table | None:
        try:
            return storage.read(path)
        except FileNotFoundError:  # another process has it in a larger part
            return None
        except (OSError, pa.ArrowException) as error:
            if path not in self.unreadable:
                logger.warning("%s: damaged, its rows are computed again (%s)", path, error)
            self.unreadable.add(path)
            return None


def prefix(kind: str, made: dict) -> str:
    """What the names of such parts begin with."""
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:16]}-"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return SMALL
