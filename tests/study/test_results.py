"""A finished study in frames and figures, and what is said of what it does not have."""

import subprocess
import sys

import altair as alt
import polars as pl
import pytest

import headcount as hc
from headcount.artifacts import schemas, storage
from headcount.report import figures
from headcount.study import results


@pytest.fixture(scope="module")
def home(finished):
    return finished.directory / "artifacts" / "tiny"


@pytest.fixture(scope="module")
def tiny_study(home):
    return hc.load(home)


def test_frames_hold_the_files_that_are_asked_for(tiny_study, home):
    scores = tiny_study.importance("heads", task="tiny_a", shots=2)
    file = pl.read_parquet(home / "importance/tiny_a/2-shot/heads.parquet")
    assert scores.equals(file.drop("contributions", "weights"))
    assert tiny_study.rankings("ffns", ranking="depth", shots=0).equals(
        pl.read_parquet(home / "rankings/depth/0-shot/ffns.parquet")
    )
    pruned = tiny_study.pruning("heads", task="tiny_c", shots=2)
    assert set(pruned["order"]) == {"aggregate", "depth", "random"}
    assert set(tiny_study.correlation("ffns")["component"]) == {"ffns"}
    assert "spearman_brown" in tiny_study.correlation("heads", "reliability").columns
    assert set(tiny_study.induction()["kind"]) == {"prefix_matching", "copying"}
    assert set(tiny_study.prompts("tiny_b")["shots"]) == {0, 2}
    assert tiny_study.summary().equals(pl.read_parquet(home / "tables/summary.parquet"))


def test_what_is_left_out_stands_for_all(tiny_study):
    found = tiny_study.importance()
    assert found.select("task", "shots", "component").unique().height == 8
    assert found.height == 2 * 2 * (12 + 3)
    assert tiny_study.rankings("heads", ranking="tiny_a")["shots"].unique().sort().to_list() == [
        0,
        2,
    ]


def test_numbers_of_shots_come_in_rising_order(tmp_path):
    rows = [{"layer": 0, "head": 0, "rank": 0, "score": 0.5}]
    for shots in (10, 1, 5):
        made = {"model": "m", "ranking": "a", "shots": shots, "component": "heads"}
        path = tmp_path / f"rankings/a/{shots}-shot/heads.parquet"
        storage.write(path, rows, schemas.SCHEMAS["rankings"], made)
    assert results.Study(tmp_path).rankings("heads")["shots"].to_list() == [1, 5, 10]


@pytest.mark.parametrize("name", ["head_importance", "cross_shot", "summary"])
def test_figures_are_charts(tiny_study, name):
    chart = getattr(tiny_study.figures, name)()
    assert isinstance(chart, alt.TopLevelMixin)
    assert chart.to_dict() == getattr(figures, name)(tiny_study.table(name)).to_dict()


def test_what_is_not_there_is_told_with_what_is(tiny_study, home):
    with pytest.raises(results.NotMadeError) as told:
        tiny_study.importance("heads", task="tiny_x", shots=2)
    assert "task tiny_a, tiny_b; shots 0, 2; component ffns, heads" in str(told.value)
    target = f"{home}/importance/tiny_x/2-shot/heads.parquet"
    assert str(told.value).endswith(f"`headcount run config.yaml {target}`")
    with pytest.raises(results.NotMadeError, match=r"`headcount run`$"):
        tiny_study.rankings("head")
    with pytest.raises(results.NotMadeError, match=r"tables/estimator_agreement\.parquet"):
        tiny_study.figures.estimator_agreement()
    with pytest.raises(
        AttributeError, match=r"no figure is named 'head_import': .*head_importance"
    ):
        _ = tiny_study.figures.head_import


def test_a_directory_without_a_model_names_those_beside_it(home, tmp_path):
    for directory in (home.parent, home.parent / "tinny"):
        with pytest.raises(results.NotMadeError, match=f"give one of {home}"):
            hc.load(directory)
    with pytest.raises(results.NotMadeError, match="run the study: `headcount run`"):
        hc.load(tmp_path / "empty")  # beside nothing else


def test_a_damaged_file_is_refused(home, tmp_path):
    path = tmp_path / "tables" / "summary.parquet"
    path.parent.mkdir()
    path.write_bytes((home / "tables/summary.parquet").read_bytes()[:-1])
    with pytest.raises(storage.DamagedError):
        results.Study(tmp_path).summary()


@pytest.mark.slow
def test_of_two_studies_in_a_directory_the_one_that_ran_last_is_read(finished, tmp_path):
    """The second has other shots and another reduction."""
    copy = finished.copy(tmp_path / "copy")
    home = copy.directory / "artifacts" / "tiny"
    before = hc.load(home).importance("heads")
    importance = {"heads": {"estimator": "gradient", "reduction": "example"}}
    copy.configure(shots=[0], tasks=["tiny_b"], heldout_tasks=[], importance=importance)
    target = "artifacts/tiny/importance/tiny_b/0-shot/heads.parquet"
    assert copy.run(target).returncode == 0
    with pytest.warns(UserWarning, match=r"3 files .* of another study"):
        found = hc.load(home).importance("heads")
    assert found["estimator"].unique().to_list() == ["gradient-example"]
    assert found.select("task", "shots").unique().rows() == [("tiny_b", 0)]
    copy.configure()
    assert copy.run(target).returncode == 0  # back, without computing anything
    assert hc.load(home).importance("heads").equals(before)


def test_importing_the_package_imports_nothing_that_is_slow():
    code = "import sys, headcount; from headcount.artifacts import source_code; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())
    assert "headcount.artifacts.source_code" in modules
    assert not modules & {"torch", "transformers", "lm_eval", "polars", "altair"}
