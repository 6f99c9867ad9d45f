"""The studies in configs/, to their end, on a tiny model and a mirror of invented documents."""

import json
import subprocess
import sys

import polars as pl
import pytest
import tiny
import yaml
from invented import save_mirror
from study import FIGURES, FORMATS, PAGES, REPOSITORY, Study
from transformers import AutoModelForCausalLM, AutoTokenizer

from headcount.report.tables import MEAN

# What is replaced of a study; all else is its own.
REPLACED = {
    "limits": {"calibration": 4, "evaluation": 4},
    "levels": {
        "heads": [0, 70],
        "ffns": [0, 20],
        "combined": {"heads": [0, 70], "ffns": [0, 20]},
    },
    "datasets": "mirror",
}


def small(name, directory):
    """The study in configs/NAME.yaml, made small, in a directory of its own."""
    study = Study.empty(directory)
    config = yaml.safe_load((REPOSITORY / "configs" / f"{name}.yaml").read_text())
    assert list(config["models"]) == [name] and "datasets" not in config
    model = {"source": "model", "device_map": "cpu"}
    config |= {"models": {name: model}, **REPLACED}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    tiny.save_reader(directory / "model")
    save_mirror(directory / "mirror")
    return study


@pytest.mark.slow
def test_opt_125m_is_planned(tmp_path):
    stale = small("opt-125m", tmp_path).stale()
    assert stale["prepare_task"] == (16 + 14) * 3  # to evaluate; to calibrate on
    assert sum(rule.startswith("draw_") for rule in stale) == len(FIGURES)


@pytest.fixture(scope="module")
def opt_66b(tmp_path_factory):
    study = small("opt-66b", tmp_path_factory.mktemp("opt-66b"))
    result = study.run("--quiet", "rules")
    assert result.returncode == 0, result.stdout
    return study


def headcount(study, *arguments):
    """What a command of headcount's prints in the directory of the study."""
    command = [sys.executable, "-m", "headcount", *arguments]
    result = subprocess.run(command, cwd=study.directory, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_opt_66b_ends_in_all_its_figures(opt_66b):
    drawn = {path.name for path in (opt_66b.directory / "artifacts/opt-66b/figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in PAGES for kind in FORMATS}
    assert opt_66b.stale() == {}


@pytest.mark.slow
def test_every_task_is_pruned_at_every_number_of_shots(opt_66b):
    pruning = pl.read_parquet(opt_66b.directory / "artifacts/opt-66b/tables/head_pruning.parquet")
    tasks = pruning.filter(pl.col("order") == "own", pl.col("task") != MEAN)
    points = tasks.group_by("task", "shots").agg(pl.col("heads_removed").unique().len())
    assert points.height == 14 * 3 and set(points["heads_removed"]) == {2}


@pytest.mark.slow
def test_opt_66b_is_held_against_the_paper(opt_66b):
    told = headcount(opt_66b, "compare-paper")
    assert "opt-66b" in told
    for shots in (0, 1, 5):
        assert f"{shots}-shot: 70 % of the heads" in told


@pytest.mark.slow
def test_opt_66b_pruned_is_a_checkpoint_of_plain_transformers(opt_66b):
    cuts = ["--heads", "aggregate/5-shot@70", "--ffns", "copa/1-shot@20"]
    headcount(opt_66b, "export", "--model", "opt-66b", *cuts, "pruned")
    pruned = AutoModelForCausalLM.from_pretrained(opt_66b.directory / "pruned")
    tokenizer = AutoTokenizer.from_pretrained(opt_66b.directory / "pruned")
    logits = pruned(**tokenizer("The baker mends a kettle.", return_tensors="pt")).logits
    report = json.loads((opt_66b.directory / "pruned/headcount.json").read_text())
    assert logits.isfinite().all()
    assert len(report["removed"]["heads"]) == 14 and len(report["removed"]["ffns"]) == 1
