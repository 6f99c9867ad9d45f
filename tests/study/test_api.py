"""Scores and curves without Snakemake are those of the workflow, for any kind of model."""

from pathlib import Path

import polars as pl
import pytest
from transformers import AutoModelForCausalLM

import headcount as hc
from headcount.models import loading
from headcount.models.families import ModelError
from headcount.scores.rankings import RankingError
from headcount.tasks.spec import Limits

PAIRS = [("Q: w1 w2 A:", " w3"), ("Q: w4 A:", " w5 w6"), ("", " w7")]


@pytest.fixture(scope="module")
def home(finished):
    return finished.directory / "artifacts" / "tiny"


@pytest.fixture(scope="module")
def model(finished):
    return hc.language_model(finished.directory / "model")


@pytest.fixture(scope="module")
def prompts(finished):
    """As the tiny study has it at two shots; its documents are named relative to the study."""
    limits = Limits(calibration=10, evaluation=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished.directory)
        return hc.task("tiny_a", 2, limits, task_path="lm_tasks")


@pytest.fixture(autouse=True)
def in_the_study(finished, monkeypatch):
    monkeypatch.chdir(finished.directory)


def same(found: pl.DataFrame, path: Path) -> bool:
    return found.drop("model").equals(pl.read_parquet(path).drop("model"))


@pytest.mark.parametrize("component,by", [("heads", "gradient-token"), ("ffns", "oracle-task")])
def test_scores_are_those_of_the_workflow(model, prompts, home, component, by):
    found = hc.score(model, prompts, component, by)
    assert same(found, home / f"importance/tiny_a/2-shot/{component}.parquet")


def test_curves_are_those_of_the_workflow(model, prompts, home):
    study = hc.load(home)
    heads = study.rankings("heads", "aggregate", shots=2)
    found = hc.prune(model, prompts, heads=heads, levels=[0, 25, 50])
    assert same(found, home / "pruning/tiny_a/2-shot/heads/by-aggregate.parquet")
    scores = study.importance("ffns", task="tiny_a", shots=2)  # ranked here
    found = hc.prune(model, prompts, ffns=scores, levels=[0, 34])
    assert same(found, home / "pruning/tiny_a/2-shot/ffns/by-tiny_a.parquet")
    both = {"heads": heads, "ffns": study.rankings("ffns", "aggregate", shots=2)}
    grid = [(level, other) for level in (0, 50) for other in (0, 34)]
    found = hc.prune(model, prompts, **both, levels=grid)
    assert same(found, home / "pruning/tiny_a/2-shot/combined/by-aggregate.parquet")


def test_a_directory_and_a_loaded_model_give_the_same(model, finished):
    directory = str(finished.directory / "model")
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    expected = hc.score(model, PAIRS)
    assert hc.score(directory, PAIRS).equals(expected)
    assert hc.score(loaded, PAIRS).equals(expected)
    loaded.name_or_path = ""
    with pytest.raises(ModelError, match=r"give its tokenizer, hc\.language_model\("):
        hc.score(loaded, PAIRS)
    given = hc.language_model(loaded, model.tokenizer)
    assert hc.score(given, PAIRS).drop("model").equals(expected.drop("model"))


def test_prompts_of_ones_own_are_judged_by_their_log_likelihood(model):
    scores = hc.score(model, PAIRS, "ffns", "oracle-task")
    assert "task" not in scores.columns and scores["n"].to_list() == [3] * 3
    curve = hc.prune(model, PAIRS, ffns=scores, levels=[0, 34])
    assert set(curve["ranking"]) == {"own prompts"} and "order" not in curve.columns
    mean = curve.group_by("ffns_level", maintain_order=True).agg(pl.col("metric").mean())
    lost = mean["metric"][0] - mean["metric"][1]  # one FFN of three
    assert lost == pytest.approx(scores["score"].min())
    assert curve["metric"].to_list() == curve["log_likelihoods"].list.first().to_list()


def test_a_model_is_verified(model):
    rows = hc.verify(model)
    assert rows["passed"].all() and set(rows["model"]) == {model.hf.name_or_path}


def test_mistakes_are_told(model, prompts):
    scores = hc.score(model, PAIRS)
    with pytest.raises(RankingError, match="ffns: the ranking is of heads"):
        hc.prune(model, PAIRS, ffns=scores)
    with pytest.raises(RankingError, match="give `heads` or `ffns`"):
        hc.prune(model, PAIRS)
    with pytest.raises(RankingError, match="give `heads` or `ffns`"):
        hc.prune(model, PAIRS, heads=scores, levels=[(0, 10)])
    with pytest.raises(RankingError, match="the ranking of 11 heads does not fit the model"):
        hc.prune(model, PAIRS, heads=scores.head(11))
    with pytest.raises(ValueError, match="component 'head' is neither"):
        hc.score(model, PAIRS, "head")
    with pytest.raises(ValueError, match="there is no prompt"):
        hc.score(model, [])


@pytest.mark.parametrize("name", ["gpt2", "no/such/place", Path("gone")])
def test_a_name_that_is_no_directory_is_told_as_such(name):
    with pytest.raises(ModelError, match=r"is not a directory; headcount\.language_model") as told:
        loading.load(name)
    assert "model.json" not in str(told.value)


@pytest.mark.slow
def test_the_notebook_runs(finished):
    import nbformat
    from nbclient import NotebookClient

    page = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
    notebook = nbformat.read(page, as_version=4)
    values = {
        "directory": "artifacts/tiny",
        "source": "model",
        "task_path": "lm_tasks",
        "task": "tiny_a",
        "shots": 2,
    }
    [first, *_] = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(name in first.source for name in values)
    first.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    place = {"metadata": {"path": str(finished.directory)}}
    NotebookClient(notebook, timeout=600, resources=place).execute()
    shown = [cell.outputs[-1]["data"] for cell in notebook.cells if cell.get("outputs")]
    assert len(shown) == 7 and all("text/html" in data or len(data) > 1 for data in shown)
