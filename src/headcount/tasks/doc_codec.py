"""Documents of a task as text that keeps their types: JSON where that has them, else Arrow."""

import base64
import json
from typing import Any

import pyarrow as pa

from headcount.tasks.files import TaskError

ARROW = "arrow:"


def encode(doc: dict, features: Any) -> str:
    """A document as the artifact `tasks` keeps it: as JSON, where that has all of its types.

    Else (dates, decimals, bytes ...) as "arrow:" and an Arrow stream of one row in base 64, by the
    `features` of its dataset (`datasets.Features`). Raises `TaskError` with the columns that do not
    come back as they were (images, sounds).
    """
    if _is_json(doc):
        return json.dumps(doc)
    for row in (_as_it_is, _encoded):
        try:
            text = ARROW + base64.b64encode(_stream(row(doc, features))).decode()
            if repr(decode(text)) == repr(doc):
                return text
        except Exception:  # of pyarrow, or of what a feature is encoded with
            continue
    columns = [f"{name} ({type(doc[name]).__name__})" for name in doc if not _is_json(doc[name])]
    raise TaskError(
        f"its documents cannot be kept with their types, of the columns {', '.join(columns)}: "
        "leave out those that no file can hold (process_docs: documents.remove_columns)"
    )


def _as_it_is(doc: dict, features: Any) -> pa.Table:
    """By Arrow's types alone, which have the nanoseconds that features are encoded without."""
    return pa.Table.from_pylist([doc], features.arrow_schema)


def _encoded(doc: dict, features: Any) -> pa.Table:
    """As a dataset's features are encoded, some of which have values of their own."""
    from datasets import Dataset

    return Dataset.from_list([doc], features=features).data.table


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def decode(text: str) -> dict:
    """The document that was encoded, as the `datasets` library gave it."""
    if not text.startswith(ARROW):
        return json.loads(text)
    from datasets import Dataset

    return Dataset.from_buffer(pa.py_buffer(base64.b64decode(text.removeprefix(ARROW))))[0]


def _is_json(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)
