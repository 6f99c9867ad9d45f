"""A task counts by what lm-eval reads of it and by its documents, not by names and places."""

import json
import random
import shutil
from pathlib import Path

import pytest
import tiny
import yaml as pyyaml
from lm_eval.tasks._yaml_loader import load_yaml

from headcount.artifacts import hashes, storage
from headcount.study import configuration
from headcount.tasks import files as task_files, loading
from headcount.tasks.files import TaskError

CODE = {
    "functions": "from helping import tool\nimport nearby\ndef shown(doc):\n    return tool(doc)\n",
    "nearby": "",
    "unrelated": "",
}
HELP = {"helping/__init__": "from .inner import tool\n", "helping/inner": "def tool(d): return 'Q'"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A task that includes a file, calls functions, and has a package of helpers on the path."""
    home = tmp_path / "tasks"
    tiny.save_tasks(home, ("tiny_a",))
    task = pyyaml.safe_load((home / "tiny_a.yaml").read_text())
    base = {key: task.pop(key) for key in ("output_type", "metric_list", "doc_to_target")}
    (home / "base").mkdir()
    (home / "base" / "common.yaml").write_text(
        pyyaml.safe_dump(base) + "process_docs: !function there.same\n"
    )
    (home / "base" / "there.py").write_text("def same(docs):\n    return docs\n")
    task |= {"doc_to_choice": {"a": "yes", "b": "no"}, "include": "base/common.yaml"}
    (home / "tiny_a.yaml").write_text(
        pyyaml.safe_dump(task, sort_keys=False).replace(
            "doc_to_text: 'Q: {{question}} A:'", "doc_to_text: !function functions.shown"
        )
    )
    for name, text in CODE.items():
        (home / f"{name}.py").write_text(text)
    for name, text in HELP.items():
        path = tmp_path / "path" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    return home


def meant(home: Path) -> str:
    """As text, in which the order of keys shows."""
    (yaml,) = home.glob("*.yaml")
    return json.dumps([loading.meaning(yaml), loading.data_content(yaml)])


def replaced(file: str, old: str, new: str):
    def change(home: Path) -> None:
        path = home / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def appended(file: str, text: str):
    return lambda home: (home / file).open("a").write(text)


def reordered(home: Path) -> None:
    """The file written again with its keys in another order, data_files included."""
    text = (home / "tiny_a.yaml").read_text().replace("!function functions.shown", "F")
    config = pyyaml.safe_load(text)
    files = config["dataset_kwargs"]["data_files"]
    config["dataset_kwargs"]["data_files"] = dict(reversed(files.items()))
    text = pyyaml.safe_dump(dict(reversed(config.items())), sort_keys=False, width=20)
    (home / "tiny_a.yaml").write_text(
        text.replace("doc_to_text: F", "doc_to_text: !function functions.shown")
    )


def data_renamed(home: Path) -> None:
    (home / "data" / "tiny_a").rename(home / "elsewhere")
    (home / "elsewhere" / "train.jsonl").rename(home / "elsewhere" / "learn.jsonl")
    replaced("tiny_a.yaml", "data/tiny_a/train.jsonl", "elsewhere/learn.jsonl")(home)
    replaced("tiny_a.yaml", "data/tiny_a/validation", "elsewhere/validation")(home)


choices_reordered = replaced("tiny_a.yaml", "a: 'yes'\n  b: 'no'", "b: 'no'\n  a: 'yes'")
CHANGES = {
    "a comment in the task": (appended("tiny_a.yaml", "# why\n"), False),
    "a comment in an included file": (appended("base/common.yaml", "# why\n"), False),
    "a comment in its code": (appended("functions.py", "# why\n"), False),
    "a comment in the code of a helper": (appended("../path/helping/inner.py", "# why\n"), False),
    "the order of keys": (reordered, False),
    "the file's name": (lambda home: (home / "tiny_a.yaml").rename(home / "x.yaml"), False),
    "the task's tag": (appended("tiny_a.yaml", "tag: mine\n"), False),
    "a module beside it": (appended("unrelated.py", "x = 1\n"), False),
    "a new module beside it": (appended("utils.py", "x = 1\n"), False),
    "a file beside its data": (appended("data/tiny_a/notes.txt", "x"), False),
    "the names of its data": (data_renamed, False),
    "a prompt": (appended("tiny_a.yaml", "description: Say\n"), True),
    "a key of an included file": (replaced("base/common.yaml", "answer", "id"), True),
    "the order of choices": (choices_reordered, True),
    "its version": (replaced("tiny_a.yaml", "version: 1.0", "version: 2.0"), True),
    "its code": (appended("functions.py", "x = 1\n"), True),
    "a module that its code imports": (appended("nearby.py", "x = 1\n"), True),
    "code that an included file names": (appended("base/there.py", "x = 1\n"), True),
    "a helper on the path": (appended("../path/helping/__init__.py", "x = 1\n"), True),
    "what a helper imports": (replaced("../path/helping/inner.py", "'Q'", "'Who'"), True),
    "another function": (replaced("tiny_a.yaml", "functions.shown", "functions.tool"), True),
    "a text of a function's name": (replaced("tiny_a.yaml", "!function ", ""), True),
    "a document": (replaced("data/tiny_a/validation.jsonl", "w2", "w3"), True),
    "an example": (replaced("data/tiny_a/train.jsonl", "w2", "w3"), True),
    "the splits' roles": (replaced("tiny_a.yaml", "g_split: train", "g_split: other"), True),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_decides_a_task_counts(home, what):
    change, counts = CHANGES[what]
    before = meant(home)
    change(home)
    assert (meant(home) != before) == counts


def test_where_a_task_lies_does_not_count(home, tmp_path, monkeypatch):
    before = meant(home)
    monkeypatch.chdir(tmp_path)
    assert meant(Path("tasks")) == before
    shutil.copytree(home, tmp_path / "copy")
    replaced("tiny_a.yaml", str(home), str(tmp_path / "copy"))(tmp_path / "copy")
    assert meant(tmp_path / "copy") == before
    (tmp_path / "link").symlink_to(home)
    assert meant(tmp_path / "link") == before


def test_code_that_does_not_parse_is_named(home):
    (home / "nearby.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(TaskError, match=r"nearby\.py, line 2: "):
        meant(home)


def test_packages_of_a_tasks_functions_count(home):
    assert "scikit-learn" not in meant(home)
    (home / "nearby.py").write_text("from sklearn.metrics import f1_score\n")
    assert "scikit-learn" in meant(home)


def test_the_configuration_is_that_which_lm_eval_resolves():
    """Of lm-eval's own tasks, whose files include others and name functions in other folders."""
    own = task_files.defined(task_files.shipped(), "task")
    for name in random.Random(1).sample(sorted(own), 60):
        yaml = own[name].relative_to(task_files.site_packages())
        theirs = load_yaml(own[name], resolve_func=False)
        ours = loading.meaning(yaml)["config"]
        config = task_files.with_included(own[name])
        functions = {key for key, value in config.items() if isinstance(value, task_files.Function)}
        for key in functions:
            assert theirs[key] == str(config[key].home / config[key])
        decided = theirs.keys() - loading.NO_MEANING - loading.DOCUMENTS
        assert ours.keys() == decided
        for key in decided - functions:
            if not any(isinstance(v, task_files.Function) for v in task_files.values(config[key])):
                expected = theirs[key]
                if key == "doc_to_choice" and isinstance(expected, dict):
                    expected = [[k, v] for k, v in expected.items()]
                assert ours[key] == task_files.plain(expected), (name, key)


# --- documents ---


STUDY = {"models": {"m": {"source": "s"}}, "tasks": ["a"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"shots": [5.0, 0, 1.0]},
        {"limits": {"calibration": 2500.0}},
        {"induction": {"exclude_fraction": 4e-2}},
        {"levels": {"combined": {"ffns": [0.0, 10, 2e1, 30, 40, 50]}}},
        {"models": {"m": {"source": "s", "memory": 1e3, "threads": 1.0}}},
        {"artifacts": "./artifacts/"},
        {"seed": 0.0, "metrics": {}, "estimator_agreement": {"tasks": None}},
    ],
)
def test_a_study_counts_by_what_it_says_and_not_by_its_spelling(changes):
    """As it is hashed: of 1 and 1.0 the JSON differs."""
    assert not configuration.problems({**STUDY, **changes})
    spelt, plain = (configuration.completed({**STUDY, **more}) for more in (changes, {}))
    assert storage.hash_json(spelt) == storage.hash_json(plain)


