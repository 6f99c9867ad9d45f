"""What lm-eval reads is read, and nothing else: task files, documents, functions of all kinds."""

import csv
import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml as pyyaml
from lm_eval.tasks import TaskManager

from headcount.study import checks, configuration
from headcount.tasks import loading, prompts, spec
from headcount.tasks.files import TaskError
from headcount.tasks.spec import Limits, TaskRequest

FEW = Limits(calibration=4, evaluation=6)
QUIZ = {
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "doc_to_text": "Review: {{text}}\nSentiment:",
    "doc_to_choice": ["bad", "good"],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}
SPLITS = {"train": 9, "validation": 7}


def documents(split: str) -> list[dict]:
    return [{"text": f'é, "{split}"; {i}', "label": i % 2} for i in range(SPLITS[split])]


def write_task(path: Path, **keys) -> Path:
    """A task file of the name of `path`, QUIZ with other keys (None: without)."""
    config = {"task": path.stem, **QUIZ, **keys}
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in config.items() if value is not None}
    path.write_text(pyyaml.safe_dump(kept, allow_unicode=True), encoding="utf-8")
    return path


def examine(yaml: Path, shots=(0,)) -> spec.TaskSpec:
    return spec.resolve(yaml, TaskRequest(shots, FEW))


def of_lm_eval(yaml: Path) -> list[tuple[str, str]]:
    """(context, continuation) of lm-eval's own requests."""
    manager = TaskManager(include_path=str(yaml.parent), include_defaults=False)
    task = manager.load([yaml.stem])["tasks"][yaml.stem]
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=FEW.evaluation)
    return [request.args for request in task.instances]


def of_ours(yaml: Path) -> list[tuple[str, str]]:
    rows = prompts.prepare(yaml, 0, FEW, seed=0)
    return [(r["context"], r["continuation"]) for r in rows if r["split"] == "evaluation"]


# --- documents ---


