"""Fixtures that several test modules share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before it is imported: no test needs the hub

import explored
import pytest
import tiny
import torch
from study import Study

from headcount.artifacts import schemas, storage
from headcount.models import loading as model_loading
from headcount.report import explorer
from headcount.tasks import loading, prompts as task_prompts


@pytest.fixture(scope="session")
def task_path(tmp_path_factory):
    """A directory with the tiny lm-eval tasks."""
    return tiny.save_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The directory of a tiny OPT."""
    return tiny.save_model(tmp_path_factory.mktemp("model"))


if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for another


def pytest_addoption(parser):
    parser.addoption(
        "--write-families", action="store_true", help="write the table of families that passed"
    )


@pytest.fixture(scope="session")
def all_models(tmp_path_factory):
    """Family -> a tiny random model of it, all with the same tokenizer.

    AutoTokenizer takes the saved one for another class in some families.
    """
    loaded = {
        family: model_loading.load(tiny.save_model(tmp_path_factory.mktemp(family), family))
        for family in tiny.CONFIGS
    }
    for model in loaded.values():
        model.tokenizer = tiny.tokenizer()
    return loaded


@pytest.fixture(scope="session", params=tiny.CONFIGS)
def model(request, all_models):
    """A tiny random model of each family."""
    return all_models[request.param]


@pytest.fixture(scope="session")
def opt(checkpoint):
    return model_loading.load(checkpoint)


@pytest.fixture(scope="session")
def yaml(task_path):
    return loading.find("tiny_a", task_path)


@pytest.fixture(scope="session")
def prompts(yaml, tmp_path_factory):
    """The artifact `tasks` of tiny_a at two shots."""
    path = tmp_path_factory.mktemp("prompts") / "2-shot.parquet"
    rows = task_prompts.prepare(yaml, 2, task_prompts.Limits(calibration=24, evaluation=8), seed=0)
    storage.write(path, rows, schemas.ROWS["tasks"], {})
    return storage.read(path)


@pytest.fixture
def write_prompts(tmp_path):
    """A function that prepares a task and gives its artifact back, as the pipeline reads it."""

    def write(yaml, shots, limits):
        path = tmp_path / f"{shots}-shot.parquet"
        rows = task_prompts.prepare(yaml, shots, limits, seed=0)
        storage.write(path, rows, schemas.ROWS["tasks"], {})
        return storage.read(path)

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny study, run to the end."""
    study = Study.create(tmp_path_factory.mktemp("study"))
    result = study.run()
    assert result.returncode == 0, result.stdout
    return study


@pytest.fixture(scope="session")
def large_page(tmp_path_factory):
    """The explorer of a study of OPT-66B's size: 64 layers of 72 heads, 14 tasks, three shots."""
    directory = tmp_path_factory.mktemp("large")
    size = explored.Size(
        layers=64,
        heads=72,
        tasks=tuple(f"task_{i:02}" for i in range(14)),
        shots=(0, 1, 5),
        levels=(0, 40, 80),
        documents=40,
        context="Some words of a question. " * 50 + "{}",
    )
    page = explorer.page(explorer.gather(explored.Invented(directory, size).files))
    path = directory / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
