"""Every kind of task beside lm-eval's own evaluation of it, or refused by name.

`KINDS` and `REFUSED` are the tables: a row is a task of lm-eval's over invented documents, or what
a task file of one's own says beside `QUIZ`.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from unittest.mock import patch

import datasets
import invented
import numpy as np
import pyarrow as pa
import pytest
import tiny
from harness import evaluate

from headcount.artifacts import schemas
from headcount.engine import Masks
from headcount.interop import parity
from headcount.interop.lm_eval_model import HeadcountLM
from headcount.models import loading as model_loading
from headcount.scores.documents import Evaluation, request_pairs
from headcount.tasks import loading, prompts as task_prompts, spec
from headcount.tasks.files import installed
from headcount.tasks.spec import Limits, TaskRequest

FEW = Limits(calibration=2, evaluation=6)

QUIZ = r"""
dataset_path: invented/quiz
output_type: multiple_choice
training_split: train
validation_split: validation
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""

FUNCTIONS = """
import random
import datasets
import invented

def made(**metadata):
    draw = random.Random(0)
    documents = datasets.Dataset.from_list([invented.quiz(draw, i) for i in range(8)])
    return {"train": documents, "validation": documents}

def examples():
    draw = random.Random(1)
    return [invented.quiz(draw, i) for i in range(5)]

def shuffled(documents):
    def shuffle(doc):
        right = doc["choices"][doc["answer"]]
        choices = random.sample(doc["choices"], 3)
        return {"choices": choices, "answer": choices.index(right)}
    return documents.map(shuffle)
"""


@dataclass
class Kind:
    """What a kind of task must come to; by default what `QUIZ` does."""

    task: str  # the name of one of lm-eval's, or lines of YAML that are added to QUIZ
    metrics: str = "acc"  # those that lm-eval prints; the first is the one that is reported
    chance: float | None = 1 / 3  # of the reported one
    shots: tuple[int, ...] = (2,)


KINDS = {
    # --- metrics ---
    "accuracy": Kind("copa", "acc", 1 / 2, shots=(0, 1, 5)),
    "accuracy by length too": Kind("arc_easy", "acc acc_norm", (1 / 3 + 1 / 4) / 2),
    "accuracy by length alone": Kind(
        "leaderboard_musr_murder_mysteries", "acc_norm", 1 / 2, shots=(0,)
    ),
    "accuracy by bytes alone": Kind("metric_list: [{metric: acc_bytes}]", "acc_bytes"),
    "mutual information alone": Kind("metric_list: [{metric: acc_mutual_info}]", "acc_mutual_info"),
    "mutual information too": Kind(
        "metric_list: [{metric: acc}, {metric: acc_mutual_info}]", "acc acc_mutual_info"
    ),
    "F1": Kind("mrpc", "acc f1", 1 / 2),
    "F1 of three classes": Kind("cb", "acc f1"),
    "Matthews correlation": Kind("metric_list: [{metric: acc}, {metric: mcc}]", "acc mcc"),
    "Brier score": Kind("metric_list: [{metric: acc}, {metric: brier_score}]", "acc brier_score"),
    "exact match with one of several answers": Kind("webqs", "exact_match", None, shots=(0,)),
    "metrics of a process_results": Kind("record", "f1 em", None),
    "a probability that is called accuracy": Kind("truthfulqa_mc2", "acc", None, shots=(0,)),
    "one log-likelihood": Kind("lambada_openai", "acc perplexity", None, shots=(0, 2)),
    # --- choices and answers ---
    "choices are contexts": Kind("winogrande", "acc", 1 / 2, shots=(0, 2)),
    "choices are contexts, in a single split": Kind("xwinograd_en", "acc", 1 / 2),
    "several right answers": Kind("doc_to_target: answers", "acc", 1 / 2, shots=(0,)),
    "several right answers to a process_results": Kind(
        "agieval_aqua_rat", "acc acc_norm", None, shots=(0,)
    ),
    "the right answer as text": Kind('doc_to_target: "{{choices[answer]}}"'),
    # --- what is done to prompts and answers ---
    "a filter": Kind("filter_list: [{name: kept, filter: [{function: take_first}]}]"),
    "a description": Kind(r'description: "Choose.\n\n"'),
    "other delimiters": Kind(r'target_delimiter: "\n"; fewshot_delimiter: "\n###\n"'),
    "text before the answer": Kind('gen_prefix: "It is"'),
    "Chinese without spaces": Kind('doc_to_text: "问题{{question}}答案"; target_delimiter: ""'),
    # --- documents ---
    "labels that name no choice": Kind("dataset_name: some", chance=4 / 6 / 3, shots=(0,)),
    "an answer by a date": Kind("dataset_name: typed; doc_to_target: '{{day.year % 3}}'"),
    "an answer by a decimal": Kind(
        "dataset_name: typed; doc_to_target: '{{(price * 2) | int % 3}}'"
    ),
    "an answer by a time and bytes": Kind(
        "dataset_name: typed; doc_to_target: '{{(at.hour + raw[1]) % 3}}'"
    ),
    "one split for everything": Kind("training_split: null; test_split: validation"),
    "the training split is evaluated": Kind("validation_split: train"),
    "choices shuffled while loading": Kind("process_docs: !function functions.shuffled"),
    "choices shuffled, no examples": Kind("gpqa_main_zeroshot", "acc acc_norm", 1 / 4, shots=(0,)),
    "made by a function": Kind("dataset_path: null; custom_dataset: !function functions.made"),
    "files inside of a dataset": Kind(
        """
dataset_path: invented/files
dataset_kwargs: {data_files: {train: data/train.jsonl, validation: data/validation.jsonl}}
"""
    ),
    # --- examples ---
    "no examples, ever": Kind("blimp_adjunct_island", "acc", 1 / 2, shots=(0,)),
    "another number of examples by default": Kind("num_fewshot: 3"),
    "examples from the evaluated split": Kind("training_split: null; fewshot_split: validation"),
    "the first examples of the evaluated split": Kind(
        "training_split: null; fewshot_config: {split: validation, sampler: first_n}"
    ),
    "examples of a split that is named nowhere else": Kind("fewshot_config: {split: test}"),
    "examples made by a function": Kind("fewshot_config: {samples: !function functions.examples}"),
    "examples in the task file": Kind(
        """
fewshot_config:
  sampler: first_n
  samples:
    - {question: one, choices: [a, b, c], answer: 0}
    - {question: two, choices: [a, b, c], answer: 1}
"""
    ),
}

