"""Every figure of the tiny study is a picture, a drawing and a page that needs no network."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import product

import polars as pl
import pytest
from study import FIGURES

from headcount import figures, tables
from headcount.importance import ESTIMATORS


@pytest.fixture(scope="module")
def directory(finished, tmp_path_factory):
    """The tiny study, with the figure that is drawn only when asked for."""
    study = finished.copy(tmp_path_factory.mktemp("figures") / "study")
    result = study.run("artifacts/tiny/figures/estimator_agreement.png")
    assert result.returncode == 0, result.stdout
    return study.directory / "artifacts" / "tiny"


@pytest.mark.parametrize("name", [*sorted(FIGURES), "estimator_agreement"])
def test_formats(directory, name):
    png = (directory / "figures" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert width > 300 and height > 200
    ElementTree.parse(directory / "figures" / f"{name}.svg")
    html = (directory / "figures" / f"{name}.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', html)


@pytest.mark.parametrize("name", ["head_pruning", "ffn_pruning", "transfer"])
def test_controls_are_on_every_curve(directory, name):
    svg = (directory / "figures" / f"{name}.svg").read_text()
    assert "depth (top layer first)" in svg and "random order" in svg
    table = pl.read_parquet(directory / "tables" / f"{name}.parquet")
    for _, rows in table.group_by("shots", "task"):
        assert {"depth", "random", "aggregate"} <= set(rows["order"])


def test_the_matrix_shows_the_rho_of_its_table(directory):
    svg = (directory / "figures" / "cross_task.svg").read_text()
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    for rho in table["rho"].drop_nulls():
        assert f">{rho:.2f}<" in svg


def test_a_constant_score_is_a_dash_in_the_matrix(directory, tmp_path):
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    constant = pl.when(pl.col("a") != "tiny_b").then("rho")
    figures.cross_task(table.with_columns(rho=constant)).save(tmp_path / "cross_task.svg")
    svg = (tmp_path / "cross_task.svg").read_text()
    assert ">-<" in svg
    assert ">null<" not in svg


def test_rankings_are_compared_with_themselves_on_the_diagonal(directory):
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    itself = table.filter(pl.col("a") == pl.col("b"))
    assert set(itself.select("a", "component", "shots_a").rows()) == set(
        product(["tiny_a", "tiny_b", "aggregate"], ["heads", "ffns"], [0, 2])
    )


def test_estimators_are_compared_for_every_task_shots_and_component(directory):
    table = pl.read_parquet(directory / "tables" / "estimator_agreement.parquet")
    found = table.group_by("component", "task", "shots").len()
    assert set(found.rows()) == set(product(["heads", "ffns"], ["tiny_a", "tiny_b"], [0, 2], [10]))
    svg = (directory / "figures" / "estimator_agreement.svg").read_text()
    for name in ("gradient (token)", "gradient (example)", "oracle (metric)", "oracle (loss)"):
        assert f">{name}<" in svg
    assert "gradient (token) - oracle (loss)" in svg


def test_estimators_are_compared_in_a_study_of_one_task_and_one_number_of_shots(
    directory, tmp_path
):
    file = directory / "estimators/tiny_a/0-shot/heads.parquet"
    table = tables.estimator_agreement([str(file)], resamples=20, seed=0)
    figures.estimator_agreement(table).save(tmp_path / "estimator_agreement.svg")
    assert "oracle (metric)" in (tmp_path / "estimator_agreement.svg").read_text()


def test_all_estimators_are_those_that_importance_can_be_computed_by(directory):
    """The file with all estimators repeats what the study's own importance says."""
    of_all = pl.read_parquet(directory / "estimators/tiny_a/2-shot/heads.parquet")
    own = pl.read_parquet(directory / "importance/tiny_a/2-shot/heads.parquet")
    repeated = of_all.filter(estimator="gradient-token").drop("estimator")
    assert repeated.equals(own)
    assert of_all["estimator"].unique(maintain_order=True).to_list() == list(ESTIMATORS)
