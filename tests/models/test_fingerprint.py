"""A model counts by what is read of it, not by where it lies or how its files are written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from headcount.artifacts import hashes
from headcount.models.families import ModelError
from headcount.models.fingerprint import OPENED, CheckpointError, fingerprint
from headcount.models.loading import resolve
from headcount.study import model_checks


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    """A tiny Llama, in shards."""
    path = tiny.save_model(tmp_path / "model", "llama")
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(path, max_shard_size="20KB")
    (path / "model.safetensors").unlink(missing_ok=True)
    return path


@pytest.fixture
def with_code(path):
    """The same with code of its own that its configuration names."""
    edit(path, "config.json", auto_map={"AutoModelForCausalLM": "modeling_my.My"})
    (path / "modeling_my.py").write_text("from .layers.attention import *\n")
    (path / "layers").mkdir()
    (path / "layers" / "attention.py").write_text("x = 1\n")
    (path / "convert.py").write_text("y = 1\n")
    return path


@pytest.fixture
def large(tmp_path):
    """The weights of a model: a file without content, larger than what is read at every start."""
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    with file.open("wb") as sparse:
        sparse.truncate(hashes.LARGE + 10)
    return file


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


def resharded(path: Path) -> None:
    """All in one file, with other metadata and the tensors in another order."""
    whole = [item for shard in path.glob("model-0*") for item in load_file(shard).items()]
    for file in path.glob("model[.-]*"):
        file.unlink()
    save_file(dict(reversed(whole)), path / "model.safetensors", metadata={"by": "me"})


def pickled(path: Path) -> None:
    whole = [item for shard in path.glob("model-0*") for item in load_file(shard).items()]
    for file in path.glob("model[.-]*"):
        file.unlink()
    torch.save(dict(whole), path / "pytorch_model.bin")


def reversed_keys(file: str):
    def change(path: Path) -> None:
        content = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(dict(reversed(content.items()))))

    return change


def copied(file: str, to: str):
    return lambda path: shutil.copy(path / file, path / to)


def token_renamed(path: Path) -> None:
    file = path / "tokenizer.json"
    file.write_text(file.read_text().replace('"w7"', '"w77"'))


def shard_chosen(path: Path) -> None:
    edit(path, "config.json", transformers_weights=min(path.glob("model-0*")).name)


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
    "words of no tokenizer": (appended("codes.tiktoken", "x"), False),
    "another GGUF": (appended("model.gguf", "x"), False),
    "how text is generated": (appended("generation_config.json", " "), False),
    "how chats are written": (appended("chat_template.jinja", "x"), False),
    "a note": (appended("NOTE.txt", "x"), False),
    "a backup of the configuration": (copied("config.json", "config.json~"), False),
    "a backup of the tokenizer": (copied("tokenizer.json", "tokenizer.old.json"), False),
    "a backup of a shard": (copied("config.json", "model-00001 (copy).safetensors"), False),
    "arguments of training as JSON": (appended("training_args.json", "{}"), False),
    "the names of shards": (shards_renamed, False),
    "the number of shards": (resharded, False),
    "indentation": (reformatted("config.json", indent=8), False),
    "the order of keys": (reformatted("config.json", sort_keys=True), False),
    "the tokenizer's indentation": (reformatted("tokenizer_config.json", indent=7), False),
    "the order of the tokenizer's keys": (reversed_keys("tokenizer_config.json"), False),
    "the indentation of a vocabulary": (reformatted("tokenizer.json", indent=3), False),
    "white space after a vocabulary": (appended("tokenizer.json", "\n "), False),
    "a template of chats": (edited("tokenizer_config.json", chat_template="{{x}}"), False),
    "where it was loaded from": (edited("config.json", _name_or_path="/somewhere"), False),
    "who wrote it": (edited("config.json", transformers_version="4.1"), False),
    "a cache of generation": (edited("config.json", use_cache=False), False),
    "the data type that it was saved in": (edited("config.json", dtype="float16"), False),
    "as older versions spell it": (edited("config.json", torch_dtype="float16"), False),
    "a weight": (weight_changed, True),
    "a file of all weights": (whole_beside, True),
    "another file chosen": (shard_chosen, True),
    "a lost shard": (lambda path: min(path.glob("model-0*.safetensors")).unlink(), True),
    "the configuration": (edited("config.json", rope_theta=5.0), True),
    "a nested key": (edited("config.json", rope_scaling={"factor": 2.0}), True),
    "a token": (token_renamed, True),
    "what a quantisation is": (edited("config.json", quantization_config={"dtype": "x"}), True),
    "special tokens": (edited("tokenizer_config.json", eos_token="yes"), True),
    "added tokens": (appended("added_tokens.json", "{}"), True),
    "a vocabulary": (appended("vocab.txt", "x"), True),
    "a sentencepiece model": (appended("tokenizer.model", "x"), True),
    "a configuration that is no JSON": (appended("config.json", "}"), True),
}  # fmt: skip


CHANGES_WITH_CODE = {
    "a comment in its code": (appended("modeling_my.py", "# why\n"), False),
    "code that is not named": (appended("convert.py", "z = 1\n"), False),
    "its code": (appended("modeling_my.py", "y = 1\n"), True),
    "what its code imports": (appended("layers/attention.py", "y = 1\n"), True),
    "a file that its code may open": (appended("codes.tiktoken", "x"), True),
    "documentation beside code": (appended("README.md", "x"), False),
}


@pytest.mark.parametrize("what", CHANGES_WITH_CODE)
def test_what_code_may_read_counts(with_code, what):
    change, counts = CHANGES_WITH_CODE[what]
    before = fingerprint(with_code)
    change(with_code)
    assert (fingerprint(with_code) != before) == counts


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


def test_pickled_weights_count_by_what_they_are(path):
    pickled(path)
    before = fingerprint(path)
    weights = torch.load(path / "pytorch_model.bin")
    torch.save(dict(reversed(weights.items())), path / "pytorch_model.bin")
    assert fingerprint(path) == before
    weights["model.norm.weight"][3] += 1
    torch.save(weights, path / "pytorch_model.bin")
    assert fingerprint(path) != before


@pytest.mark.parametrize("told", ["same directory", "an adapter itself: merge that one"])
def test_an_adapter_of_an_adapter_is_refused(path, told):
    first, second = path, path.parent / "second"
    second.mkdir()
    names = {first: second, second: first} if "itself" in told else {first: first}
    for adapter, of in names.items():
        described = {"base_model_name_or_path": str(of)}
        (adapter / "adapter_config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=told):
        fingerprint(first)
    assert told in " ".join(problems(first))


WEIGHTS = "model-00001-of-00006.safetensors"
DAMAGES = {
    "cut in its header": (WEIGHTS, lambda data: data[:100], r"cut short .*copy or download"),
    "cut in its tensors": (WEIGHTS, lambda data: data[:-9], r"cut short .*[\d,]+ bytes instead"),
    "longer than it was": (WEIGHTS, lambda data: data + b"x", r"cut short or .* instead of"),
    "empty": (WEIGHTS, lambda data: b"", r"\(it is empty\): copy or download it again"),
    "a web page": (WEIGHTS, lambda data: b"\n<!DOCTYPE html>", r"a web page, .*download it again"),
    "a pointer": ("tokenizer.json", lambda data: POINTER, r"pointer of Git LFS, .*`git lfs pull`"),
    "half an index": ("model.safetensors.index.json", lambda data: data[:50], r"it is not JSON"),
    "half a tokenizer": ("tokenizer.json", lambda data: data[:50], r"damaged \(it is not JSON"),
    "half a zip": ("pytorch_model.bin", lambda data: data[:-100], r"its end is missing"),
    "no pickle": ("pytorch_model.bin", lambda data: b"{}", r"torch did not save it"),
}  # fmt: skip
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_told_with_the_file_and_a_remedy(path, what):
    name, change, told = DAMAGES[what]
    if name == "pytorch_model.bin":
        pickled(path)
    assert problems(path) == []
    (path / name).write_bytes(change((path / name).read_bytes()))
    [problem] = problems(path)
    assert problem.startswith(f"models.m.source: {path / name} is ") and re.search(told, problem)
    with pytest.raises(ModelError, match=re.escape(str(path / name))):  # of a hub model, say
        resolve(str(path), None, None, path.parent / "converted")


def problems(path: Path) -> list[str]:
    entry = {"source": str(path), "gguf_file": None, "device_map": "cpu"}
    return model_checks.problems("m", entry, path.parent)


def test_the_files_of_all_tokenizers_count():
    """Those that the classes of transformers name."""
    home = Path(transformers.__file__).parent
    sources = (file.read_text() for file in home.rglob("tokenization_*.py"))
    tables = [
        table for text in sources for table in re.findall(r"VOCAB_FILES_NAMES = {([^}]*)}", text)
    ]
    named = {name for table in tables for name in re.findall(r'"([\w.-]+\.\w+)"', table)}
    assert len(named) > 15
    assert not {name for name in named if not OPENED.fullmatch(name)}


def test_a_gguf_file_counts_alone_and_not_by_its_name(tmp_path):
    (tmp_path / "a.gguf").write_text("x")
    before = fingerprint(tmp_path, "a.gguf")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert fingerprint(tmp_path, "b.gguf") == before
    (tmp_path / "b.gguf").write_text("y")
    assert fingerprint(tmp_path, "b.gguf") != before


def test_every_byte_of_a_large_file_counts(large):
    found = {fingerprint(large.parent)}
    for offset in (0, hashes.LARGE // 3, hashes.LARGE + 9):
        with large.open("r+b") as changed:
            changed.seek(offset)
            changed.write(b"x")
        found.add(fingerprint(large.parent))
    assert len(found) == 4


def test_a_large_file_is_read_once(large, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", -1)
    first = fingerprint(large.parent)
    monkeypatch.setattr(hashes, "read", lambda path: pytest.fail(f"{path} is read again"))
    assert fingerprint(large.parent) == first


@pytest.mark.parametrize("how", ["in place", "with its times put back"])
def test_a_large_file_of_the_hub_is_not_known_by_its_name(large, monkeypatch, how):
    """A blob is called by the SHA-256 of what was downloaded, whatever was done to it since."""
    monkeypatch.setattr(hashes, "SETTLED", -1)
    blob = large.parent.parent / "blobs" / hashes.read(large)
    blob.parent.mkdir()
    large.rename(blob)
    large.symlink_to(blob)
    before, times = fingerprint(large.parent), blob.stat()
    with blob.open("r+b") as changed:
        changed.seek(-1, 2)
        changed.write(b"x")
    if how != "in place":
        os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(large.parent) != before


def test_of_what_has_just_changed_nothing_is_remembered(large):
    """Another change in the same tick of the file system's clock would leave the same times."""
    found = []
    for settled in (hashes.SETTLED, hashes.SETTLED, -1, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hashes, "SETTLED", settled)
            memory = hashes.Memory()
            memory.recall(large, "", lambda path: found.append(path) or "found")
            memory.save()
    assert len(found) == 3


def test_transformers_is_not_imported():
    """Importing it takes seconds, and planning needs the fingerprint at every start."""
    code = "import sys, headcount.models.fingerprint; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