# Kind -> task, shots, what the refusal says. By the files alone, before anything runs:
REFUSED = {
    "text is generated": ("gsm8k", 0, "generate_until"),
    "the likelihood of a whole text": ("wikitext", 0, "loglikelihood_rolling"),
    "a Python class": ("squadv2", 0, "class"),
    "no examples, but shots": ("blimp_adjunct_island", 1, "num_fewshot: 0"),
    "metrics that are better when lower": ("crows_pairs_english", 0, "likelihood_diff"),
    "no metric of a single document": ("cola", 0, "mcc"),
    "a filter that changes answers": (
        "filter_list: [{name: kept, filter: [{function: majority_vote}]}]",
        0,
        "majority_vote",
    ),
    "more shots than examples": ("num_fewshot: 1", 9, "9 shots"),
    "more shots than examples beside the query": (
        "test_split: validation; fewshot_split: validation",
        8,
        "8 shots need 9",
    ),
    "as many shots as examples, of which a query is one": (
        "test_split: validation; fewshot_config: {split: validation, sampler: first_n}",
        8,
        "8 shots need 9",
    ),
    "fewer listed examples than shots": (
        "fewshot_config: {sampler: first_n, samples: [{question: one, choices: [a], answer: 0}]}",
        2,
        "2 shots need 2 examples, there are 1",
    ),
    "labels are hidden": ("dataset_name: hidden", 0, "labels are hidden"),
    "a split that the mirror lacks": ("test_split: challenge", 0, r"challenge\.parquet"),
    "a dataset that the mirror lacks": ("dataset_path: not/there", 0, "not__there"),
}
# What lm-eval cannot make examples of: task, number of shots.
NO_EXAMPLES = {
    "several right answers by number": ("webqs", 1),
    "several right answers in a template": ("agieval_aqua_rat", 1),
    "examples whose label names no choice": ("dataset_name: some", 5),
}
# By the model's tokens:
REFUSED_LATER = {
    "a choice that the context swallows": (
        "doc_to_text: in the lanter; doc_to_choice: [x, n, s]; target_delimiter: ''",
        "document 0, choice 1",
    ),
    "a choice longer than the window": (
        f"doc_to_choice: [a, b, {'harbour ' * 1100}]",
        "document 0, choice 2",
    ),
}


