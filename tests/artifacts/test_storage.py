"""Artifacts appear complete or not at all; hashes follow content and imports."""

import subprocess

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headcount.artifacts import schemas, storage

SCHEMA = pa.schema([pa.field("layer", pa.int32(), nullable=False), pa.field("head", pa.int32())])


def test_what_is_written_is_read_with_schema_and_provenance(tmp_path):
    path = tmp_path / "deep" / "a.parquet"
    storage.write(path, [{"layer": 1, "head": None}], SCHEMA, {"seed": 0})
    assert storage.read(path).to_pylist() == [{"layer": 1, "head": None}]
    assert storage.read(path).schema.equals(SCHEMA)
    assert storage.provenance(path)["seed"] == 0


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.parquet"
    storage.write(path, [{"layer": 1, "head": 2}], SCHEMA, {})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), storage.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_null_where_none_may_be_names_file_and_column(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet: column 'layer' holds nulls"):
        storage.write(tmp_path / "a.parquet", [{"layer": None}], SCHEMA, {})
    assert not (tmp_path / "a.parquet").exists()


def test_what_all_rows_are_about_stands_in_each_of_them(tmp_path):
    rows = [{"layer": layer, "head": 0, "rank": layer, "score": 0.5} for layer in range(3)]
    about = {"model": {"name": "m", "layers": 3}, "ranking": "copa", "shots": 1}
    schema = schemas.SCHEMAS["rankings"]
    storage.write(tmp_path / "r.parquet", rows, schema, about | {"component": "heads"})
    table = pl.read_parquet(tmp_path / "r.parquet")
    assert table.schema == pl.Schema(schema)
    labels = table.select("model", "ranking", "shots", "component").unique().rows()
    assert labels == [("m", "copa", 1, "heads")]
    with pytest.raises(ValueError, match=r"r\.parquet: column 'component' holds nulls"):
        storage.write(tmp_path / "r.parquet", rows, schema, about)


def test_equal_rows_give_equal_files(tmp_path):
    for name in ("a", "b"):
        storage.write(tmp_path / name, [{"layer": 1, "head": 2}], SCHEMA, {"seed": 0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- what is not what was written ---


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"layer": layer, "head": layer % 3} for layer in range(50)]
    storage.write(path, rows, SCHEMA, {"seed": 0, "task": "t"})
    return path


def test_no_flipped_bit_is_read_as_a_value(written):
    whole = bytearray(written.read_bytes())
    for bit in range(8 * len(whole)):
        whole[bit // 8] ^= 1 << bit % 8
        written.write_bytes(whole)
        for read in (storage.read, storage.frame, storage.provenance):
            with pytest.raises(storage.DamagedError, match=r"a\.parquet .*run the study again"):
                read(written)
        whole[bit // 8] ^= 1 << bit % 8
    written.write_bytes(whole)
    assert len(storage.read(written)) == 50


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_file_is_refused(written, kept):
    written.write_bytes(written.read_bytes()[:kept])
    with pytest.raises(storage.DamagedError, match="damaged"):
        storage.read(written)


def test_what_others_wrote_is_refused(written):
    pq.write_table(pa.table({"layer": [1]}), written)
    with pytest.raises(storage.DamagedError, match="does not record what it was made from"):
        storage.provenance(written)


def test_another_format_is_refused(written, monkeypatch):
    monkeypatch.setattr(storage, "FORMAT", storage.FORMAT + 1)
    with pytest.raises(storage.DamagedError, match="format of another version"):
        storage.read(written)


def test_a_changed_json_artifact_is_refused(tmp_path):
    path = tmp_path / "model.json"
    storage.write_json(path, {"layers": 3, "heads": [4, 4, 4]})
    assert storage.provenance(path)["heads"] == [4, 4, 4]
    text = path.read_text()
    for changed in (text.replace("3", "5", 1), text[:-10], "[]", "{}"):
        path.write_text(changed)
        with pytest.raises(storage.DamagedError):
            storage.read_json(path)


# --- content ---


def content(path, rows, schema=SCHEMA, **provenance):
    storage.write(path, rows, schema, provenance)
    return storage.provenance(path)["content"]


def test_content_is_that_of_rows_and_of_what_is_read_of_the_provenance(tmp_path):
    rows = [{"layer": 1, "head": 2}, {"layer": 2, "head": None}]
    first = content(tmp_path / "a.parquet", rows, task="t", made_of={"seed": 0}, key="k")
    assert content(tmp_path / "b.parquet", rows, task="t", made_of={"seed": 1}, key="l") == first
    assert content(tmp_path / "a.parquet", rows, task="u") != first
    assert content(tmp_path / "a.parquet", rows[::-1], task="t") != first
    other = [{"layer": 1, "head": 2}, {"layer": 2, "head": 0}]
    assert content(tmp_path / "a.parquet", other, task="t") != first


# --- no place ---


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_told_and_the_old_file_stays(small_disk):
    path = small_disk / "a.json"
    storage.write_json(path, {"seed": 0})
    with pytest.raises(OSError, match=r"a\.json cannot be written: No space left.*Make room"):
        storage.write_json(path, {"seed": 1, "text": "0" * 100_000})
    assert storage.read_json(path)["seed"] == 0
    assert list(small_disk.iterdir()) == [path]


def test_a_folder_that_is_only_read_is_told(small_disk):
    path = small_disk / "deep" / "a.json"
    storage.write_json(path, {"seed": 0})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for other in (path, small_disk / "new" / "a.json"):
        with pytest.raises(OSError, match=r"a\.json cannot be written: Read-only.*writable"):
            storage.write_json(other, {"seed": 1})
    assert storage.read_json(path)["seed"] == 0
