"""What a task can do is told from its files before anything runs, of all tasks at once."""

import random
from pathlib import Path

import pytest
import yaml as pyyaml
from study import Study

from headcount.tasks import files as task_files, loading, metrics, spec
from headcount.tasks.files import TaskError
from headcount.tasks.spec import Limits, TaskRequest

LIMITS = Limits(calibration=10, evaluation=8)
ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}


@pytest.fixture
def edited(yaml, tmp_path):
    """A function that writes the task tiny_a with other keys."""

    def write(name="edited", **changes) -> Path:
        config = pyyaml.safe_load(Path(yaml).read_text()) | {"task": name} | changes
        path = tmp_path / f"{name}.yaml"
        path.write_text(pyyaml.safe_dump({k: v for k, v in config.items() if v is not None}))
        return path

    return write


def examine(yaml, shots=(0, 1), limits=LIMITS, **wanted):
    return spec.resolve(yaml, TaskRequest(shots, limits, **wanted))


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"output_type": "generate_until"}, "output_type is generate_until"),
        ({"output_type": None}, "output_type is generate_until"),  # lm-eval's default
        ({"output_type": "loglikelihood_rolling"}, "output_type is loglikelihood_rolling"),
        ({"class": "some.Class"}, "a Python class, not its YAML, makes its prompts"),
        ({"doc_to_image": "image"}, "needs doc_to_image"),
        ({"num_fewshot": 0}, r"gives no examples .*use shots: \[0\]"),
        ({"fewshot_config": {"samples": [{}], "sampler": "first_n"}, "fewshot_split": None}, None),
        ({"metric_list": [{"metric": "mcc"}]}, r"none of its metrics \(mcc\) is a mean"),
        ({"metric_list": [{"metric": "accc"}]}, "better when higher: did you mean acc"),
        ({"metric_list": [{**ACC, "higher_is_better": False}]}, "is a mean over documents"),
        ({"metric_list": [{**ACC, "metric": "perplexity"}]}, "is a mean over documents"),
        ({"validation_split": None}, "no test_split or validation_split"),
        ({"training_split": None}, None),  # the documents beyond the limit calibrate
        ({"training_split": "validation"}, None),
        ({"doc_to_text": "{{qestion}}"}, "doc_to_text names 'qestion', its documents have id, q"),
        ({"doc_to_target": "answr"}, "doc_to_target is 'answr', which is no field and no choice"),
        ({"doc_to_choice": "{{[a, choices[1]]}}"}, "doc_to_choice names 'a'"),
        ({"doc_to_text": "{% for c in choices %}{{c}}{% endfor %}{{question}}"}, None),
        ({"doc_to_text": "{{question"}, "doc_to_text is not a valid template"),
        ({"doc_to_target": "id"}, "names a choice in no document of 'validation' .*'validation-0'"),
        ({"doc_to_target": "{{question}}"}, "names a choice in no document"),
        ({"doc_to_target": "{{answer}}"}, None),
        ({"doc_to_target": "{{choices[answer]}}"}, None),
        (
            {"doc_to_txt": "x"},
            "doc_to_txt is not a key of lm-eval's tasks: did you mean doc_to_text",
        ),
        ({"training_split": "trian"}, "training_split is 'trian', .*: did you mean train"),
        ({"output_type": "multiple_choices"}, "did you mean multiple_choice"),
        ({"doc_to_choice": ["one"], "doc_to_target": "answer"}, None),
        ({"filter_list": [{"name": "x", "filter": [{"function": "regex"}]}]}, "by regex"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "take_first"}]}]}, None),
    ],
)
def test_what_speaks_against_a_task_is_told_from_its_file(edited, changes, told):
    path = edited(**changes)
    if told is None:
        assert examine(path).metric == "acc"
        return
    with pytest.raises(TaskError, match=told) as raised:
        examine(path)
    assert str(raised.value).startswith("edited: ")


def test_everything_wrong_with_a_task_is_told_at_once(edited):
    path = edited(num_fewshot=0, metric_list=[{"metric": "mcc"}], doc_to_text="{{nothing}}")
    with pytest.raises(TaskError) as raised:
        examine(path)
    assert len(str(raised.value).splitlines()) == 3


def test_shots_beyond_the_examples_are_counted_in_the_files(edited):
    assert examine(edited(), shots=(23,)).examples == "train"
    # One more than shots, since lm-eval draws it where queries are left out of their own examples.
    with pytest.raises(TaskError, match="24 shots need 25 examples, there are 24 in 'train'"):
        examine(edited(), shots=(1, 24))
    changes = {"test_split": "validation", "fewshot_split": "validation"}
    with pytest.raises(TaskError, match="12 shots need 13 examples, there are 12"):
        examine(edited(**changes), shots=(12,))
    with pytest.raises(TaskError, match="2 shots need 3 examples, there are 1 in its fewshot_conf"):
        samples = {"fewshot_config": {"samples": [{}]}, "fewshot_split": None}
        examine(edited(**samples), shots=(2,))


