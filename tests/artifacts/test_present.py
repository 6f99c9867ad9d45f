"""Of the artifacts of several studies in a directory, those of the one that ran last are read."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from headcount.artifacts import lineage, present, schemas, storage
from headcount.report import summary
from headcount.study import results


@pytest.fixture
def home(tmp_path):
    return tmp_path / "artifacts"


def jobs(home, tasks=("a", "b"), shots=(0, 5), model="m", **parameters):
    """A study: a model, rankings of it by tasks, and a table that is made of these."""
    of_model = home / model
    files = [of_model / f"rankings/{task}/{n}-shot/heads.parquet" for task in tasks for n in shots]

    def job(rule, inputs, output, **named):
        inputs = [str(path) for path in inputs]
        return lineage.Job(rule, named, parameters, inputs, [str(output)], str(home))

    of_rankings = [
        job("rank", [of_model / "model.json"], file, ranking=file.parts[-3]) for file in files
    ]
    return [
        job("resolve", [], of_model / "model.json", model=model),
        *of_rankings,
        job("tabulate", files, of_model / "tables/summary.parquet", model=model),
    ]


def run(home, only=None, **of_study):
    """Run a study, to the end or one rule of it; rankings count its parameters in their scores."""
    of_all = jobs(home, **of_study)
    present.note(of_all, home)
    for job in map(replace, of_all):  # inputs are read as they are by then
        if only and job.rule != only:
            continue
        made = {**job.wildcards, "model": "m", "key": job.key, "made_of": job.made_of}
        path, seed = job.outputs[0], float(job.parameters.get("seed", 0))
        if job.rule == "resolve":
            storage.write_json(path, {**made, "content": json.dumps(job.parameters)})
            continue
        shots = 5 if "5-shot" in path else 0
        made |= {"shots": shots, "component": "heads"} | {"ranking": made.get("ranking", "none")}
        rows = [{"layer": 0, "head": 0, "rank": 0, "score": seed}]
        storage.write(path, rows, schemas.SCHEMAS["rankings"], made)


def scores(home, **chosen):
    frame = results.load(home / "m").rankings("heads", **chosen)
    return frame.select("ranking", "shots", "score").rows()


ALL = [("a", 0, 0.0), ("a", 5, 0.0), ("b", 0, 0.0), ("b", 5, 0.0)]


def test_without_a_note_and_with_one_study_all_is_read(home, recwarn):
    run(home)
    assert scores(home) == ALL and results.load(home / "m").others == []
    (home / present.NOTED).unlink()
    assert scores(home) == ALL
    assert not recwarn


def test_what_a_later_study_does_not_ask_for_is_left_out_and_named(home):
    run(home)
    run(home, tasks=["b"], shots=[0], seed=1)
    with pytest.warns(
        UserWarning, match=r"3 files \(.*rankings/a/0-shot.*, or out of date, and left"
    ):
        assert scores(home) == [("b", 0, 1.0)]
    left = [path.parts[-3:] for path in results.load(home / "m").others]
    assert ("a", "5-shot", "heads.parquet") in left and len(left) == 3
    with pytest.raises(
        results.NotMadeError, match=r"a/5-shot/.* of another study.* ranking b; shots 0"
    ):
        scores(home, ranking="a", shots=5)


def test_what_a_run_that_broke_off_has_not_made_again_is_left_out(home):
    run(home)
    run(home, only="resolve", seed=1)
    with pytest.raises(results.NotMadeError, match=r"4 files .*out of date"):
        scores(home)
    run(home, only="rank", seed=1)
    assert scores(home) == [(*row[:2], 1.0) for row in ALL]
    with pytest.raises(results.NotMadeError, match=r"tables/summary.parquet is of another study"):
        results.load(home / "m").summary()  # made so, of other rankings


def test_a_study_that_comes_back_is_read_again(home):
    run(home)
    run(home, tasks=["b"])
    present.note(jobs(home), home)
    rows = storage.frame(home / "m/rankings/a/0-shot/heads.parquet")
    assert scores(home, ranking="a", shots=0) == rows.select("ranking", "shots", "score").rows()


def test_the_directory_may_move(home):
    run(home)
    run(home, tasks=["b"])
    home.rename(home.with_name("moved"))
    with pytest.warns(UserWarning, match="2 files"):
        assert scores(home.with_name("moved")) == ALL[2:]


def test_a_model_that_left_the_study_is_in_no_summary(home):
    run(home, model="gone")
    run(home)
    console = Console(record=True, width=200)
    found = summary.finished(home, console)
    assert found == [home / "m/tables/summary.parquet"]
    assert "gone/tables/summary.parquet is of another study" in console.export_text()
    (home / "m/tables/summary.parquet").unlink()
    with pytest.raises(
        summary.NoSummaryError, match=r"`headcount run`.*gone.* is of another study"
    ):
        summary.finished(home, console)
