"""Every figure of the tiny study is a picture, a drawing and a page that needs no network."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from itertools import product

import numpy as np
import png
import polars as pl
import pytest
from study import FORMATS, PAGES

from headcount.report import across, figures, tables
from headcount.report.figures import heatmaps
from headcount.scores.importance import ESTIMATORS


@pytest.fixture(scope="module")
def directory(finished, tmp_path_factory):
    """The tiny study, with the figure that is drawn only when asked for."""
    study = finished.copy(tmp_path_factory.mktemp("figures") / "study")
    result = study.run("artifacts/tiny/figures/estimator_agreement.png")
    assert result.returncode == 0, result.stdout
    return study.directory / "artifacts" / "tiny"


@pytest.mark.parametrize("name", [*sorted(PAGES), "estimator_agreement"])
def test_formats(directory, name):
    png = (directory / "figures" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    root = ElementTree.parse(directory / "figures" / f"{name}.svg").getroot()
    width, height = (float(root.get(side).removesuffix("pt")) for side in ("width", "height"))
    assert 430 < width < 500 and height < 9 * 72
    assert int.from_bytes(png[16:20], "big") == pytest.approx(width * 300 / 72, abs=2)
    assert (directory / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    html = (directory / "figures" / f"{name}.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', html)
    assert "<title>Chart" not in html


def test_pages_do_not_need_what_is_remembered(tmp_path, monkeypatch):
    """The script that draws is the same from memory, and where nothing can be remembered."""
    chart = figures.style.note(figures.Style(), "A title", "two tasks")
    homes = [tmp_path / "new", tmp_path / "new", tmp_path / "file" / "below"]
    (tmp_path / "file").touch()
    made = []
    for home in homes:
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        figures.save(chart, [tmp_path / "page.html"])
        made.append((tmp_path / "page.html").read_bytes())
    assert len([*(tmp_path / "new").rglob("*.js")]) == 1
    assert made[0] == made[1] == made[2] and b"vegaEmbed" in made[0]


@pytest.mark.parametrize("name", ["head_pruning", "ffn_pruning", "transfer"])
def test_controls_are_on_every_curve(directory, name):
    svg = (directory / "figures" / f"{name}.svg").read_text()
    assert "top layers first" in svg and "random order" in svg
    table = pl.read_parquet(directory / "tables" / f"{name}.parquet")
    for _, rows in table.group_by("shots", "task"):
        assert {"depth", "random", "aggregate"} <= set(rows["order"])


def test_the_matrix_shows_the_rho_of_its_table(directory):
    svg = (directory / "figures" / "cross_task.svg").read_text()
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    for rho in table["rho"].drop_nulls():
        assert f">{rho:.2f}<".replace("0.", ".").replace("1.00", "1") in svg


def test_a_constant_score_is_a_dash_in_the_matrix(directory, tmp_path):
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    constant = pl.when(pl.col("a") != "tiny_b").then("rho")
    figures.save(
        figures.cross_task(table.with_columns(rho=constant)), [tmp_path / "cross_task.svg"]
    )
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
    figures.save(figures.estimator_agreement(table), [tmp_path / "estimator_agreement.svg"])
    assert "oracle (metric)" in (tmp_path / "estimator_agreement.svg").read_text()


def test_all_estimators_are_those_that_importance_can_be_computed_by(directory):
    """The file with all estimators repeats what the study's own importance says."""
    of_all = pl.read_parquet(directory / "estimators/tiny_a/2-shot/heads.parquet")
    own = pl.read_parquet(directory / "importance/tiny_a/2-shot/heads.parquet")
    repeated = of_all.filter(estimator="gradient-token").drop("estimator")
    assert repeated.equals(own.drop("estimator"))
    assert of_all["estimator"].unique(maintain_order=True).to_list() == list(ESTIMATORS)


# --- large studies, styles, several models ---

LAYERS, HEADS, TASKS, SHOTS = 64, 72, 14, (0, 1, 5)


def large_importance():
    """Scores of every head of a model as large as OPT-66B, for 14 tasks at three shots."""
    frame = pl.DataFrame({"task": [f"task_{i}" for i in range(TASKS)] + ["aggregate"]})
    for name, count in (("layer", LAYERS), ("head", HEADS)):
        frame = frame.join(pl.DataFrame({name: range(count)}), how="cross")
    frame = frame.join(pl.DataFrame({"shots": SHOTS}, schema={"shots": pl.Int32}), how="cross")
    score = np.random.default_rng(0).exponential(size=frame.height)
    return frame.with_columns(
        model=pl.lit("large"),
        score=pl.Series(score),
        standard_error=pl.Series(score / 10),
        share=pl.Series(score / score.max()),
        estimator=pl.lit("gradient-token"),
        documents=pl.lit(2500),
    )


