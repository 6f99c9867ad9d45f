"""A model counts by what is read of it, not by where it lies or how its files are written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from headcount import hashes
from headcount.checkpoint_files import fingerprint


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    """A tiny Llama, in three shards, with code of its own that its configuration names."""
    path = tiny.save_model(tmp_path / "model", "llama")
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(path, max_shard_size="20KB")
    (path / "model.safetensors").unlink(missing_ok=True)
    edit(path, "config.json", auto_map={"AutoModelForCausalLM": "modeling_my.My"})
    (path / "modeling_my.py").write_text("from .layers.attention import *\n")
    (path / "layers").mkdir()
    (path / "layers" / "attention.py").write_text("x = 1\n")
    (path / "convert.py").write_text("y = 1\n")
    return path


def edit(path: Path, file: str, **changes) -> None:
    content = json.loads((path / file).read_text()) | changes
    (path / file).write_text(json.dumps(content))


def edited(file: str, **changes):
    return lambda path: edit(path, file, **changes)


def appended(file: str, text: str):
    def change(path: Path) -> None:
        (path / file).parent.mkdir(exist_ok=True, parents=True)
        with (path / file).open("a") as written:
            written.write(text)

    return change


def reformatted(file: str, **how):
    def change(path: Path) -> None:
        (path / file).write_text(json.dumps(json.loads((path / file).read_text()), **how))

    return change


def shards_renamed(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-0", "part-0"))
    for shard in path.glob("model-0*"):
        shard.rename(path / shard.name.replace("model-0", "part-0"))


def weight_changed(path: Path) -> None:
    shard = max(path.glob("model-0*.safetensors"))
    weights = load_file(shard)
    next(iter(weights.values())).flatten()[0] += 1
    save_file(weights, shard, metadata={"format": "pt"})


def whole_beside(path: Path) -> None:
    """transformers takes the whole file before the shards."""
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")


SHARD = "model-00001-of-00003.safetensors"
CHANGES = {
    "documentation": (appended("README.md", "x"), False),
    "a licence": (appended("LICENSE", "x"), False),
    "a picture": (appended("loss.png", "x"), False),
    "what git keeps": (appended(".gitattributes", "x"), False),
    "the hub's cache": (appended(".cache/huggingface/download/x.lock", "x"), False),
    "arguments of training": (appended("training_args.bin", "x"), False),
    "the optimiser": (appended("optimizer.pt", "x"), False),
    "random generators": (appended("rng_state_0.pth", "x"), False),
    "the trainer's state": (appended("trainer_state.json", "{}"), False),
    "results": (appended("all_results.json", "{}"), False),
    "TensorBoard's events": (appended("events.out.tfevents.17.host.1.0", "x"), False),
    "a folder of runs": (appended("runs/a/events.out.tfevents.1", "x"), False),
    "an earlier checkpoint": (appended("checkpoint-100/model.safetensors", "x"), False),
    "weights in another format": (appended("pytorch_model.bin", "x"), False),
    "another GGUF": (appended("model.gguf", "x"), False),
    "how text is generated": (appended("generation_config.json", " "), False),
    "how chats are written": (appended("chat_template.jinja", "x"), False),
    "the names of shards": (shards_renamed, False),
    "indentation": (reformatted("config.json", indent=8), False),
    "the order of keys": (reformatted("config.json", sort_keys=True), False),
    "the tokenizer's indentation": (reformatted("tokenizer_config.json", indent=7), False),
    "where it was loaded from": (edited("config.json", _name_or_path="/somewhere"), False),
    "a comment in its code": (appended("modeling_my.py", "# why\n"), False),
    "code that is not named": (appended("convert.py", "z = 1\n"), False),
    "a weight": (weight_changed, True),
    "a file of all weights": (whole_beside, True),
    "another file chosen": (edited("config.json", transformers_weights=SHARD), True),
    "a lost shard": (lambda path: min(path.glob("model-0*.safetensors")).unlink(), True),
    "the configuration": (edited("config.json", rope_theta=5.0), True),
    "a nested key": (edited("config.json", rope_scaling={"factor": 2.0}), True),
    "the tokenizer": (appended("tokenizer.json", " "), True),
    "special tokens": (edited("tokenizer_config.json", eos_token="yes"), True),
    "added tokens": (appended("added_tokens.json", "{}"), True),
    "a vocabulary": (appended("vocab.txt", "x"), True),
    "a sentencepiece model": (appended("tokenizer.model", "x"), True),
    "its code": (appended("modeling_my.py", "y = 1\n"), True),
    "what its code imports": (appended("layers/attention.py", "y = 1\n"), True),
    "a configuration that is no JSON": (appended("config.json", "}"), True),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_decides_a_number_counts(path, what):
    change, counts = CHANGES[what]
    before = fingerprint(path)
    change(path)
    assert (fingerprint(path) != before) == counts


def test_where_it_lies_does_not_count(path, monkeypatch):
    before = fingerprint(path)
    monkeypatch.chdir(path.parent)
    assert fingerprint("model") == fingerprint(path.parent / "." / "model") == before
    (path.parent / "link").symlink_to(path)
    assert fingerprint("link") == before
    path.rename(path.parent / "renamed")
    assert fingerprint("renamed") == before


def test_what_transformers_opens_counts(tmp_path):
    """Of every file but one: what does not count can be anything, and changes no number."""
    path = tiny.save_model(tmp_path / "model", "opt")
    tokens = torch.tensor([[2, 9, 10, 11, 12]])
    before = fingerprint(path)
    expected = AutoModelForCausalLM.from_pretrained(path)(tokens).logits
    for file in list(path.iterdir()):
        copy = tmp_path / f"without-{file.name}"
        shutil.copytree(path, copy)
        (copy / file.name).unlink()
        if fingerprint(copy) == before:
            assert torch.equal(AutoModelForCausalLM.from_pretrained(copy)(tokens).logits, expected)
            theirs = AutoTokenizer.from_pretrained(copy).get_vocab()
            assert theirs == AutoTokenizer.from_pretrained(path).get_vocab()


def test_an_adapters_base_counts_by_content(path):
    adapter = path.parent / "adapter"
    adapter.mkdir()
    described = {"base_model_name_or_path": str(path), "r": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    (adapter / "adapter_model.safetensors").write_text("x")
    before = fingerprint(adapter)
    path.rename(path.parent / "moved")
    edit(adapter, "adapter_config.json", base_model_name_or_path=str(path.parent / "moved"))
    assert fingerprint(adapter) == before
    (adapter / "adapter_model.safetensors").write_text("y")
    changed = fingerprint(adapter)
    edit(path.parent / "moved", "config.json", rope_theta=5.0)
    assert len({before, changed, fingerprint(adapter)}) == 3


def test_a_gguf_file_counts_alone_and_not_by_its_name(tmp_path):
    (tmp_path / "a.gguf").write_text("x")
    before = fingerprint(tmp_path, "a.gguf")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert fingerprint(tmp_path, "b.gguf") == before
    (tmp_path / "b.gguf").write_text("y")
    assert fingerprint(tmp_path, "b.gguf") != before


def test_every_byte_of_a_large_file_counts(tmp_path):
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    with file.open("wb") as sparse:
        sparse.truncate(hashes.LARGE + 10)
    found = {fingerprint(file.parent)}
    for offset in (0, hashes.LARGE // 3, hashes.LARGE + 9):
        with file.open("r+b") as changed:
            changed.seek(offset)
            changed.write(b"x")
        found.add(fingerprint(file.parent))
    assert len(found) == 4


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    with file.open("wb") as sparse:
        sparse.truncate(hashes.LARGE + 1)
    first = fingerprint(file.parent)
    monkeypatch.setattr(hashes, "_read", lambda path: pytest.fail(f"{path} is read again"))
    assert fingerprint(file.parent) == first


def test_transformers_is_not_imported():
    """Importing it takes seconds, and planning needs the fingerprint at every start."""
    code = "import sys, headcount.checkpoint_files; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
