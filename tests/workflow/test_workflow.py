"""The workflow on a tiny study: what is stale runs again and nothing else, bad input is named."""

import json
import re

import polars as pl
import pytest
import tiny
from study import FORMATS, PAGES, STUDY, Study

from headcount.interop import parity


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study that the test may edit."""
    return finished.copy(tmp_path / "study")


def test_every_figure_is_made_in_three_formats(finished):
    directory = finished.directory / "artifacts" / "tiny" / "figures"
    expected = {f"{name}.{kind}" for name in PAGES for kind in FORMATS}
    assert {path.name for path in directory.iterdir()} == expected
    assert all(path.stat().st_size > 1000 for path in directory.iterdir())


def test_many_files_read_as_one_table_without_their_names(finished):
    home = finished.directory / "artifacts"
    scores = pl.read_parquet(f"{home}/*/importance/**/*.parquet")
    about = scores.unique(["model", "task", "shots", "component", "estimator"])
    assert about.height == 8 and set(about["model"]) == {"tiny"}
    by_kind = set(about.select("component", "estimator").rows())
    assert by_kind == {("heads", "gradient-token"), ("ffns", "oracle-task")}
    for kind in ("importance", "rankings", "pruning"):
        for path in home.glob(f"tiny/{kind}/*/*-shot/**/*.parquet"):
            name, shots, *component = path.relative_to(home / "tiny" / kind).with_suffix("").parts
            table = pl.read_parquet(path)
            labels = table.select("ranking" if kind == "rankings" else "task", "shots", "component")
            assert set(labels.rows()) == {(name, int(shots[0]), component[0])}
    rows = pl.read_parquet(f"{home}/tiny/pruning/tiny_a/**/*.parquet")
    orders = {"own", "aggregate", "closest", "farthest", "depth", "random"}
    assert set(rows["order"]) == orders
    assert set(rows.filter(order="own")["ranking"]) == {"tiny_a"}
    assert set(rows.filter(order="closest")["ranking"]) == {"tiny_b"}
    kinds = pl.read_parquet(f"{home}/tiny/induction/*.parquet")["kind"]
    assert set(kinds) == {"prefix_matching", "copying"}
    assert set(pl.read_parquet(f"{home}/tasks/**/*.parquet")["shots"]) == {0, 2}


def test_a_finished_study_has_nothing_to_do(finished):
    assert finished.stale() == {}


def test_comments_docstrings_and_neighbours_rerun_nothing(study):
    for path in sorted(study.directory.glob("src/**/*.py")):
        text = path.read_text(encoding="utf-8").replace('"""', '"""In other words: ', 1)
        path.write_text(text + "\n\n# a comment\n", encoding="utf-8")
    study.append("lm_tasks/tiny_a.yaml", "# a comment\n")
    (study.directory / "lm_tasks" / "unrelated.py").write_text("x = 1\n")
    study.append("model/README.md", "A model.\n")
    assert study.stale() == {}


@pytest.mark.slow
def test_two_runs_give_equal_artifacts(finished, tmp_path):
    again = Study.create(tmp_path / "again")
    assert again.run("artifacts/tiny/tables/retention.parquet").returncode == 0
    made = sorted(again.directory.glob("artifacts/**/*.parquet"))
    # Which rows are in a part, and its name, are left to chance.
    made = [path for path in made if "evaluations" not in path.parts]
    assert len(made) > 20
    for path in made:
        first = finished.directory / path.relative_to(again.directory)
        assert pl.read_parquet(path).equals(pl.read_parquet(first)), path


def test_one_more_task_leaves_the_others_alone(study):
    study.configure(tasks=["tiny_a", "tiny_b", "tiny_c"], heldout_tasks=["tiny_d"])
    tiny.save_tasks(study.directory / "lm_tasks", ("tiny_d",), root=study.directory)
    stale = study.stale()
    assert "verify_model" not in stale
    assert stale["score_importance"] == 4  # those of tiny_c


def test_a_changed_engine_is_proved_again_and_all_is_computed_with_it(study):
    attention = study.directory / "src/headcount/engine/attention.py"
    before = attention.read_text()
    attention.write_text(before.replace("query * settings.scaling", "query * settings.scaling * 1"))
    assert attention.read_text() != before
    study.configure(levels={**STUDY["levels"], "heads": [0, 25, 50, 75]})
    stale = study.stale()
    assert stale["verify_model"] == 1
    assert (stale["score_importance"], stale["prune"], stale["score_induction"]) == (8, 12, 2)


@pytest.mark.slow
def test_the_estimator_is_known_by_what_it_varies_in_alone(study):
    importance = {"heads": {"estimator": "gradient", "metric": "loss"}, "ffns": {"metric": "loss"}}
    study.configure(importance=importance)  # the gradient has no metric
    stale = study.stale()
    assert stale["score_importance"] == 4 and "draw_head_importance" not in stale


@pytest.mark.slow
def test_the_agreement_of_estimators_is_narrowed(study):
    study.configure(estimator_agreement={"tasks": ["tiny_b"], "shots": [2]})
    target = "artifacts/tiny/figures/estimator_agreement.png"
    stale = study.stale(target)
    assert stale == {"score_estimators": 2, "draw_estimator_agreement": 1}


def test_a_missing_figure_is_drawn_again(study):
    (study.directory / "artifacts/tiny/figures/retention.png").unlink()
    assert study.stale() == {"draw_retention": 1}


@pytest.mark.slow
def test_a_group_stands_for_its_tasks(study):
    group = "group: tiny_group\ntask: [tiny_a, tiny_b]\n"
    (study.directory / "lm_tasks" / "group.yaml").write_text(group)
    study.configure(tasks=["tiny_group"])
    assert study.stale() == {}


@pytest.mark.slow
def test_every_task_is_compared_with_lm_eval_when_asked(study):
    result = study.run("parity")
    assert result.returncode == 0, result.stdout
    page, equal = parity.show(study.directory / "artifacts")
    assert equal and "12 of 12 rows are equal" in page  # three tasks at two shots, six edge cases
    assert all(f"| tiny_{task} | {shots} |" in page for task in "abc" for shots in (0, 2))


# --- bad input: a clear message, before any model is loaded ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes,message",
    [
        ({"tsaks": ["tiny_a"]}, r"tsaks: there is no such key: did you mean tasks\?"),
        ({"tasks": ["tiny_aa"]}, r"unknown task 'tiny_aa' \(close: tiny_a"),
        ({"task_path": "nowhere"}, r"task_path: nowhere is not a directory"),
        ({"levels": {"heads": [0, 120]}}, r"levels\.heads\[1\]: 120 is greater than the maximum"),
        ({"levels": {"heads": [10]}}, r"levels\.heads: "),
        ({"seed": "one"}, r"seed: 'one' is not of type 'integer'"),
        ({"heldout_tasks": ["tiny_a"]}, r"tiny_a cannot be in tasks too"),
        (
            {"models": {"m": {"source": "model", "dtpye": "x"}}},
            r"models\.m\.dtpye: .* did you mean dtype\?",
        ),
        ({"models": {}}, r"models: "),
        (
            {"estimator_agreement": {"tasks": ["tiny_a", "tiny_c"]}},
            r"estimator_agreement\.tasks: \['tiny_c'\] not among tasks",
        ),
        ({"estimator_agreement": {"shots": [3]}}, r"estimator_agreement\.shots: \[3\] not among"),
        ({"artifacts": "res{1}"}, r"artifacts: res\{1\}: its name must not contain \{ \}"),
        ({"artifacts": "config.yaml"}, r"artifacts: config\.yaml is a file: name a directory"),
        ({"importance": {"ffns": {"metric": "acc"}}}, r"importance\.ffns\.metric: 'acc' is not"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(study, changes, message):
    study.configure(**changes)
    result = study.run("--dry-run")
    assert result.returncode != 0
    assert re.search(message, result.stdout), result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "target,message",
    [
        (
            "sumary.png",
            r"sumary\.png: did you mean artifacts/tiny/figures/summary\.(svg|pdf|html|png)",
        ),
        ("{directory}/artifacts/tiny/model.json", r"did you mean artifacts/tiny/model\.json\?"),
    ],
)
def test_a_target_that_nothing_makes_is_told(study, target, message):
    for arguments in ((), ("--dry-run",)):
        result = study.run(target.format(directory=study.directory), *arguments)
        assert result.returncode and re.search(message, result.stdout), result.stdout
        assert "does not make" in result.stdout and "No rule" not in result.stdout


@pytest.mark.slow
def test_a_directory_in_the_place_of_an_artifact_is_told(study):
    for name in ("tiny/figures/summary.svg", "tiny/rankings/depth/0-shot/heads.parquet"):
        path = study.directory / "artifacts" / name
        path.unlink()
        path.mkdir()
        result = study.run("--dry-run")
        assert result.returncode and "Traceback" not in result.stdout, result.stdout
        assert f"{name} is a directory, where a file of the study belongs" in result.stdout
        path.rmdir()


@pytest.mark.slow
def test_artifacts_below_the_users_own_directory(study, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (study.directory / "artifacts").rename(tmp_path / "home" / "results")
    study.configure(artifacts="~/results/")
    assert study.stale() == {}
    assert not (study.directory / "~").exists()


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_a_study_runs_without_a_cache(study, monkeypatch, variable):
    """Snakemake itself wants one, which is then temporary."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, "/dev/null/nowhere")
    figure = study.directory / "artifacts/tiny/tables/retention.parquet"
    figure.unlink()
    result = study.run("artifacts/tiny/tables/retention.parquet")
    assert result.returncode == 0 and figure.exists(), result.stdout


