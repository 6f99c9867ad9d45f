"""What is read of a task is what is hashed: past every cache, in every file; the rest is told."""

import csv
import importlib
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import tiny
import yaml as pyyaml

from headcount.tasks import code as task_code, datasets as task_datasets, loading, prompts
from headcount.tasks.files import TaskError
from headcount_workflow import job as job_module, job_task

LIMITS = prompts.Limits(calibration=4, evaluation=3)


@pytest.fixture
def task(tmp_path):
    """A function that writes a task whose prompt is made by code, as `module.function`."""
    tiny.save_tasks(tmp_path / "tasks", ("tiny_a",))
    path = tmp_path / "tasks" / "tiny_a.yaml"
    config = pyyaml.safe_load(path.read_text())

    def write(prompt: str, **changes) -> Path:
        text = pyyaml.safe_dump(config | {"doc_to_text": "PROMPT"} | changes)
        path.write_text(text.replace("PROMPT", f"!function {prompt}"))
        return path

    return write


def rewritten(path: Path, text: str) -> None:
    """Another content of the same size and time, as `cp -p`, rsync and tar can leave it."""
    times = path.stat()
    assert len(text.encode()) == times.st_size
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def contexts(yaml: Path) -> list[str]:
    rows = prompts.prepare(yaml, 0, LIMITS, seed=0, splits=["evaluation"])
    return [row["context"] for row in rows if row["choice"] == 0]


# --- caches below ours ---


def test_documents_of_the_same_time_and_size_are_read_anew(tmp_path):
    """CSV this time; what they hold is read by Python's own reader."""
    tiny.save_tasks(tmp_path, ("tiny_a",))
    config = pyyaml.safe_load((tmp_path / "tiny_a.yaml").read_text())
    for split in ("train", "validation"):
        text = "".join(f"w{i},w1,w2,0\n" for i in range(10, 20))
        (tmp_path / f"{split}.csv").write_text("question,one,two,answer\n" + text)
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    config |= {"dataset_path": "csv", "dataset_kwargs": {"data_files": files}}
    config |= {"doc_to_choice": "{{[one, two]}}"}
    (tmp_path / "tiny_a.yaml").write_text(pyyaml.safe_dump(config))
    data = tmp_path / "validation.csv"
    for old, new in (("w10", "w10"), ("w10", "w33"), ("w33", "w21")):
        rewritten(data, data.read_text().replace(old, new))
        with data.open() as file:
            expected = [f"Q: {row['question']} A:" for row in csv.DictReader(file)][:3]
        assert contexts(tmp_path / "tiny_a.yaml") == expected


def test_code_that_maps_and_filters_documents_runs_each_time(task, tmp_path):
    """The library knows a result by the documents and the name of a module's function."""
    yaml = task("making.shown", process_docs="DOCS")
    yaml.write_text(yaml.read_text().replace("DOCS", "!function making.same"))
    code = tmp_path / "tasks" / "making.py"
    code.write_text(
        "def marked(doc):\n    return {**doc, 'question': 'w1'}\n"
        "def same(docs):\n    return docs.map(marked)\n"
        "def shown(doc):\n    return doc['question']\n"
    )
    assert contexts(yaml) == ["w1"] * 3
    rewritten(code, code.read_text().replace("'w1'", "'w2'"))
    assert contexts(yaml) == ["w2"] * 3


@pytest.mark.parametrize("slice_of_it", ["", "[:6]"])
def test_what_is_made_of_a_hub_dataset_is_kept_for_one_run_alone(
    task, tmp_path, monkeypatch, slice_of_it
):
    """The hub's own copy stays as it was; within a run what was shuffled is shuffled once."""
    load = datasets.load_dataset
    lines = [json.dumps({"choices": ["w3", "w4"], "answer": i % 2}) for i in range(9)]
    (tmp_path / "hub.jsonl").write_text("\n".join(lines))

    def from_the_hub(path, name=None, **_):
        splits = ("train", "validation")
        files = {split: str(tmp_path / "hub.jsonl") for split in splits}
        split = {one: f"{one}{slice_of_it}" for one in splits} if slice_of_it else None
        read = {"data_files": files, "split": split, "cache_dir": str(tmp_path / "cache")}
        return datasets.DatasetDict(load("json", **read))

    monkeypatch.setattr(datasets, "load_dataset", from_the_hub)
    yaml = task("making.shown", process_docs="DOCS", dataset_path="some/questions")
    config = yaml.read_text().replace("DOCS", "!function making.shuffled")
    yaml.write_text(re.sub(r"dataset_kwargs:\n(  .*\n)+", "", config))
    code = tmp_path / "tasks" / "making.py"
    code.write_text(
        "import random\n"
        "def drawn(doc):\n    return {**doc, 'drawn': f\"w1 {random.random()}\"}\n"
        "def shuffled(docs):\n    return docs.map(drawn)\n"
        "def shown(doc):\n    return doc['drawn']\n"
    )
    first = contexts(yaml)
    copies = {path.name for path in (tmp_path / "cache").rglob("*.arrow")}
    assert contexts(yaml) == first
    with task_datasets.uncached():
        loaded = loading.load(yaml)
        assert [*loaded.validation_docs()] == [*loaded.validation_docs()]
    assert loaded.config.custom_dataset is None
    rewritten(code, code.read_text().replace("w1", "w2"))
    assert contexts(yaml) == [one.replace("w1", "w2") for one in first]
    assert {path.name for path in (tmp_path / "cache").rglob("*.arrow")} == copies