@pytest.mark.parametrize(
    "changes",
    [
        {"training_split": None},
        {"training_split": "validation"},
        {"training_split": None, "test_split": "validation"},
    ],
)
def test_documents_that_are_evaluated_do_not_calibrate(edited, changes):
    path = edited(**changes)
    kind = examine(path)
    assert (kind.calibration, kind.calibrates_beyond) == ("validation", 8)
    assert any("calibration has 4 documents" in warning for warning in kind.warnings)
    for whole in (None, 12, 100):
        with pytest.raises(TaskError, match="set limits: evaluation below"):
            examine(path, limits=Limits(10, whole))
    assert examine(path, limits=Limits(10, None), calibrate=False).calibration is None


def test_a_query_that_may_be_among_its_own_examples_is_told(edited):
    own = {"training_split": None, "fewshot_split": "validation"}
    assert "accuracy with shots is too high" in examine(edited(**own)).warnings[0]
    left_out = {"fewshot_split": "validation", "test_split": "validation"}
    for quiet in (
        examine(edited(**left_out)),
        examine(edited(training_split=None, fewshot_split=None)),  # no test split either
        examine(edited(**own), shots=(0,)),
        examine(edited()),
    ):
        assert not any("too high" in warning for warning in quiet.warnings)


def test_the_headline_metric_is_one_of_lm_evals_own_and_can_be_chosen(edited):
    names = ["acc_norm", "acc", "exact_match"]
    path = edited(metric_list=[{**ACC, "metric": name} for name in names])
    assert examine(path).metric == "acc"
    assert examine(path, metric="exact_match").metric == "exact_match"
    with pytest.raises(TaskError, match=r"'f1' is not one of its metrics .*: acc_norm, acc, exact"):
        examine(path, metric="f1")
    assert examine(edited(metric_list=[{**ACC, "metric": "acc_norm"}])).metric == "acc_norm"
    assert examine(edited(metric_list=None)).metric == "acc"  # lm-eval's default: acc, acc_norm


def test_the_table_of_metrics_is_lm_evals_registry():
    import lm_eval.api.metrics  # noqa: F401, fills the registry
    from lm_eval.api.registry import (
        DEFAULT_METRIC_REGISTRY,
        get_aggregation,
        get_metric_aggregation,
        is_higher_better,
    )

    for name, (aggregation, higher) in metrics.REGISTERED.items():
        assert get_metric_aggregation(name) is get_aggregation(aggregation), name
        assert is_higher_better(name) is higher, name
    for kind, names in metrics.DEFAULT.items():
        assert tuple(DEFAULT_METRIC_REGISTRY[kind]) == names


# --- files as people write them ---


def test_a_byte_order_mark_and_other_line_ends_change_nothing(edited, tmp_path):
    path = edited(name="marked")
    text = path.read_text().replace("task: marked\n", "")
    path.write_bytes(b"\xef\xbb\xbf" + f"task: marked\n{text}".replace("\n", "\r\n").encode())
    assert task_files.defined(tmp_path, "task") == {"marked": path}
    assert examine(path).task == "marked"


def test_a_slip_in_a_task_file_is_placed(tmp_path):
    path = tmp_path / "slip.yaml"
    path.write_text("task: slip\ndoc_to_text: [unclosed\n")
    with pytest.raises(TaskError, match=r"slip\.yaml, line \d+, column \d+ is not valid YAML"):
        examine(path)


@pytest.mark.parametrize(
    "data_files,told",
    [
        ({"train": "nowhere.jsonl", "validation": "{home}/validation.jsonl"}, "nowhere.jsonl"),
        (
            {"train": "{home}/none*.jsonl", "validation": "{home}/validation.jsonl"},
            r"none\*\.jsonl",
        ),
        ({"train": "{home}/tr*.jsonl", "validation": "{home}/validation.jsonl"}, None),
    ],
)
def test_a_data_file_that_is_not_there_is_named(edited, task_path, data_files, told):
    home = task_path / "data" / "tiny_a"
    files = {split: name.format(home=home) for split, name in data_files.items()}
    path = edited(dataset_kwargs={"data_files": files})
    if told is None:
        assert examine(path).task == "edited"
        return
    with pytest.raises(TaskError, match=f"edited: the data file .*{told} of its split 'train'"):
        examine(path)