@pytest.fixture
def written(tmp_path):
    """A function that writes the task tiny_a, its documents as `kwargs` and others say."""
    tiny.save_tasks(tmp_path, ("tiny_a",))
    (tmp_path / "data" / "tiny_a").rename(tmp_path / "docs")
    config = pyyaml.safe_load((tmp_path / "tiny_a.yaml").read_text())

    def write(**changes) -> Path:
        kept = {key: value for key, value in (config | changes).items() if value is not None}
        (tmp_path / "tiny_a.yaml").write_text(pyyaml.safe_dump(kept))
        return tmp_path / "tiny_a.yaml"

    return write


def in_files(pattern: str):
    return lambda docs: {
        "dataset_kwargs": {
            "data_files": {
                split: f"{docs}/{pattern.format(split)}" for split in ("train", "validation")
            }
        }
    }


SOURCES = {
    "named files": in_files("{}.jsonl"),
    "a wildcard": in_files("{}*.jsonl"),
    "a wildcard of folders": in_files("**/{}.jsonl"),
    "a directory": lambda docs: {"dataset_path": str(docs), "dataset_kwargs": None},
    "a directory to a reader": lambda docs: {"dataset_kwargs": {"data_dir": str(docs)}},
    "files inside of a directory": lambda docs: {
        "dataset_path": str(docs),
        "dataset_kwargs": {"data_files": {"train": "train.jsonl", "validation": "vali*.jsonl"}},
    },
}