def fails(study, target, message):
    """The reason is told, what was there stays, and nothing half-written is added."""
    path = study.directory / target
    before = path.read_bytes() if path.exists() else None
    result = study.run(target)
    assert result.returncode != 0
    assert re.search(message, result.stdout), result.stdout
    assert (path.read_bytes() if path.exists() else None) == before
    assert not list(path.parent.glob(".headcount-*"))


def test_more_shots_than_examples_is_told(study):
    study.configure(shots=[24])
    fails(study, "artifacts/tasks/tiny_a/24-shot/evaluation.parquet", "24 shots need 25 examples")


@pytest.mark.slow
def test_a_model_that_is_nowhere_is_told(study, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study.configure(models={"tiny": {"source": "no/such-model"}})
    fails(study, "artifacts/tiny/model.json", "no/such-model")


@pytest.mark.slow
def test_code_that_a_model_brings_is_told_without_asking(study):
    config = study.directory / "model" / "config.json"
    own = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    config.write_text(json.dumps({"model_type": "mine", "auto_map": own}))
    fails(study, "artifacts/tiny/model.json", "trust_remote_code: true")


@pytest.mark.slow
def test_scores_that_are_not_finite_are_told(study):
    model = study.directory / "model"
    tiny.save_model(model)
    tiny.spoil(model)
    fails(
        study,
        "artifacts/tiny/verified.parquet",
        r"its own log-likelihoods are not finite.* weights that are not finite",
    )


DOUBLED = """
_gradient = gradient


def gradient(*arguments):
    scores = _gradient(*arguments)
    scores.contributions *= 2
    return scores
"""


@pytest.mark.slow
def test_an_engine_that_is_wrong_stops_the_study(study):
    study.append("src/headcount/scores/importance.py", DOUBLED)
    fails(
        study,
        "artifacts/tiny/verified.parquet",
        r"opt.*(?s:.*)gradient scores of heads, in float32: off by",
    )