def is_shipped(task):
    return task.isidentifier()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A tiny model that reads text, and lm-eval's own with its weights."""
    path = tiny.save_reader(tmp_path_factory.mktemp("reader"))
    return model_loading.load(path), parity.recorder(path, "float32", "cpu")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mirror")
    invented.save_mirror(directory, [*invented.STUDY, *invented.KINDS])
    files = directory / "invented__files" / "data"
    files.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_parquet(
            str(directory / "invented__quiz/default" / f"{split}.parquet"),
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        )
        rows.to_json(files / f"{split}.jsonl")
    return directory


@pytest.fixture
def yaml_of(tmp_path):
    """A function that gives the file of a row's task."""

    def write(task):
        if is_shipped(task):
            return loading.find(task)
        (tmp_path / "_quiz").write_text(QUIZ)
        (tmp_path / "functions.py").write_text(FUNCTIONS)
        path = tmp_path / "kind.yaml"
        lines = task.replace("; ", "\n")
        path.write_text(f"include: _quiz\ntask: kind\n{lines}\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def lm_eval_reads(mirror):
    """A context in which datasets of the hub, as lm-eval loads them, are those of the mirror."""
    load = datasets.load_dataset

    def from_mirror(path, name=None, data_files=None, **kwargs):
        home = mirror / path.replace("/", "__")
        if not home.is_dir():
            return load(path, name, data_files=data_files, **kwargs)
        if data_files:
            return load("json", data_files={s: str(home / f) for s, f in data_files.items()})
        files = {file.stem: str(file) for file in (home / (name or "default")).iterdir()}
        return load("parquet", data_files=files)

    return lambda: patch("datasets.load_dataset", from_mirror)


@pytest.fixture
def fresh_cache(tmp_path_factory, monkeypatch):
    """A function that gives the datasets library an empty cache."""
    return lambda: monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache")
    )


def forget_modules():
    """lm-eval imports the modules of its tasks anew, as in a process that begins."""
    for name in [name for name, module in sys.modules.items() if hasattr(module, "__mtime__")]:
        del sys.modules[name]


def prompts(yaml, shots, mirror, limits=FEW, splits=("evaluation",)):
    rows = task_prompts.prepare(yaml, shots, limits, seed=0, datasets=mirror, splits=splits)
    return pa.Table.from_pylist(rows, schemas.ROWS["tasks"])