def test_data_that_are_no_json_are_told_with_their_place(edited, task_path, tmp_path):
    files = {
        split: str(task_path / f"data/tiny_a/{split}.jsonl") for split in ("train", "validation")
    }
    slips = {'{"id": 1}\n{"id": ': "slip.jsonl, line 2, column 8 is not valid JSON", "": "is empty"}
    for text, told in slips.items():
        (tmp_path / "slip.jsonl").write_text(text)
        data_files = files | {"validation": str(tmp_path / "slip.jsonl")}
        with pytest.raises(TaskError, match=told):
            examine(edited(dataset_kwargs={"data_files": data_files}))


def test_paths_of_data_are_found_from_above_the_task_too(edited, task_path, monkeypatch):
    data_files = {split: f"data/tiny_a/{split}.jsonl" for split in ("train", "validation")}
    config = pyyaml.safe_load(edited(dataset_kwargs={"data_files": data_files}).read_text())
    path = task_path / "deeper" / "edited.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(pyyaml.safe_dump(config))
    assert examine(path).evaluated == "validation"
    task = loading.load(path)
    assert len(task.eval_docs) == 12
    path.unlink()


@pytest.mark.parametrize(
    "name,told",
    [
        ("nowhere.process", "nowhere.py is not there"),
        ("there.proces", "there.py defines no proces: did you mean process"),
        ("there.process", None),
    ],
)
def test_a_function_that_is_not_there_is_named(edited, tmp_path, name, told):
    (tmp_path / "there.py").write_text("def process(docs):\n    return docs\n")
    path = edited()
    path.write_text(path.read_text() + f"process_docs: !function {name}\n")
    if told is None:
        assert examine(path).task == "edited"
        return
    with pytest.raises(TaskError, match=told):
        examine(path)


def test_a_package_that_a_tasks_functions_need_is_named(edited, tmp_path):
    (tmp_path / "needy.py").write_text("import json\nimport no_such_package.inner\n")
    path = edited()
    path.write_text(path.read_text() + "process_docs: !function needy.process\n")
    with pytest.raises(TaskError, match="import no_such_package, which is not installed: pip"):
        examine(path)


# --- everything that lm-eval ships ---


def check_all(names: dict[str, Path]) -> dict[str, int]:
    """Tasks by whether they can be studied; any exception but a `TaskError` is a failure."""
    counts = {"studied": 0, "refused": 0}
    for path in names.values():
        try:
            examine(path.relative_to(task_files.site_packages()), (0, 1, 5), Limits(250, 100))
            counts["studied"] += 1
        except TaskError:
            counts["refused"] += 1
    return counts


def test_a_sample_of_lm_evals_tasks_is_studied_or_refused():
    names = task_files.defined(task_files.shipped(), "task")
    chosen = random.Random(0).sample(sorted(names), 400)
    counts = check_all({name: names[name] for name in chosen})
    assert min(counts.values()) > 100


@pytest.mark.slow
def test_every_task_of_lm_eval_is_studied_or_refused():
    names = task_files.defined(task_files.shipped(), "task")
    counts = check_all(names)
    assert sum(counts.values()) == len(names) > 13_000
    assert counts["studied"] > 7_500


# --- in the workflow ---

BAD = {
    "generates": ({"output_type": "generate_until"}, "its output_type is generate_until"),
    "rolls": ({"output_type": "loglikelihood_rolling"}, "its output_type is loglikelihood_rolling"),
    "no_examples": ({"num_fewshot": 0}, "use shots: [0]"),
    "no_mean": ({"metric_list": [{"metric": "mcc"}]}, "is a mean over documents"),
    "no_field": ({"doc_to_text": "{{qestion}}"}, "doc_to_text names 'qestion'"),
    "hidden_labels": (
        {"doc_to_choice": [], "doc_to_target": "answer"},
        "names a choice in no document",
    ),
    "few_documents": ({"training_split": "validation"}, "set limits: evaluation below"),
    "no_data": ({"dataset_kwargs": {"data_files": {"train": "gone.jsonl"}}}, "gone.jsonl"),
}


def test_a_dry_run_tells_of_all_bad_tasks_at_once(tmp_path):
    study = Study.create(tmp_path)
    good = pyyaml.safe_load((tmp_path / "lm_tasks" / "tiny_a.yaml").read_text())
    for name, (changes, _) in BAD.items():
        path = tmp_path / "lm_tasks" / f"{name}.yaml"
        path.write_text(pyyaml.safe_dump({**good, "task": name, **changes}))
    limits = {"calibration": 10, "evaluation": 12}  # as many as there are
    study.configure(tasks=["tiny_a", *BAD], heldout_tasks=[], limits=limits)
    result = study.run("--dry-run")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    for name, (_, told) in BAD.items():
        (line,) = [line for line in lines if line.startswith(f"  {name}: ")]
        assert told in line
    assert not any(line.startswith("  tiny_a") for line in lines)
