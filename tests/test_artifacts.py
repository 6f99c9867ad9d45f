"""Artifacts appear complete or not at all; hashes follow content and imports."""

import pyarrow as pa
import pytest

from headcount import artifacts

SCHEMA = pa.schema([pa.field("layer", pa.int32(), nullable=False), pa.field("head", pa.int32())])


def test_what_is_written_is_read_with_schema_and_provenance(tmp_path):
    path = tmp_path / "deep" / "a.parquet"
    artifacts.write(path, [{"layer": 1, "head": None}], SCHEMA, {"seed": 0})
    assert artifacts.read(path).to_pylist() == [{"layer": 1, "head": None}]
    assert artifacts.read(path).schema.equals(SCHEMA)
    assert artifacts.provenance(path) == {"seed": 0}


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.parquet"
    artifacts.write(path, [{"layer": 1, "head": 2}], SCHEMA, {})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), artifacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_null_where_none_may_be_names_file_and_column(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet: column 'layer' holds nulls"):
        artifacts.write(tmp_path / "a.parquet", [{"layer": None}], SCHEMA, {})
    assert not (tmp_path / "a.parquet").exists()


def test_equal_rows_give_equal_files(tmp_path):
    for name in ("a", "b"):
        artifacts.write(tmp_path / name, [{"layer": 1, "head": 2}], SCHEMA, {"seed": 0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_hash_follows_content_names_and_size_alone(tmp_path):
    (tmp_path / "a").write_text("one")
    before = artifacts.files_hash([tmp_path / "a"])
    (tmp_path / "a").touch()
    assert artifacts.files_hash([tmp_path / "a"]) == before
    (tmp_path / "a").write_text("two")
    assert artifacts.files_hash([tmp_path / "a"]) != before