def test_compiled_code_and_imported_helpers_are_not_believed(task, tmp_path, monkeypatch):
    """Of two tasks with a helper of one name each has its own, at any moment."""
    homes = [tmp_path / "one", tmp_path / "two"]
    yaml = task("showing.shown")
    for home in homes:
        home.mkdir()
        (home / "helping.py").write_text(f"WORD = '{home.name}'\n")
    (tmp_path / "tasks" / "showing.py").write_text(
        "import helping\ndef shown(doc):\n    return helping.WORD\n"
    )
    for home in homes:
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(home))
            assert contexts(yaml) == [home.name] * 3
            rewritten(home / "helping.py", f"WORD = '{home.name[::-1]}'\n")
            assert contexts(yaml) == [home.name[::-1]] * 3


# --- which file is the code ---


@pytest.mark.parametrize("name", ["types", "json", "numbers", "plain"])
def test_code_in_a_file_named_like_a_standard_module_counts(task, tmp_path, name):
    yaml = task(f"{name}.shown")
    code = tmp_path / "tasks" / f"{name}.py"
    code.write_text("def shown(doc):\n    return 'w1'\n")
    before = loading.meaning(yaml)
    assert contexts(yaml) == ["w1"] * 3
    code.write_text("def shown(doc):\n    return 'w1'  # a comment\n")
    assert loading.meaning(yaml) == before
    code.write_text("def shown(doc):\n    return 'w2'\n")
    assert loading.meaning(yaml) != before
    assert contexts(yaml) == ["w2"] * 3
    assert name == "plain" or "site-packages" not in (importlib.import_module(name).__file__ or "")