def by_lm_eval(recorder, yaml, shots):
    """Requests and answers as (context, continuation, log-likelihood, is greedy), and metrics."""
    recorder.answers = []
    arguments = {"num_fewshot": shots, "limit": FEW.evaluation, "log_samples": False}
    file = installed(yaml)
    results = evaluate(recorder, [str(file)], file.parent, **arguments)["results"]
    [values] = results.values()
    names = [name for name in values if "," in name and "_stderr" not in name]
    return recorder.answers, {name.split(",")[0]: values[name] for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_of_this_kind_is_lm_evals(kind, reader, mirror, yaml_of, lm_eval_reads, fresh_cache):
    model, recorder = reader
    row = KINDS[kind]
    yaml = yaml_of(row.task)
    for shots in row.shots:
        fresh_cache()
        evaluation = Evaluation(prompts(yaml, shots, mirror), "evaluation", yaml)
        scores = evaluation.run(model, Masks.removing(model, [([], [])]))
        metrics = evaluation.metrics.aggregate(scores.results[0])
        fresh_cache()
        forget_modules()
        with lm_eval_reads():
            answers, expected = by_lm_eval(recorder, yaml, shots)

        assert request_pairs(evaluation.requests) == [answer[:2] for answer in answers]
        sums = [value for document in scores.log_likelihoods[0] for value in document]
        greedy = [value for document in scores.is_greedy[0] for value in document]
        assert sums == pytest.approx([answer[2] for answer in answers], abs=parity.TOLERANCE)
        assert greedy == [answer[3] for answer in answers]
        assert set(metrics) == set(expected) == set(row.metrics.split())
        assert metrics == pytest.approx(expected, rel=parity.TOLERANCE)
        assert evaluation.metrics.name == row.metrics.split()[0]
        mean = expected[evaluation.metrics.name]
        assert scores.metric[0].mean() == pytest.approx(mean, rel=parity.TOLERANCE)
        assert evaluation.chance == (row.chance and pytest.approx(row.chance))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_task_of_this_kind_is_refused_by_its_files(kind, mirror, yaml_of):
    task, shots, message = REFUSED[kind]
    wanted = TaskRequest([0, shots], FEW, mirror, calibrate=False)
    name = task if is_shipped(task) else "kind"
    with pytest.raises(task_prompts.TaskError, match=f"{name}.*{message}"):
        spec.resolve(yaml_of(task), wanted)


@pytest.mark.parametrize("kind", NO_EXAMPLES)
def test_examples_of_this_kind_are_refused(kind, mirror, yaml_of):
    task, shots = NO_EXAMPLES[kind]
    with pytest.raises(task_prompts.TaskError, match=f"{shots} shot"):
        prompts(yaml_of(task), shots, mirror)


@pytest.mark.parametrize("kind", REFUSED_LATER)
def test_a_task_of_this_kind_is_refused_by_name(kind, reader, mirror, yaml_of, lm_eval_reads):
    model, recorder = reader
    task, message = REFUSED_LATER[kind]
    yaml = yaml_of(task)
    evaluation = Evaluation(prompts(yaml, 0, mirror), "evaluation", yaml)
    with pytest.raises(task_prompts.TaskError, match=f"kind, evaluation {message}"):
        evaluation.run(model, Masks.removing(model, [([], [])]))
    with (
        lm_eval_reads(),
        pytest.raises(task_prompts.TaskError, match=f"kind, evaluation {message}"),
    ):
        by_lm_eval(HeadcountLM(recorder.model, tokenizer=model.tokenizer), yaml, 0)


SHUFFLING = ["gpqa_main_zeroshot", "gpqa_main_n_shot", "process_docs: !function functions.shuffled"]


@pytest.mark.parametrize("task", SHUFFLING)
def test_what_shuffles_is_lm_evals_in_every_fresh_cache(
    task, reader, mirror, yaml_of, lm_eval_reads, fresh_cache
):
    """lm-eval judges gpqa_main_n_shot by an order that it did not show: its prompts are compared.

    The generator in the module of that task goes on where it was each time lm-eval asks for the
    documents.
    """
    yaml = yaml_of(task)
    fresh_cache()
    forget_modules()
    with lm_eval_reads():
        answers, _ = by_lm_eval(reader[1], yaml, 0)
    for _ in range(2):
        fresh_cache()
        rows = prompts(yaml, 0, mirror).to_pylist()
        assert request_pairs(rows) == [answer[:2] for answer in answers]


# --- right answers ---

RIGHT = {
    "copa": lambda doc: {doc["label"]},
    "winogrande": lambda doc: {int(doc["answer"]) - 1},
    "lambada_openai": lambda doc: {0},
    "webqs": lambda doc: {*range(len(doc["answers"]))},
    "agieval_aqua_rat": lambda doc: {*doc["gold"]},
    "truthfulqa_mc2": lambda doc: {*np.flatnonzero(doc["mc2_targets"]["labels"])},
    "record": lambda doc: {doc["entities"].index(answer) for answer in doc["answers"]},
    "doc_to_target: answers": lambda doc: {*doc["answers"]},
    'doc_to_target: "{{choices[answer]}}"': lambda doc: {doc["answer"]},
    "metric_list: [{metric: acc_mutual_info}]": lambda doc: {doc["answer"]},
    "dataset_name: some": lambda doc: {doc["answer"]} & {0, 1, 2},
}


@pytest.mark.parametrize("task", RIGHT)
def test_all_right_answers_are_gold(task, mirror, yaml_of):
    rows = prompts(yaml_of(task), 0, mirror).to_pylist()
    for row in rows:
        if row["doc"]:
            doc = json.loads(row["doc"])
        assert row["gold"] == (row["choice"] in RIGHT[task](doc))


# --- calibration and examples ---

OVERLAPPING = {
    "one split": "training_split: null",
    "the training split is evaluated": "validation_split: train",
    "validation and test are one split": "training_split: null; test_split: validation",
    "the training split has evaluated documents": "dataset_name: copied",
}


def documents(table, split):
    rows = [row for row in table.to_pylist() if row["split"] == split and row["doc"]]
    return {json.loads(row["doc"])["id"]: row for row in rows}


@pytest.mark.parametrize("kind", OVERLAPPING)
def test_calibration_and_evaluation_have_no_document_in_common(kind, mirror, yaml_of):
    yaml = yaml_of(OVERLAPPING[kind])
    table = prompts(yaml, 2, mirror, Limits(4, 4), spec.SPLITS)
    calibration, evaluation = (documents(table, s) for s in ("calibration", "evaluation"))
    assert len(calibration) == len(evaluation) == 4
    assert not calibration.keys() & evaluation.keys()
    for row in calibration.values():
        assert row["context"].count(json.loads(row["doc"])["question"]) == 1


def test_limits_decide_the_prompts_of_their_split_alone(yaml_of):
    limits = Limits(calibration=4, evaluation=6)
    assert spec.deciding(yaml_of(""), "evaluation", limits) == Limits(0, 6)
    assert spec.deciding(yaml_of(""), "calibration", limits) == Limits(4, None)
    single = yaml_of(OVERLAPPING["one split"])
    assert spec.deciding(single, "calibration", limits) == limits


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_documents_is_refused(split, mirror, yaml_of, monkeypatch):
    monkeypatch.setattr(spec, "_counts", lambda *_: {split: 0})
    with pytest.raises(
        task_prompts.TaskError, match=f"kind: its split '{split}' holds no documents"
    ):
        spec.resolve(yaml_of(""), TaskRequest([0], FEW, mirror))


@pytest.mark.parametrize("kind", ["one split", "the training split is evaluated"])
def test_no_document_is_left_for_calibration(kind, mirror, yaml_of):
    wanted = TaskRequest([2], Limits(4, None), mirror)
    with pytest.raises(task_prompts.TaskError, match=r"kind: .*limits: evaluation.*heldout_tasks"):
        spec.resolve(yaml_of(OVERLAPPING[kind]), wanted)


# Task -> whether lm-eval draws a query among its own examples.
OWN_EXAMPLES = {
    KINDS["examples from the evaluated split"].task: True,
    KINDS["the first examples of the evaluated split"].task: True,
    KINDS["one split for everything"].task: True,
    "training_split: null": False,
    "training_split: null; test_split: validation; fewshot_split: validation": False,
    "num_fewshot: 3": False,
}


@pytest.mark.parametrize("task", OWN_EXAMPLES)
def test_a_query_among_its_own_examples_is_told(task, mirror, yaml_of):
    yaml = yaml_of(task)
    rows = [row for row in prompts(yaml, 2, mirror).to_pylist() if row["doc"]]
    own = [row["context"].count(json.loads(row["doc"])["question"]) > 1 for row in rows]
    assert [row["query_in_examples"] for row in rows] == own
    assert any(own) == OWN_EXAMPLES[task]
    warnings = spec.resolve(yaml, TaskRequest([2], FEW, mirror, calibrate=False)).warnings
    assert any("examples are drawn from 'validation'" in said for said in warnings) == any(own)


# --- files as people write them ---


@pytest.mark.parametrize("written", [{"encoding": "utf-8-sig"}, {"newline": "\r\n"}])
def test_a_task_file_is_read_however_it_was_saved(written, mirror, yaml_of):
    yaml = yaml_of(KINDS["Chinese without spaces"].task)
    rows = prompts(yaml, 1, mirror)
    text = yaml.read_text(encoding="utf-8")
    yaml.write_text(text, **{"encoding": "utf-8", **written})
    assert prompts(loading.find("kind", yaml.parent), 1, mirror) == rows


def test_a_task_file_is_utf_8_whatever_the_locale(mirror, yaml_of):
    yaml = yaml_of(KINDS["Chinese without spaces"].task)
    read = (
        "import json; from headcount.tasks import loading; "
        f"print(json.dumps(loading.meaning({str(yaml)!r})))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", read]
    result = subprocess.run(command, env={**os.environ, **ascii_only}, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == loading.meaning(yaml)