@pytest.mark.parametrize("name", ["head_importance", "head_importance_tasks"])
def test_heatmaps_of_a_large_model_are_pictures_in_small_files(name, tmp_path):
    files = [tmp_path / f"{name}.{kind}" for kind in FORMATS]
    figures.save(getattr(figures, name)(large_importance()), files)
    assert all(file.stat().st_size < 5e6 for file in files)
    svg = files[FORMATS.index("svg")].read_text()
    assert svg.count("data:image/png") == len(SHOTS) * (1 if name == "head_importance" else 15)
    assert svg.count("<path") < 2000


def test_the_scatter_of_a_large_model_is_a_small_file(tmp_path):
    heads = large_importance().filter(task="aggregate").rename({"score": "importance"})
    both = pl.concat(
        heads.with_columns(kind=pl.lit(kind), score=pl.col("share"))
        for kind in ("prefix matching", "copying")
    )
    table = both.with_columns(n=pl.lit(100), rho=0.1, overlap=0.3, chance=0.3)
    files = [tmp_path / f"induction.{kind}" for kind in FORMATS]
    figures.save(figures.induction(table), files)
    assert all(file.stat().st_size < 5e6 for file in files)


@pytest.mark.parametrize("preset,inches,size", [("column", 3.3, 7), ("slide", 10, 14)])
def test_presets_have_their_width_and_size_of_text(directory, tmp_path, preset, inches, size):
    table = pl.read_parquet(directory / "tables" / "head_pruning.parquet")
    style = figures.Style(preset, {"tiny_a": "Task A", "tiny": "Tiny"})
    file = tmp_path / "drawn.svg"
    figures.save(figures.head_pruning_tasks(table, style), [file])
    svg = file.read_text()
    width = float(ElementTree.fromstring(svg).get("width").removesuffix("pt"))
    assert width == pytest.approx(72 * inches, abs=10)
    assert min(map(float, re.findall(r'font-size="([\d.]+)px"', svg))) >= min(size, 7)
    assert ">Task A<" in svg and "Tiny; 2 tasks; n = 8 evaluation" in svg and "tiny_a" not in svg


def test_a_picture_has_a_block_of_pixels_for_every_cell():
    uri = heatmaps.picture(np.array([[0.0, 1.0], [0.5, np.nan]]), ["#000000", "#ffffff"])
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    _, _, rows, _ = png.Reader(bytes=data).read()
    pixels = np.vstack([np.frombuffer(bytes(row), np.uint8) for row in rows]).reshape(512, 512, 3)
    assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[0, -1].tolist() == [255, 255, 255]
    assert pixels[-1, 0].tolist() == [128, 128, 128] and pixels[-1, -1].tolist() == [221] * 3


def test_an_order_of_removal_is_a_line_of_its_own(directory):
    paths = [[directory / "tables" / f"{kind}_pruning.parquet"] for kind in ("head", "ffn")]
    chart = figures.pruning_by_model(across.pruning_by_model(*paths)).to_dict()
    lines = [layer for layer in chart["spec"]["layer"] if layer["mark"]["type"] == "line"]
    orders = [layer["transform"][0]["filter"] for layer in lines]
    assert orders == [f"(datum.order === '{order}')" for order in ("random", "own")]


@pytest.mark.slow
def test_several_models_are_drawn_side_by_side(finished, tmp_path):
    study = finished.copy(tmp_path / "study")
    model = {"source": "model", "device_map": "cpu"}
    study.configure(models={"tiny": model, "other": model})
    result = study.run()
    assert result.returncode == 0, result.stdout
    home = study.directory / "artifacts" / "across"
    names = {"importance_by_depth", "pruning_by_model", "removable_by_size"}
    drawn = {path.name for path in (home / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in names for kind in FORMATS}
    models = {"tiny", "other"}
    for name in names:
        table = pl.read_parquet(home / "tables" / f"{name}.parquet")
        assert set(table["model"]) == models
    depth = pl.read_parquet(home / "tables" / "importance_by_depth.parquet")
    sums = depth.group_by("model", "component", "shots").agg(pl.col("share").sum())
    assert sums.filter(component="heads")["share"].to_list() == pytest.approx([100] * 4)
