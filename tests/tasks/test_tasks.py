"""Prompts are lm-eval's own, calibration and evaluation are disjoint, bad input is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml as pyyaml
from datasets import Dataset
from harness import evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from plain import tolerance

from headcount.engine import Masks
from headcount.scores.documents import Evaluation
from headcount.tasks import loading, prompts, squad

LIMITS = prompts.Limits(calibration=10, evaluation=8)


class Recorder(LM):
    """An lm-eval model that keeps the requests that the harness makes of it."""

    def loglikelihood(self, requests):
        self.seen = [request.args for request in requests]
        return [(-1.0, False)] * len(requests)

    loglikelihood_rolling = generate_until = None


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_evaluation_prompts_are_those_that_lm_eval_makes(task_path, yaml, shots):
    recorder = Recorder()
    evaluate(recorder, ["tiny_a"], task_path, num_fewshot=shots, limit=8)
    rows = prompts.prepare(yaml, shots, LIMITS, seed=0)
    ours = [(r["context"], r["continuation"]) for r in rows if r["split"] == "evaluation"]
    assert ours == recorder.seen


@pytest.mark.parametrize("shots", [0, 5])
def test_unpruned_metrics_equal_lm_eval(model, task_path, yaml, shots, write_prompts):
    hflm = HFLM(model.hf, tokenizer=model.tokenizer, batch_size=4)
    reference = evaluate(hflm, ["tiny_a"], task_path, num_fewshot=shots, limit=8)
    evaluation = Evaluation(write_prompts(yaml, shots, LIMITS), "evaluation", yaml)
    scores = evaluation.run(model, Masks.removing(model, [([], [])]))
    ours = evaluation.metrics.aggregate(scores.results[0])
    assert ours["acc"] == reference["results"]["tiny_a"]["acc,none"]
    assert ours["acc_norm"] == reference["results"]["tiny_a"]["acc_norm,none"]
    assert scores.metric[0].mean() == ours["acc"]


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_calibration_documents_are_none_of_those_evaluated(yaml, shots):
    rows = prompts.prepare(yaml, shots, LIMITS, seed=0)
    ids = {
        split: {json.loads(r["doc"])["id"] for r in rows if r["split"] == split and r["doc"]}
        for split in ("calibration", "evaluation")
    }
    assert (len(ids["calibration"]), len(ids["evaluation"])) == (10, 8)
    assert not ids["calibration"] & ids["evaluation"]


def test_how_many_are_evaluated_decides_nothing_of_the_calibration_documents(yaml):
    both = prompts.prepare(yaml, 1, prompts.Limits(10, 2), seed=0)
    drawn = [row for row in both if row["split"] == "calibration"]
    for evaluation in (2, 12, None):
        limits = prompts.Limits(10, evaluation)
        assert prompts.prepare(yaml, 1, limits, seed=0, splits=["calibration"]) == drawn


def test_a_document_that_may_be_evaluated_does_not_calibrate(yaml, tmp_path):
    """Also beyond the limit: the first half of the training split stands in the evaluated one."""
    config = pyyaml.safe_load(Path(yaml).read_text())
    files = config["dataset_kwargs"]["data_files"]
    lines = Path(files["train"]).read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:12]))
    (tmp_path / "validation.jsonl").write_text("".join(lines[6:]))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    task = edited(yaml, tmp_path, dataset_kwargs={"data_files": files})
    rows = prompts.prepare(task, 0, prompts.Limits(100, 2), seed=0, splits=["calibration"])
    assert {row["doc_id"] for row in rows} == set(range(6))
    files["train"] = files["validation"]
    task = edited(yaml, tmp_path, dataset_kwargs={"data_files": files})
    with pytest.raises(prompts.TaskError, match=r"'validation' has them all.*beyond the limit"):
        prompts.prepare(task, 0, prompts.Limits(100, 2), seed=0)


def test_a_query_is_not_among_its_own_examples(yaml):
    for row in prompts.prepare(yaml, 5, prompts.Limits(24, 8), seed=0):
        query = row["context"].split("\n\n")[-1]
        assert row["context"].count(query) == 1


def test_the_same_documents_are_drawn_for_every_number_of_shots_and_for_a_seed(yaml):
    def drawn(shots, seed):
        rows = prompts.prepare(yaml, shots, LIMITS, seed)
        return [r["doc_id"] for r in rows if r["split"] == "calibration"]

    assert drawn(0, seed=0) == drawn(3, seed=0)
    assert drawn(0, seed=0) != drawn(0, seed=1)


def test_two_preparations_are_equal(yaml):
    assert prompts.prepare(yaml, 5, LIMITS, seed=3) == prompts.prepare(yaml, 5, LIMITS, seed=3)


def test_gold_is_the_right_choice_and_the_leading_space_is_there(yaml):
    for row in prompts.prepare(yaml, 0, LIMITS, seed=0):
        if row["doc"]:
            doc = json.loads(row["doc"])
        assert row["gold"] == (row["choice"] == doc["answer"])
        assert row["continuation"] == " " + doc["choices"][row["choice"]]


def test_held_out_tasks_have_no_calibration_documents(yaml):
    rows = prompts.prepare(yaml, 0, LIMITS, seed=0, splits=["evaluation"])
    assert {row["split"] for row in rows} == {"evaluation"}


# --- other kinds of task ---


def edited(yaml, directory, **changes):
    config = {**pyyaml.safe_load(Path(yaml).read_text()), **changes}
    path = directory / "edited.yaml"
    path.write_text(pyyaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    return path


def test_without_a_training_split_documents_beyond_the_limit_calibrate(yaml, tmp_path):
    single = edited(yaml, tmp_path, training_split=None, fewshot_split=None)
    rows = prompts.prepare(single, 1, prompts.Limits(100, 8), seed=0)
    ids = {s: {r["doc_id"] for r in rows if r["split"] == s} for s in ("calibration", "evaluation")}
    assert ids == {"evaluation": set(range(8)), "calibration": set(range(8, 12))}
    with pytest.raises(prompts.TaskError, match=r"single split.*limits: evaluation"):
        prompts.prepare(single, 1, prompts.Limits(100, None), seed=0)


def test_a_task_without_a_mean_metric_is_refused(yaml, tmp_path):
    mcc = edited(yaml, tmp_path, metric_list=[{"metric": "mcc"}])
    with pytest.raises(prompts.TaskError, match=r"none of its metrics \(mcc\) is a mean"):
        prompts.prepare(mcc, 0, LIMITS, seed=0)


@pytest.mark.numerical
def test_a_single_log_likelihood_as_in_lambada(yaml, tmp_path, opt, write_prompts):
    lambada = edited(
        yaml,
        tmp_path,
        output_type="loglikelihood",
        doc_to_choice=None,
        doc_to_target=" {{choices[answer]}}",
        metric_list=[{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc"}],
    )
    evaluation = Evaluation(write_prompts(lambada, 1, LIMITS), "evaluation", lambada)
    scores = evaluation.run(opt, Masks.removing(opt, [([], [])]))
    hflm = HFLM(opt.hf, tokenizer=opt.tokenizer)
    reference = evaluate(hflm, ["tiny_a"], tmp_path, num_fewshot=1, limit=8)
    results = reference["results"]["tiny_a"]
    ours = evaluation.metrics.aggregate(scores.results[0])
    assert ours["acc"] == results["acc,none"]
    # exp(-x) moves by as much, relative to itself, as x does.
    assert ours["perplexity"] == pytest.approx(results["perplexity,none"], rel=tolerance(opt))
    assert evaluation.chance is None


@pytest.mark.numerical
def test_contexts_longer_than_the_window_are_cut_as_lm_eval_does_and_counted(
    opt, yaml, task_path, write_prompts
):
    evaluation = Evaluation(write_prompts(yaml, 12, LIMITS), "evaluation", yaml)
    scores = evaluation.run(opt, Masks.removing(opt, [([], [])]))
    assert 0 < evaluation.truncated <= len(evaluation.requests)
    hflm = HFLM(opt.hf, tokenizer=opt.tokenizer)
    reference = evaluate(hflm, ["tiny_a"], task_path, num_fewshot=12, limit=8)
    samples = reference["samples"]["tiny_a"]
    for ours, sample in zip(scores.log_likelihoods[0], samples, strict=True):
        theirs = [value[0] for value in sample["filtered_resps"]]
        assert ours == pytest.approx([float(value) for value in theirs], abs=tolerance(opt))


def test_a_mirror_is_read_in_place_of_the_hub(yaml, tmp_path):
    hub = edited(yaml, tmp_path, dataset_path="who/what", dataset_kwargs=None)
    home = tmp_path / "mirror" / "who__what" / "default"
    home.mkdir(parents=True)
    local = loading.load(yaml).dataset
    for split in ("train", "validation"):
        Dataset.from_list(list(local[split])).to_parquet(home / f"{split}.parquet")
    mirrored = prompts.prepare(hub, 2, LIMITS, seed=0, datasets=tmp_path / "mirror")
    assert mirrored == prompts.prepare(yaml, 2, LIMITS, seed=0)
    (home / "train.parquet").unlink()
    with pytest.raises(prompts.TaskError, match=str(home / "train.parquet")):
        prompts.prepare(hub, 2, LIMITS, seed=0, datasets=tmp_path / "mirror")


# --- groups and tags ---


@pytest.fixture
def grouped(tmp_path):
    """Four tiny tasks, a group of a group and a tag, and tags of the files that tasks include."""
    tiny.save_tasks(tmp_path, ("tiny_a", "tiny_b", "tiny_c", "tiny_d"))
    (tmp_path / "_template").write_text("tag: [tiny_tag, other]\n")
    (tmp_path / "_second_template.yaml").write_text("include: _template\n")
    for name, include in (("tiny_d", "_template"), ("tiny_b", "_second_template.yaml")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"include: {include}\n" + path.read_text())
    with (tmp_path / "tiny_c.yaml").open("a") as file:
        file.write("tag: tiny_third\n")
    groups = {
        "tiny_outer": ["tiny_c", {"group": "tiny_inner"}, "tiny_tag"],
        "tiny_inner": ["tiny_a", {"task": "tiny_d", "task_alias": "d"}],
        "tiny_changed": [{"task": "tiny_a", "num_fewshot": 3}],
    }
    for name, members in groups.items():
        group = {"group": name, "task": members, "metadata": {"version": 1}}
        (tmp_path / f"{name}.yaml").write_text(pyyaml.safe_dump(group))
    return tmp_path


@pytest.mark.parametrize(
    "name,expected",
    [
        ("tiny_a", ["tiny_a"]),
        ("tiny_tag", ["tiny_b", "tiny_d"]),
        ("tiny_third", ["tiny_c"]),
        ("tiny_inner", ["tiny_a", "tiny_d"]),
        ("tiny_outer", ["tiny_c", "tiny_a", "tiny_d", "tiny_b"]),
    ],
)
def test_groups_and_tags_stand_for_the_tasks_that_lm_eval_takes(grouped, name, expected):
    assert loading.expand([name], grouped) == expected
    manager = TaskManager(include_path=str(grouped), include_defaults=False)
    assert set(manager.load([name])["tasks"]) == set(expected)


def test_a_task_that_comes_up_twice_is_studied_once(grouped):
    names = ["tiny_d", "tiny_inner", "tiny_tag"]
    assert loading.expand(names, grouped) == ["tiny_d", "tiny_a", "tiny_b"]


def test_groups_and_tags_of_lm_evals_own():
    assert loading.expand(["ai2_arc"]) == ["arc_challenge", "arc_easy"]
    stem = loading.expand(["mmlu_stem"])  # a group of a tag that its tasks have from a template
    assert len(stem) == 19 and stem[0] == "mmlu_abstract_algebra"


def test_a_group_that_changes_its_tasks_is_refused(grouped):
    with pytest.raises(prompts.TaskError, match="'tiny_changed' sets num_fewshot of its tasks"):
        loading.expand(["tiny_changed"], grouped)


# --- bad input ---


def test_an_unknown_task_is_named_with_those_that_come_close(task_path):
    with pytest.raises(prompts.TaskError, match=r"'tiny_aa' \(close: tiny_a"):
        loading.expand(["tiny_aa"], task_path)


def test_lm_eval_tasks_are_found_by_name():
    assert loading.find("copa") == Path("lm_eval/tasks/super_glue/copa/default.yaml")


def test_more_shots_than_examples_is_an_error(yaml):
    with pytest.raises(prompts.TaskError, match="24 shots need 25 examples, there are 24"):
        prompts.prepare(yaml, 24, LIMITS, seed=0)


def test_a_task_that_generates_text_is_refused(yaml, tmp_path):
    with pytest.raises(prompts.TaskError, match="its output_type is generate_until"):
        prompts.prepare(edited(yaml, tmp_path, output_type="generate_until"), 0, LIMITS, seed=0)


def test_record_is_judged_by_the_best_entity(tmp_path):
    """Its metrics come from a process_results of its own, whose imports transformers lacks."""
    home = tmp_path / "aps__super_glue" / "record"
    home.mkdir(parents=True)
    doc = {
        "passage": "Anna met Ben in Paris.\n@highlight\nThey met in spring",
        "query": "@placeholder liked the city",
        "entities": ["Anna", "Ben", "Paris"],
        "answers": ["Anna", "Ben"],
    }
    for split, first in (("train", 0), ("validation", 4)):
        query = f"@placeholder liked the city, {split}"
        numbers = [{"passage": i, "query": i} for i in range(first, first + 4)]
        docs = [{**doc, "query": query, "idx": idx} for idx in numbers]
        pq.write_table(pa.Table.from_pylist(docs), home / f"{split}.parquet")
    yaml = loading.find("record")
    rows = prompts.prepare(yaml, 0, prompts.Limits(2, 2), seed=0, datasets=tmp_path)
    shown = [row for row in rows if row["split"] == "evaluation" and row["doc_id"] == 0]
    assert len(shown) == 3  # a request an entity
    metrics = prompts.Metrics(yaml, json.loads(shown[0]["doc"]))
    assert metrics.name == "f1"
    good = metrics.of(json.loads(shown[0]["doc"]), [-1.0, -2.0, -3.0], [False] * 3)
    bad = metrics.of(json.loads(shown[0]["doc"]), [-3.0, -2.0, -1.0], [False] * 3)
    assert (good["f1"], good["em"], bad["f1"], bad["em"]) == (1, 1, 0, 0)


def test_squad_scores_ignore_case_articles_and_punctuation():
    assert squad.compute_exact("The Eiffel Tower", "eiffel tower!") == 1
    assert squad.compute_f1("the cat sat", "a cat ran") == pytest.approx(0.5)
    assert squad.compute_f1("", "cat") == 0
