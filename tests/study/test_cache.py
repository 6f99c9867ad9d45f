"""What `headcount cache` lists and removes."""

import pytest
from plain import random_prompts

from headcount.__main__ import main
from headcount.artifacts import lineage, storage
from headcount.engine import Masks
from headcount.scores import evaluation_store


@pytest.fixture
def kept(opt, tmp_path):
    """Artifacts with evaluations of this checkpoint and of an earlier one, and an older version."""
    storage.write_json(tmp_path / "tiny/model.json", {"fingerprint": "now"})
    for fingerprint, task in (("now", "a"), ("before", "b")):
        context = evaluation_store.context(fingerprint, "float32")
        directory = tmp_path / f"tiny/evaluations/{task}/0-shot"
        with evaluation_store.Store(directory, context, lambda: opt) as store:
            masks = Masks.removing(opt, [([], []), ([], [1])])
            evaluation_store.log_likelihoods(opt, random_prompts(4), masks, store)
    earlier = tmp_path / lineage.EARLIER / "x.parquet" / "key" / "x.parquet"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier" * 2**18)
    return tmp_path


@pytest.fixture
def cache(kept, monkeypatch, capsys):
    """A function that runs the command; row -> its numbers."""

    def cache(*arguments):
        monkeypatch.setattr("sys.argv", ["headcount", "cache", str(kept), *arguments])
        main()
        lines = capsys.readouterr().out.splitlines()
        rows = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
        return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}

    return cache


def tasks(kept):
    return {path.parts[-3] for path in kept.glob("*/evaluations/*/*/*.parquet")}


def test_files_rows_and_sizes_are_listed(cache, kept):
    rows = cache()
    distinct = len({prompt.key for prompt in random_prompts(4)})
    assert rows["evaluations of tiny"][:2] == ["2", str(2 * 2 * distinct)]
    assert rows["earlier versions"][0] == "1" and rows["earlier versions"][2] == "1.8"
    assert tasks(kept) == {"a", "b"}


def test_what_another_checkpoint_made_and_what_is_damaged_is_unused(cache, kept):
    assert cache("--remove", "unused")["evaluations of tiny"][0] == "1"
    assert tasks(kept) == {"a"} and (kept / lineage.EARLIER).is_dir()
    (path,) = kept.glob("*/evaluations/a/*/*.parquet")
    path.write_bytes(path.read_bytes()[:-50])
    assert "evaluations of tiny" not in cache("--remove", "unused")


def test_what_other_code_made_is_unused(cache, kept, monkeypatch):
    monkeypatch.setattr("headcount.study.cache._code", lambda kind: {"code": "other"})
    cache("--remove", "unused")
    assert not tasks(kept)


def test_everything_can_be_removed_and_artifacts_stay(cache, kept):
    cache("--remove", "all")
    assert not tasks(kept) and not (kept / lineage.EARLIER).exists()
    assert (kept / "tiny/model.json").is_file()


def test_converted_checkpoints_are_listed_and_go_when_the_model_is_another(cache, kept):
    """Of a model that has one, and of one that is studied as it lies now."""
    storage.write_json(kept / "gguf/model.json", {"path": "checkpoint-now"})
    for name, size in (
        ("gguf/checkpoint-now", 2),
        ("gguf/checkpoint-old", 3),
        ("tiny/checkpoint-a", 1),
    ):
        (kept / name).mkdir()
        (kept / name / "config.json").touch()
        (kept / name / "model.safetensors").write_bytes(bytes(size * 2**20))
    rows = cache()
    assert rows["converted checkpoints of gguf"] == ["4", "", "5.0", "3.0"]
    assert rows["converted checkpoints of tiny"] == ["2", "", "1.0", "1.0"]
    for remove in ("unused", "all"):
        rows = cache("--remove", remove)
        assert rows["converted checkpoints of gguf"] == ["2", "", "2.0", "0.0"]
        assert "converted checkpoints of tiny" not in rows
    assert (kept / "gguf/checkpoint-now/model.safetensors").exists()


def test_a_directory_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["headcount", "cache", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="none is not there"):
        main()