def test_a_module_that_shadows_a_standard_one_by_the_path_counts(task, tmp_path, monkeypatch):
    yaml = task("showing.shown")
    (tmp_path / "tasks" / "showing.py").write_text("import graphlib\nshown = graphlib.shown\n")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "graphlib.py").write_text("def shown(doc):\n    return 'w1'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delitem(sys.modules, "graphlib", raising=False)
    before = loading.meaning(yaml)
    (tmp_path / "path" / "graphlib.py").write_text("def shown(doc):\n    return 'w2'\n")
    assert loading.meaning(yaml) != before


# --- files that code opens ---

NAMED = {
    "beside": "open(__file__.replace('showing.py', 'label.txt'))",
    "by a path": "(pathlib.Path(__file__).parent / 'label.txt').open()",
    "in a directory": "open(os.path.join(os.path.dirname(__file__), 'labels', 'inner.txt'))",
    "as a module": "spec_from_file_location('x', os.path.dirname(__file__) + '/' + 'label.txt')",
}
COMPUTED = {
    "a name put together": "open(pathlib.Path(__file__).parent / ('lab' + 'el.txt')).read()",
    "a module": "importlib.import_module('hel' + 'ping').WORD",
    "what comes first": "open(sorted(pathlib.Path(__file__).parent.glob('*.t?t'))[0]).read()",
}
IMPORTS = "import importlib, os, pathlib\nfrom importlib.util import spec_from_file_location\n"


def reading(home: Path, expression: str) -> None:
    (home / "labels").mkdir()
    for file in ("label.txt", "labels/inner.txt"):
        (home / file).write_text("w1")
    (home / "showing.py").write_text(
        f"{IMPORTS}def shown(doc):\n    read = {expression}\n    return 'w1'\n"
    )


@pytest.mark.parametrize("expression", NAMED.values(), ids=NAMED)
def test_a_file_that_the_code_names_counts(task, tmp_path, expression):
    yaml, home = task("showing.shown"), tmp_path / "tasks"
    reading(home, expression)
    before = loading.meaning(yaml)
    assert not task_code.notes(task_code.code_of(yaml))
    for file in ("label.txt", "labels/inner.txt"):
        (home / file).write_text("w2")
    assert loading.meaning(yaml) != before


@pytest.mark.parametrize("what", COMPUTED)
def test_a_file_that_the_code_reads_unnamed_is_told(task, tmp_path, monkeypatch, what):
    yaml, home = task("showing.shown"), tmp_path / "tasks"
    reading(home, COMPUTED[what])
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "helping.py").write_text("WORD = 'w1'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delitem(sys.modules, "helping", raising=False)
    code = task_code.code_of(yaml)
    [note] = task_code.notes(code)
    assert note.startswith("showing.py, line 4: what ")
    with task_code.watched(code) as opened:
        contexts(yaml)
    [told] = task_code.unfollowed(opened, code, task_code.files(yaml))
    file = tmp_path / "path" / "helping.py" if what == "a module" else home / "label.txt"
    assert told.startswith(f"its code reads {file}, ")


def test_what_is_hashed_is_not_told(task, tmp_path):
    yaml = task("showing.shown")
    reading(tmp_path / "tasks", NAMED["beside"])
    code = task_code.code_of(yaml)
    with task_code.watched(code) as opened:
        contexts(yaml)
    assert opened and not task_code.unfollowed(opened, code, task_code.files(yaml))


# --- what changes while a study runs ---


@pytest.fixture
def snakemake(task, tmp_path, monkeypatch):
    """A job that reads a task, as Snakemake describes it to the scripts."""
    monkeypatch.setattr(job_module, "checks", [])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yaml = task("showing.shown", include="common.yaml")
    (tmp_path / "tasks" / "common.yaml").write_text("description: w3\n")
    reading(tmp_path / "tasks", NAMED["beside"])
    place = {"yaml": str(yaml), "datasets": None, "files": task_code.state(task_code.files(yaml))}
    described = {"task": loading.meaning(yaml), "documents": loading.data_content(yaml)}
    wildcards = SimpleNamespace(task="tiny_a")
    params = Params(place=place, **described)
    return SimpleNamespace(params=params, wildcards=wildcards)


class Params(SimpleNamespace):
    def items(self):
        return vars(self).items()


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_temporary_files_go_to_their_own_directory_only_while_documents_are_read(
    snakemake, monkeypatch, before
):
    monkeypatch.delenv("TMPDIR")
    if before:
        monkeypatch.setenv("TMPDIR", before)
    with suppress(ZeroDivisionError), job_task.documents(snakemake):
        own = Path(os.environ["TMPDIR"])
        assert own.is_dir() and own.name != before
        raise ZeroDivisionError
    assert os.environ.get("TMPDIR") == before and not own.exists()


EDITS = {
    "common.yaml": ("w3", "w4"),
    "label.txt": ("w1", "w2"),
    "showing.py": ("'w1'", "'w2'"),
    "data/tiny_a/train.jsonl": ("w2", "w3"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_task_that_is_changed_while_the_study_runs_stops_the_job(snakemake, tmp_path, name):
    path, (old, new) = tmp_path / "tasks" / name, EDITS[name]
    good = path.read_text()
    assert job_task.task(snakemake) == str(tmp_path / "tasks" / "tiny_a.yaml")
    rewritten(path, good.replace(old, new))
    with pytest.raises(TaskError, match=r"tiny_a\.yaml: the task was changed while the study ran"):
        job_module.checks[0]()  # as the job writes
    with pytest.raises(TaskError, match="run it again"):
        job_task.task(snakemake)  # as the next begins
    rewritten(path, good)
    job_task.task(snakemake)  # by content


@pytest.mark.parametrize("name", EDITS)
def test_what_is_changed_and_put_back_while_it_is_read_is_refused(snakemake, tmp_path, name):
    path, (old, new) = tmp_path / "tasks" / name, EDITS[name]
    with job_task.documents(snakemake) as unhashed:
        contexts(Path(snakemake.params.place["yaml"]))
    assert not unhashed
    with pytest.raises(TaskError, match="run it again"), job_task.documents(snakemake):
        good = path.read_text()
        rewritten(path, good.replace(old, new))
        rewritten(path, good)


def test_a_comment_in_a_task_stops_no_job(snakemake, tmp_path):
    with (tmp_path / "tasks" / "showing.py").open("a") as file:
        file.write("# a comment\n")
    job_task.task(snakemake)
    assert json.loads(json.dumps(snakemake.params.task)) == snakemake.params.task
