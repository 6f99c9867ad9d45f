"""Documents keep their types in artifacts, and none calibrates that is evaluated as well."""

import datetime
import decimal
import json
import zoneinfo

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml as pyyaml

from headcount.tasks import doc_codec, prompts
from headcount.tasks.files import TaskError

DAY, MOMENT = datetime.date(1990, 1, 2), datetime.datetime(1990, 1, 2, 3, 4, 5)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NANOSECONDS = np.datetime64("1990-01-02T03:04:05.123456789")
COLUMNS = {
    "moments": pa.array([MOMENT], pa.timestamp("s")),
    "nanoseconds": pa.array([NANOSECONDS], pa.timestamp("ns")),
    "moments of a place": pa.array([MOMENT.replace(tzinfo=BERLIN)], pa.timestamp("us", BERLIN.key)),
    "days": pa.array([DAY]),
    "times": pa.array([datetime.time(3, 4, 5, 6)]),
    "durations": pa.array([datetime.timedelta(days=3, seconds=1)], pa.duration("ms")),
    "decimals": pa.array([decimal.Decimal("1.50")], pa.decimal128(10, 2)),
    "large decimals": pa.array([decimal.Decimal("1.5")], pa.decimal256(60, 1)),
    "bytes": pa.array([b"\x00\xff"]),
    "inside": pa.array([[{"when": DAY, "none": None}, {"when": None, "none": None}]]),
}


def with_types(value):
    if isinstance(value, dict):
        return {key: with_types(inner) for key, inner in value.items()}
    return [*map(with_types, value)] if isinstance(value, list) else (type(value), repr(value))


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_document_comes_back_with_its_types(kind):
    table = pa.table({"text": ["x"], "f": [0.1], "of": COLUMNS[kind], "nan": [float("nan")]})
    dataset = datasets.Dataset(datasets.table.InMemoryTable(table))
    restored = doc_codec.decode(doc_codec.encode(dataset[0], dataset.features))
    assert with_types(restored) == with_types(dataset[0])


def test_a_document_that_json_holds_is_kept_as_json():
    doc = {"text": "é", "label": True, "n": [1.5, None], "more": {"a": [1]}, "arrow": "arrow:"}
    dataset = datasets.Dataset.from_list([doc])
    assert doc_codec.encode(dataset[0], dataset.features) == json.dumps(doc)


def test_a_column_that_does_not_come_back_is_refused_by_name():
    features = datasets.Features({"text": datasets.Value("string"), "z": datasets.Value("string")})
    with pytest.raises(TaskError, match=r"of the columns z \(complex\): leave out"):
        doc_codec.encode({"text": "x", "z": 1j}, features)


# --- the same prompt under another number ---

WORDS = ["amber", "barn", "candle", "dust", "ember", "fern", "grain", "jar"]
ITEMS = [{"word": word, "label": number % 2} for number, word in enumerate(WORDS)]
KINDS = {
    "the number of a choice": {"doc_to_text": "A {{word}}:", "doc_to_choice": ["n", "y"]},
    "the text of a choice": {
        "doc_to_text": "A {{word}}:",
        "doc_to_choice": ["n", "y"],
        "doc_to_target": "{{['n', 'y'][label]}}",
    },
    "choices are contexts": {
        "doc_to_text": "label",
        "doc_to_choice": "{{['The ' + word, 'No ' + word]}}",
        "doc_to_target": "is here",
    },
    "several right answers": {
        "doc_to_text": "A {{word}}:",
        "doc_to_choice": ["n", "y", "z"],
        "doc_to_target": "{{[label, 2]}}",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_evaluated_does_not_calibrate_under_another_number(kind, tmp_path):
    """Of the eight documents that are evaluated six are in the training split, two differently."""
    other = [{"word": f"old {word}", "label": 0} for word in WORDS[:3]]
    turned = [{**item, "label": 1 - item["label"]} for item in ITEMS[6:]]
    for split, items in (("train", [*ITEMS[:6], *turned, *other]), ("validation", ITEMS)):
        numbered = [{"uid": f"{split}-{i}", **item} for i, item in enumerate(items)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, numbered)))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    config = {
        "task": "twice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "multiple_choice",
        "training_split": "train",
        "validation_split": "validation",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    yaml = tmp_path / "twice.yaml"
    yaml.write_text(pyyaml.safe_dump({**config, **KINDS[kind]}))
    limits = prompts.Limits(calibration=11, evaluation=4)
    rows = prompts.prepare(yaml, 0, limits, seed=0)
    assert {row["doc_id"] for row in rows if row["split"] == "calibration"} == {6, 7, 8, 9, 10}
    [said, _] = prompts.remarks(rows, limits)
    assert (
        said
        == "6 documents are left out of calibration, since the same prompt and answer are evaluated"
    )