def write_csv(path: Path, rows: list[dict], encoding="utf-8", header=True, **how) -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, [*rows[0]], **how)
        if header:
            writer.writeheader()
        writer.writerows(rows)


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_zip(path: Path, rows: list[dict]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.jsonl", lines(rows))


def write_arrow(path: Path, rows: list[dict]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def late(rows: list[dict]) -> list[dict]:
    """The last document alone has another field."""
    return [*rows[:-1], {**rows[-1], "hint": "warm"}]


HINT = {"doc_to_text": "{{text}}{% if hint %} ({{hint}}){% endif %}"}
# dataset_path, the ends of its files, what writes one, what else dataset_kwargs say, other keys.
WAYS = {
    "tabs": ("csv", ".tsv", lambda p, r: write_csv(p, r, delimiter="\t"), {"sep": "\t"}, {}),
    "another quote": (
        "csv",
        ".csv",
        lambda p, r: write_csv(p, r, quotechar="|", delimiter=";"),
        {"quotechar": "|", "sep": ";"},
        {},
    ),
    "lines that are left out": (
        "csv",
        ".csv",
        lambda p, r: (
            write_csv(p, r),
            p.write_text("# a remark\n" + p.read_text("utf-8"), "utf-8"),
        ),
        {"skiprows": 1},
        {},
    ),
    "renamed columns": (
        "csv",
        ".txt",
        lambda p, r: write_csv(p, r, encoding="utf-16"),
        {"encoding": "utf-16", "names": ["words", "class"], "header": 0},
        {"doc_to_text": "{{words}}", "doc_to_target": "class"},
    ),
    "compressed lines": (
        "json",
        ".jsonl.gz",
        lambda p, r: p.write_bytes(gzip.compress(lines(r).encode())),
        {},
        {},
    ),
    "an archive": ("json", ".zip", write_zip, {}, {}),
    "lines in another encoding": (
        "json",
        ".json",
        lambda p, r: p.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in r), "latin-1"
        ),
        {"encoding": "latin-1"},
        {},
    ),
    "a list in an object": (
        "json",
        ".json",
        lambda p, r: p.write_text(json.dumps({"about": 1, "rows": r}, indent=2)),
        {"field": "rows"},
        {},
    ),
    "a field of the last document": (
        "json",
        ".jsonl",
        lambda p, r: p.write_text(lines(late(r))),
        {},
        HINT,
    ),
    "lines of text": (
        "text",
        ".txt",
        lambda p, r: p.write_text("\n".join(x["text"] for x in r), "utf-8"),
        {},
        {"doc_to_target": "{{1}}"},
    ),
    "arrow": ("arrow", ".arrow", write_arrow, {}, {}),
    "some columns of Parquet": (
        "parquet",
        ".pq",
        lambda p, r: pq.write_table(pa.Table.from_pylist(late(r)), p),
        {"columns": ["label", "text"]},
        {},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_documents_are_read_as_lm_eval_reads_them(way, tmp_path):
    path, end, write, kwargs, keys = WAYS[way]
    files = {split: tmp_path / f"{split}{end}" for split in SPLITS}
    for split, file in files.items():
        write(file, documents(split))
    kwargs = {**kwargs, "data_files": {split: str(file) for split, file in files.items()}}
    read = {"dataset_path": path, "dataset_kwargs": kwargs}
    yaml = write_task(tmp_path / "tasks" / "way.yaml", **{**read, **keys})
    assert examine(yaml).evaluated == "validation"
    assert of_ours(yaml) == of_lm_eval(yaml)
    write_task(yaml, **{**read, **keys, "doc_to_text": "{{wrong}}"})
    with pytest.raises(TaskError, match="doc_to_text names 'wrong', its documents have"):
        examine(yaml)


def write_sentences(path: Path, rows: list[dict]) -> None:
    """A word a line, and an empty line after each sentence."""
    path.write_text("".join(f"{path.stem}\nnumber\n{i}\n\n" for i in range(len(rows))))


def test_files_of_any_reader_count_by_their_content(tmp_path):
    """Also of one that is rarely used, by names that begin in a directory of documents."""
    for split in SPLITS:
        write_sentences(tmp_path / f"{split}.conll", documents(split))
    files = {split: f"{split}.conll" for split in SPLITS}
    kwargs = {"data_dir": str(tmp_path), "data_files": files}
    keys = {"dataset_path": "conll", "doc_to_text": "{{tokens | join(' ')}}:"}
    keys |= {"doc_to_target": "{{tokens[2] | int % 2}}"}
    yaml = write_task(tmp_path / "tasks" / "way.yaml", dataset_kwargs=kwargs, **keys)
    limits = Limits(0, None)
    spec.resolve(yaml, TaskRequest((0,), limits, calibrate=False))
    rows = prompts.prepare(yaml, 0, limits, seed=0, splits=["evaluation"])
    ours = [(row["context"], row["continuation"]) for row in rows]
    assert ours[:12] == of_lm_eval(yaml) and ours[0] == ("validation number 0:", " bad")
    before = loading.data_content(yaml)
    write_sentences(tmp_path / "validation.conll", documents("validation")[1:])
    assert loading.data_content(yaml) != before
    (tmp_path / "train.conll").unlink()
    with pytest.raises(
        TaskError, match=r"the data file .*train\.conll of its split 'train' is not"
    ):
        examine(yaml)


@pytest.fixture
def quiz(tmp_path):
    """A function that writes a task of ordinary documents, with other keys."""
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text(lines(documents(split)))

    def write(name="quiz.yaml", **keys) -> Path:
        files = {split: str(tmp_path / f"{split}.jsonl") for split in SPLITS}
        read = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
        return write_task(tmp_path / "tasks" / name, **{**read, **keys})

    return write


@pytest.mark.parametrize(
    "template",
    [
        "{% macro shout(word) %}{{word | upper}}!{% endmacro %}{{shout(text)}}",
        "{{text}}{% if nowhere is defined %}{{nowhere}}{% endif %}{{nowhere2 | default('')}}",
        "{% set ns = namespace(n=0) %}{% for c in text %}{% set ns.n = c %}{% endfor %}{{ns.n}}!",
        "{{text | regex_replace('[0-9]', 'n')}}{% for i in range(2) %}{{loop.index}}{% endfor %}",
        "{% with t = text[2:] %}{{t}}{% endwith %}",
    ],
)
def test_a_template_that_lm_eval_renders_is_right(template, quiz):
    yaml = quiz(doc_to_text=template)
    examine(yaml)
    assert of_ours(yaml) == of_lm_eval(yaml)


@pytest.mark.parametrize(
    "keys,told",
    [
        ({"doc_to_text": "{{text.inner.deep}}"}, "doc_to_text cannot be rendered for document 0"),
        (
            {"doc_to_text": "{{text | no_filter}}"},
            "doc_to_text is not a valid template: No filter named",
        ),
        ({"doc_to_text": "{% if label %}{{lable}}{% endif %}"}, "names 'lable', .* mean label"),
        ({"doc_to_text": "{{txt}}", "doc_to_target": "lable"}, "names 'txt', .* mean text"),
        ({"doc_to_choice": "{{text}}"}, "doc_to_choice cannot be rendered for document 0"),
    ],
)
def test_a_template_that_lm_eval_cannot_render_is_told(keys, told, quiz):
    yaml = quiz(**keys)
    with pytest.raises(TaskError, match=told):
        examine(yaml)
    with pytest.raises(Exception, match=r"."):
        of_lm_eval(yaml)


def test_no_more_is_read_than_matters(tmp_path):
    """Documents by the gigabyte are not read whole by a check: their end is no JSON here."""
    many = "".join(json.dumps({"text": "w" * 1000, "label": i % 2}) + "\n" for i in range(15_000))
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text(many + "no JSON")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in SPLITS}
    read = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    assert examine(write_task(tmp_path / "tasks" / "quiz.yaml", **read)).task == "quiz"


# --- functions ---

TARGET = "def target(doc):\n    return doc['label']\n"
ADDS = "import sys\nsys.path.append('HELPERS')\nfrom helping import target\n"
ASKED = "def __getattr__(name):\n    return lambda doc: doc['label']\n"
FUNCTIONS = {  # file, the function's name, what the file holds
    "of a package in a package": ("outer/inner/deep.py", "outer.inner.deep.target", TARGET),
    "of a package itself": ("whole/__init__.py", "whole.target", TARGET),
    "of a file beside that is found by a path": ("tasks/adds.py", "adds.target", ADDS),
    "made when it is asked for": ("asked.py", "asked.target", ASKED),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_is_found_where_lm_eval_finds_it(kind, quiz, tmp_path, monkeypatch):
    file, name, text = FUNCTIONS[kind]
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    for name_of in ("helpers", "whole"):
        (tmp_path / name_of).mkdir()
    (tmp_path / "helpers" / "helping.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    yaml = quiz(doc_to_target="TARGET")
    config = yaml.read_text("utf-8")
    (tmp_path / file).write_text(text.replace("HELPERS", str(tmp_path / "helpers")))
    yaml.write_text(config.replace("TARGET", f"!function {name}"), "utf-8")
    examine(yaml)
    assert of_ours(yaml) == of_lm_eval(yaml)
    yaml.write_text(config.replace("TARGET", "!function outer.nowhere.target"), "utf-8")
    with pytest.raises(TaskError, match=r"is not there, and no module 'outer\.nowhere' is inst"):
        examine(yaml)


def test_a_function_of_lm_evals_own_tasks_is_found(quiz):
    yaml = quiz(process_docs="DOCS")
    for name, told in (("process_docs", None), ("proces_docs", "did you mean process_docs")):
        function = f"!function lm_eval.tasks.hellaswag.utils.{name}"
        yaml.write_text(
            quiz(process_docs="DOCS").read_text("utf-8").replace("DOCS", function), "utf-8"
        )
        if told is None:
            assert examine(yaml).task == "quiz"
            continue
        with pytest.raises(TaskError, match=told):
            examine(yaml)


# --- files ---


@pytest.mark.parametrize("stale", ["__pycache__", ".ipynb_checkpoints", "deep/.ipynb_checkpoints"])
def test_a_file_that_lm_eval_passes_over_is_no_task(stale, quiz, tmp_path):
    yaml = quiz()
    quiz(f"{stale}/quiz.yaml", doc_to_text="Old: {{text}}", tag="olden")
    assert loading.find("quiz", yaml.parent) == yaml
    assert of_ours(loading.find("quiz", yaml.parent)) == of_lm_eval(yaml)
    with pytest.raises(TaskError, match="unknown task 'olden'"):
        loading.expand(["olden"], yaml.parent)


NAMES = {
    "in one line": '{"task": "mine", "include": "_template"}',
    "of several words of YAML": "include: _template\n'task' : >-\n  mine\n",
    "from the file that it includes": "include: _named\n",
}


@pytest.mark.parametrize("way", NAMES)
def test_a_task_is_found_however_its_name_is_written(way, quiz):
    yaml = quiz("_template", task="template")
    (yaml.parent / "_named").write_text("include: _template\ntask: mine\n")
    path = yaml.parent / "other.yaml"
    path.write_text(NAMES[way])
    assert loading.find("mine", yaml.parent) == path
    manager = TaskManager(include_path=str(yaml.parent), include_defaults=False)
    assert manager.task_index["mine"].yaml_path == path


@pytest.mark.parametrize("kind", ["task", "group", "tag"])
def test_two_definitions_of_a_name_are_told_with_their_files(kind, quiz):
    yaml, copy = quiz(), quiz("quiz copy.yaml", task="quiz")
    told = f"'quiz' is defined in {copy} and in {yaml}: rename"
    if kind == "group":
        copy.write_text("group: quiz\ntask: [other]\n")
    if kind == "tag":
        copy.write_text(copy.read_text("utf-8").replace("task: quiz", "task: other\ntag: quiz"))
        told = rf"'quiz' is a task \({yaml}\), and a tag of other: rename"
    with pytest.raises(TaskError, match=told):
        loading.expand(["quiz"], yaml.parent)


def test_a_group_that_holds_itself_or_nothing_is_told(tmp_path):
    for name, members in (("outer", ["inner"]), ("inner", ["outer"]), ("empty", None)):
        (tmp_path / f"{name}.yaml").write_text(pyyaml.safe_dump({"group": name, "task": members}))
    with pytest.raises(TaskError, match=r"'outer' contains itself \(outer > inner > outer\)"):
        loading.expand(["outer"], tmp_path)
    with pytest.raises(TaskError, match="group 'empty' lists no tasks"):
        loading.expand(["empty"], tmp_path)


def test_files_that_include_each_other_are_told(quiz):
    yaml = quiz(include="other.yaml")
    (yaml.parent / "other.yaml").write_text("include: quiz.yaml\n")
    with pytest.raises(TaskError, match=r"quiz\.yaml is included twice"):
        examine(loading.find("quiz", yaml.parent))


def test_a_task_in_the_place_of_one_of_lm_evals_is_told(quiz):
    yaml = quiz("copa.yaml")
    assert str(yaml) in (told := loading.shadowed("copa", yaml.parent))
    assert "lm_eval/tasks/super_glue/copa/default.yaml" in told
    assert loading.shadowed("quiz", yaml.parent) is None and loading.shadowed("copa", None) is None


# --- names ---

FIT = ["plain", "größe", "mmlu:(general)", "a.b-c+d", "depths", "2024"]
UNFIT = ["aggregate", "depth", "random-7", "random-words", "closest", "farthest", "own"]
UNFIT += ["{x}", "a{b", "a/b", "..", ".hidden", "-x", "a b", "a*", "a[b]", "<a>", "a'b", "x" * 201]


def test_names_that_no_artifact_can_have_are_told_with_their_file(quiz):
    for number, name in enumerate([*FIT, *UNFIT]):
        yaml = quiz(f"{number}.yaml", task=name, doc_to_text="{{text}}")
    quiz("all.yaml").write_text(pyyaml.safe_dump({"group": "all", "task": [*FIT, *UNFIT]}))
    config = configuration.completed(
        {"models": {}, "tasks": ["all"], "task_path": str(yaml.parent)}
    )
    problems = checks.check({**config, "limits": {"calibration": 4, "evaluation": 4}}).problems
    told = [problem for problem in problems if "its name" in problem]
    for number, name in enumerate(UNFIT, start=len(FIT)):
        start = f"task {name!r} ({yaml.parent / f'{number}.yaml'}): its name "
        assert [problem for problem in told if problem.startswith(start)], name
    assert len(told) == len(UNFIT)
