"""Documents of a task as text that keeps their types: JSON where that has them, else Arrow."""

import base64
import json
from typing import Any

import pyarrow as pa

from headcount.tasks.files import TaskError

ARROW = "arrow:"


def encode(doc: dict, features: Any) -> str:
    """Return a document as the artifact `tasks` stores it: as JSON, if JSON has all its types.

    A document with other types (dates, decimals, bytes ...) becomes "arrow:" and an Arrow stream of
    one row in base 64, by the `features` of its dataset (`datasets.Features`). Raises `TaskError`
    naming the columns that cannot be restored (images, sounds).
    """
    if _is_json(doc):
        return json.dumps(doc)
    for row in (_as_it_is, _encoded):
        try:
            text = ARROW + base64.b64encode(_stream(row(doc, features))).decode()
            if repr(decode(text)) == repr(doc):
                return text
        except Exception:  # from pyarrow, or from a feature's encoder
            continue
    columns = [f"{name} ({type(doc[name]).__name__})" for name in doc if not _is_json(doc[name])]
    raise TaskError(
        f"its documents cannot be kept with their types, of the columns {', '.join(columns)}: "
        "leave out those that no file can hold (process_docs: documents.remove_columns)"
    )


def _as_it_is(doc: dict, features: Any) -> pa.Table:
    """Return the row by Arrow's types alone, which keep the nanoseconds that features drop."""
    return pa.Table.from_pylist([doc], features.arrow_schema)


def _encoded(doc: dict, features: Any) -> pa.Table:
    """Return the row encoded by the dataset's features, some of which need it."""
    from datasets import Dataset

    return Dataset.from_list([doc], features=features).data.table


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def decode(text: str) -> dict:
    """Return the encoded document, as the `datasets` library gave it."""
    if not text.startswith(ARROW):
        return json.loads(text)
    from datasets import Dataset

    return Dataset.from_buffer(pa.py_buffer(base64.b64decode(text.removeprefix(ARROW))))[0]


def _is_json(value: Any) -> bool:
    """Whether a value survives JSON unchanged."""
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)