@pytest.mark.parametrize("source", SOURCES)
def test_documents_count_by_content_however_they_are_named(written, tmp_path, source):
    docs = tmp_path / "docs"
    before = loading.data_content(written(**SOURCES[source](docs)))
    docs.rename(tmp_path / "moved")
    docs = tmp_path / "moved"
    with pytest.raises(TaskError, match=str(tmp_path / "docs")):
        loading.data_content(tmp_path / "tiny_a.yaml")
    yaml = written(**SOURCES[source](docs))
    (docs / ".hidden").write_text("x")
    assert loading.data_content(yaml) == before
    assert loading.data_content(yaml, tmp_path / "a mirror that is not read") == before
    replaced("validation.jsonl", "w2", "w3")(docs)
    assert loading.data_content(yaml) != before


def test_one_more_file_of_a_wildcard_counts(written, tmp_path):
    yaml = written(**SOURCES["a wildcard"](tmp_path / "docs"))
    before = loading.data_content(yaml)
    shutil.copy(tmp_path / "docs" / "train.jsonl", tmp_path / "docs" / "train-2.jsonl")
    after = loading.data_content(yaml)
    assert after["splits"]["train"] == 2 * before["splits"]["train"]


def test_a_split_that_is_not_used_does_not_count(written, tmp_path):
    files = {split: f"{tmp_path}/docs/{split}.jsonl" for split in ("train", "validation")}
    before = loading.data_content(written(dataset_kwargs={"data_files": files}))
    (tmp_path / "docs" / "more.jsonl").write_text("{}\n")
    more = files | {"test": f"{tmp_path}/docs/more.jsonl"}
    assert loading.data_content(written(dataset_kwargs={"data_files": more})) == before


@pytest.mark.parametrize(
    "changes,counts",
    [
        ({"dataset_name": "other"}, True),
        ({"dataset_path": "who/other"}, True),
        ({"dataset_kwargs": {"revision": "abc"}}, True),
        ({"dataset_kwargs": {"trust_remote_code": True}}, False),
    ],
)
def test_a_dataset_of_the_hub_counts_by_its_name_and_revision(written, changes, counts):
    hub = {"dataset_path": "who/what", "dataset_kwargs": None}
    before = loading.data_content(written(**hub))
    assert (loading.data_content(written(**hub | changes)) != before) == counts


def test_a_mirror_counts_by_what_is_read_of_it(written, tmp_path):
    home = tmp_path / "mirror" / "who__what" / "default"
    home.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (home / f"{split}.parquet").write_text(split)
    yaml = written(dataset_path="who/what", dataset_kwargs=None)
    before = loading.data_content(yaml, tmp_path / "mirror")
    (home / "test.parquet").write_text("of no split that is used")
    (tmp_path / "mirror").rename(tmp_path / "mirrored")
    assert loading.data_content(yaml, tmp_path / "mirrored") == before
    (tmp_path / "mirrored" / "who__what" / "default" / "train.parquet").write_text("other")
    assert loading.data_content(yaml, tmp_path / "mirrored") != before


def test_a_file_that_cannot_be_read_is_named(written, tmp_path, monkeypatch):
    def unreadable(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(hashes, "read", unreadable)
    yaml = written(**SOURCES["named files"](tmp_path / "docs"))
    with pytest.raises(TaskError, match=r"'tiny_a': .*train\.jsonl cannot be read: Permission"):
        loading.data_content(yaml)
