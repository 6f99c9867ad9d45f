"""What runs again after an edit: nothing but what means something else, and all of that.

Each row of the tables is an edit of the finished tiny study, and the jobs that a dry run would
then execute. The whole study has 74.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from subprocess import PIPE, Popen

import pytest
import tiny
import yaml
from study import FIGURES, STUDY, Study

from headcount.__main__ import main
from headcount.artifacts import schemas, storage

DRAWN = {f"draw_{name}": 1 for name in FIGURES}
MODEL_JOBS = {"verify_model", "score_importance", "score_induction", "prune"}
MODEL_JOBS |= {"prune_heldout", "prune_transfer"}


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study that the test may edit."""
    return finished.copy(tmp_path / "study")


# --- edits ---


def append(path, text):
    return lambda study: study.append(path, text)


def replaced(path, old, new):
    def edit(study):
        file = study.directory / path
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return edit


def configured(**changes):
    return lambda study: study.configure(**changes)


def levels(**changes):
    return configured(levels={**STUDY["levels"], **changes})


def model(**changes):
    return configured(models={"tiny": {**STUDY["models"]["tiny"], **changes}})


def task_yaml(study, change):
    path = study.directory / "lm_tasks" / "tiny_a.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(change(config), sort_keys=False))


def touched(study):
    for path in sorted(study.directory.rglob("*"), reverse=True):
        if ".snakemake" not in path.parts and path.is_file():
            path.touch()


def forgotten(study):
    shutil.rmtree(study.directory / ".snakemake")


def both(*edits):
    def edit(study):
        for one in edits:
            one(study)

    return edit


def model_renamed(study):
    (study.directory / "model").rename(study.directory / "checkpoint")
    model(source="checkpoint")(study)


def model_absolute(study):
    model(source=str(study.directory / "model"))(study)


def model_linked(study):
    (study.directory / "link").symlink_to("model")
    model(source="link")(study)


def model_reformatted(study):
    path = study.directory / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8))
    (study.directory / "model" / "README.md").write_text("A model.")


def tasks_renamed(study):
    (study.directory / "lm_tasks").rename(study.directory / "tasks")
    for path in (study.directory / "tasks").glob("*.yaml"):
        path.write_text(path.read_text().replace("lm_tasks/", "tasks/"))
    configured(task_path="tasks")(study)


def data_renamed(study):
    data = study.directory / "lm_tasks" / "data" / "tiny_a"
    (data / "train.jsonl").rename(data / "examples.jsonl")
    replaced("lm_tasks/tiny_a.yaml", "tiny_a/train.jsonl", "tiny_a/examples.jsonl")(study)


def artifacts_moved(study):
    (study.directory / "artifacts").rename(study.directory / "results")
    forgotten(study)
    configured(artifacts="results")(study)


def copied_in_another_order(study):
    """As `cp -r` leaves it: a new time for each file, whatever was made first."""
    files = [path for path in (study.directory / "artifacts").rglob("*") if path.is_file()]
    for time, path in enumerate(sorted(files, key=lambda path: path.name), start=10**9):
        os.utime(path, (time, time))
    forgotten(study)


def as_json(study):
    """The same study, as `--configfile` and the default find it: written as JSON."""
    path = study.directory / "config.yaml"
    path.write_text(json.dumps(yaml.safe_load(path.read_text())))


def released(*names):
    """Other releases of packages, as far as their metadata tell."""

    def edit(study):
        for name in names:
            metadata = study.directory / "src" / f"{name}-99.0.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")

    return edit


UNSEEN = {
    "nothing": lambda study: None,
    "every file touched": touched,
    "docstring in artifacts.py": replaced(
        "src/headcount/artifacts/storage.py", '"""Parquet', '"""The'
    ),
    "docstring in pruning.py": replaced(
        "src/headcount/scores/pruning.py", '"""Cumulative', '"""Step'
    ),
    "comment in engine/layers.py": append("src/headcount/engine/layers.py", "\n# a comment\n"),
    "comment in tasks.py": append("src/headcount/tasks/prompts.py", "\n# a comment\n"),
    "formatting of prune.py": replaced("scripts/prune.py", "import job\n", "import  job\n\n\n"),
    "a line of job.py": append("src/headcount_workflow/job.py", "\nCOUNT = 1\n"),
    "seconds between lines of progress": replaced(
        "src/headcount/progress.py", "SECONDS = 10", "SECONDS = 20"
    ),
    "an error of conversion.py": replaced(
        "src/headcount/models/conversion.py", "has to be converted", "must be converted"
    ),
    "comment in a rule": append("workflow/rules/pruning.smk", "\n# a comment\n"),
    "comment in the configuration": append("config.yaml", "\n# a comment\n"),
    "comment in a task's file": append("lm_tasks/tiny_a.yaml", "\n# a comment\n"),
    "order of keys in a task's file": lambda study: task_yaml(
        study, lambda config: dict(reversed(config.items()))
    ),
    "a Python file beside the tasks": append("lm_tasks/other.py", "print()\n"),
    "a task that nobody studies": lambda study: tiny.save_tasks(
        study.directory / "lm_tasks", ("tiny_z",), root=study.directory
    ),
    "the model's directory renamed": model_renamed,
    "the model by its absolute path": model_absolute,
    "the model by a link": model_linked,
    "config.json reformatted, a README": model_reformatted,
    "task_path renamed": tasks_renamed,
    "a file of documents renamed": data_renamed,
    "a mirror that no task reads": configured(datasets="lm_tasks"),
    "device_map": model(device_map="auto"),
    "memory, threads": model(memory=300, mem_mb=3000, threads=2),
    "order of tasks": configured(tasks=["tiny_b", "tiny_a"]),
    "order of shots": configured(shots=[2, 0]),
    "order of levels": levels(heads=[50, 0, 25]),
    "a default written out": configured(ablation="zero", seed=0, metrics={"tiny_a": "acc"}),
    "whole numbers as decimals": both(
        levels(ffns=[0.0, 34.0]), replaced("config.yaml", "calibration: 10", "calibration: 10.0")
    ),
    "the study as JSON": as_json,
    "releases of what decides no number": released("snakemake", "polars", "pyarrow"),
    ".snakemake lost": forgotten,
    "artifacts copied": copied_in_another_order,
    "artifacts moved": artifacts_moved,
}


@pytest.mark.slow
@pytest.mark.parametrize("edit", UNSEEN.values(), ids=UNSEEN)
def test_what_means_the_same_runs_nothing(study, edit):
    edit(study)
    assert study.stale() == {}


@pytest.mark.slow
def test_the_file_of_the_study_makes_no_difference(study, tmp_path):
    path = tmp_path / "elsewhere.json"
    path.write_text(json.dumps({**STUDY, "task_path": str(study.directory / "lm_tasks")}))
    assert study.stale("all", "--configfile", str(path)) == {}


@pytest.mark.slow
def test_without_the_profile_nothing_is_computed_again(study):
    """Snakemake's own triggers start jobs, which find their outputs current and end."""
    for path in (study.directory / "scripts").glob("*.py"):
        path.touch()
    assert study.stale() == {}
    assert study.stale("--workflow-profile", "none")
    before = contents(study)
    result = study.run("--workflow-profile", "none")
    assert result.returncode == 0, result.stdout
    assert contents(study) == before


# --- what is only looked at ---


def contents(study):
    """Artifact -> its inode and content."""
    files = [path for path in (study.directory / "artifacts").rglob("*") if path.is_file()]
    unread = (".lock", ".log", ".study.json")
    return {
        str(path): (path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
        if not path.name.endswith(unread)
    }


def everything(study):
    """All that is below the artifacts, with contents and times."""
    paths = [study.directory / "artifacts", *(study.directory / "artifacts").rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths}


RANDOM = "artifacts/tiny/rankings/random-0/0-shot/heads.parquet"
LOOKS = [
    ["--dry-run"],
    ["--dry-run", "--config", "seed=2"],
    ["--dry-run", "--forceall"],
    ["--dry-run", "--workflow-profile", "none"],
    ["--lint"],
    ["--list-rules"],
    ["--summary"],
    ["--dag"],
    ["--report", "report.html"],
]


@pytest.mark.slow
def test_looking_changes_neither_contents_nor_times(study):
    """Nor puts it back earlier versions, which the next run does; whoever runs on the artifacts."""
    of_first = (study.directory / RANDOM).read_bytes()
    study.configure(seed=1)
    assert study.run(RANDOM).returncode == 0
    of_second = (study.directory / RANDOM).read_bytes()
    assert of_second != of_first
    study.configure()
    before = everything(study)
    for arguments in LOOKS:
        result = study.run(*arguments)
        assert everything(study) == before, arguments
        assert result.returncode == 0 or arguments == ["--lint"], result.stdout
    holding = Popen([sys.executable, "-c", HOLDING, study.directory / "artifacts"], stdout=PIPE)
    assert holding.stdout.readline() == b"None\n"
    before = everything(study)
    assert study.stale() == {}  # what can be put back counts as current
    told = study.run()
    holding.kill()
    holding.wait()
    assert everything(study) == before
    assert told.returncode and "is being written by another run of headcount" in told.stdout
    result = study.run(RANDOM)
    assert "Nothing to be done" in result.stdout, result.stdout
    assert (study.directory / RANDOM).read_bytes() == of_first


HOLDING = """
import sys, time
from headcount.artifacts import locks
print(locks.take(sys.argv[1]), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_is_stale_is_seen_whoever_owns_it(study):
    """Times of another's files can be set by root alone."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can give its files away and its powers up")
    study.configure(bootstrap={"resamples": 30})
    expected = study.stale()
    for path in (study.directory / "artifacts").rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
        os.chown(path, 65534, 65534)
    study.powers = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    assert expected and study.stale() == expected
    for path in (study.directory / "artifacts").rglob("*.parquet"):
        path.chmod(0o644)
    for arguments in ([], ["--dry-run"]):
        result = study.run("artifacts/tiny/figures/cross_task.png", *arguments)
        assert result.returncode  # it is not believed
        assert re.search(r"^Write-protected, .*`chmod -R g\+rwX artifacts`", result.stdout, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(
    "closed,said",
    [
        ("rankings", "Write-protected, most likely by another user: artifacts/tiny/rankings/depth"),
        ("", "artifacts/.study.json cannot be written: Permission denied"),
        ("../.earlier", "artifacts/.earlier/.* cannot be written: Permission denied: .* writable"),
    ],
)
def test_a_folder_that_another_user_has_closed_is_told(study, closed, said):
    """Also where a job fails, whose outputs are another user's: Snakemake puts them back then."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can give its files away and its powers up")
    study.configure(seed=1)
    artifacts = study.directory / "artifacts"
    (artifacts / ".earlier").mkdir(exist_ok=True)
    home = (artifacts / "tiny" / closed).resolve() if closed else artifacts
    for path in [artifacts, *artifacts.rglob("*")]:
        of_closed = path == home or (closed and path.is_relative_to(home))
        path.chmod((0o755 if of_closed else 0o777) if path.is_dir() else 0o666)
        os.chown(path, 65534, 65534)
    study.powers = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    result = study.run(RANDOM)
    assert result.returncode and re.search(said, result.stdout), result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_stale_files_from_the_future_are_made_again(study):
    study.configure(seed=1)
    os.utime(study.directory / RANDOM, (4e9, 4e9))
    (study.directory / RANDOM).with_name("ffns.parquet").touch()
    stale = study.stale(RANDOM)
    result = study.run(RANDOM)
    assert stale == {"rank_controls": 1} and result.returncode == 0, result.stdout
    assert study.stale(RANDOM) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--force"], ["--forceall"], ["--forcerun", "rank_controls"]]
)
def test_what_is_forced_is_computed_and_written_again(study, arguments):
    path = study.directory / RANDOM
    before, content = path.stat().st_ino, path.read_bytes()
    result = study.run(RANDOM, *arguments)
    assert result.returncode == 0, result.stdout
    assert path.stat().st_ino != before and path.read_bytes() == content
    assert study.stale() == {}


@pytest.mark.slow
def test_the_place_that_snakemake_is_called_from_makes_no_difference(study, tmp_path):
    touched(study)
    study.configure(models={"tiny": {"source": str(study.directory / "model")}})
    arguments = ["--snakefile", str(study.directory / "Snakefile")]
    arguments += ["--directory", str(study.directory)]
    elsewhere = Study(tmp_path)
    assert elsewhere.stale("all", *arguments) == {}


# --- what is seen, and how far it goes ---


def documents_behind_a_wildcard(study):
    files = {split: f"lm_tasks/data/tiny_a/{split}*.jsonl" for split in ("train", "validation")}
    task_yaml(study, lambda config: config | {"dataset_kwargs": {"data_files": files}})


def documents_in_a_directory(study):
    task_yaml(
        study,
        lambda config: config | {"dataset_path": "lm_tasks/data/tiny_a", "dataset_kwargs": None},
    )


ANSWER = replaced("lm_tasks/data/tiny_a/validation.jsonl", '"answer": 0', '"answer": 1')
HELPER = "def target(doc):\n    return doc['answer']\n"


def code_of_a_task(study):
    tasks = study.directory / "lm_tasks"
    (tasks / "helper.py").write_text(HELPER)
    (tasks / "answers.py").write_text("from helper import target\n")
    (tasks / "tiny_a.yaml").write_text(
        (tasks / "tiny_a.yaml").read_text().replace("answer", "!function answers.target", 1)
    )


def flipped(study):
    path = study.directory / "artifacts/tiny/importance/tiny_a/0-shot/heads.parquet"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def truncated(study):
    path = study.directory / "artifacts/tiny/figures/summary.svg"
    path.write_text(path.read_text()[:1000])


def page_truncated(study):
    path = study.directory / "artifacts/tiny/report/index.html"
    path.write_text(path.read_text()[:1000])


def deleted(study):
    (study.directory / "artifacts/tiny/importance/tiny_a/0-shot/heads.parquet").unlink()


def of_another_format(study):
    path = study.directory / "artifacts/tiny/rankings/aggregate/0-shot/heads.parquet"
    table, made = storage.read(path), storage.provenance(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "FORMAT", 1)
        storage.write(path, table, schemas.SCHEMAS["rankings"], made)


def of_nobody(study):
    path = study.directory / "artifacts/tiny/rankings/aggregate/0-shot/heads.parquet"
    storage.frame(path).write_parquet(path)


def other_weights(study):
    tiny.save_model(study.directory / "model", seed=1)


def estimator(study):
    study.configure(importance={"heads": {"estimator": "oracle"}})


HEAD_PRUNING = {"prune": 4, "prune_heldout": 2, "prune_transfer": 4}
HEAD_PRUNING |= {"draw_head_pruning": 1, "draw_transfer": 1, "draw_summary": 1, "draw_retention": 1}
INDUCTION = {"score_induction": 2, "draw_induction": 1, "draw_retention": 1}
ONE_RANKING = {"prune": 4, "prune_heldout": 1}
WITH_INTERVALS = ["head_pruning", "ffn_pruning", "combined_pruning", "cross_task", "transfer"]
WITH_INTERVALS += ["cross_shot", "summary"]
SEEN = {  # some of the jobs
    "a factor of attention": (
        replaced("src/headcount/engine/attention.py", "settings.scaling)", "settings.scaling * 2)"),
        {"verify_model": 1, "score_importance": 8, "score_induction": 2, "prune": 12},
    ),
    "a factor of gradients": (
        replaced("src/headcount/engine/gradients.py", "of_activation.f", "2 * of_activation.f"),
        {"verify_model": 1, "score_importance": 8},
    ),
    "an induction score": (
        replaced("src/headcount/scores/induction.py", "REPEATS = 4", "REPEATS = 3"),
        INDUCTION,
    ),
    "a figure": (
        replaced("src/headcount/report/figures/style.py", "COLORS = ", "COLORS = 2 * "),
        DRAWN,
    ),
    "a release of lm-eval": (released("lm_eval"), {"prepare_task": 10}),
    "a level": (levels(heads=[0, 25, 50, 75]), HEAD_PRUNING),
    "a level less": (levels(heads=[0, 50]), HEAD_PRUNING),
    "the bootstrap": (
        configured(bootstrap={"resamples": 30}),
        {f"draw_{name}": 1 for name in WITH_INTERVALS} | {"correlate": 6},
    ),
    "a random ranking": (configured(random_rankings=2), {"rank_controls": 4, "prune": 12}),
    "a number of shots": (
        configured(shots=[0, 1, 2]),
        {"prepare_task": 5, "score_importance": 4, "prune": 6},
    ),
    "documents to calibrate on": (
        configured(limits={"calibration": 12, "evaluation": 8}),
        {"prepare_task": 4, "score_importance": 8},
    ),
    "the type of numbers": (model(dtype="bfloat16"), {"verify_model": 1, "score_importance": 8}),
    "other weights": (other_weights, {"resolve_model": 1, "score_importance": 8}),
    "the metric of the FFN oracle": (
        configured(importance={"ffns": {"metric": "loss"}}),
        {"score_importance": 4, "rank_by_task": 4, "rank_by_aggregate": 2},
    ),
    "sequences": (configured(induction={"sequences": 3}), INDUCTION),
    "documents": (ANSWER, {"prepare_task": 4}),
    "a bit": (flipped, {"score_importance": 1}),
    "a figure cut short": (truncated, {"draw_summary": 1}),
    "a page cut short": (page_truncated, {"explore": 1}),
    "a line of the page's script": (
        append("src/headcount/report/explorer/assets/map.js", "\n// a comment\n"),
        {"explore": 1},
    ),
    "an artifact deleted": (deleted, {"score_importance": 1}),
    "another format": (of_another_format, {"rank_by_aggregate": 1, **ONE_RANKING}),
    "made by nobody": (of_nobody, {"rank_by_aggregate": 1, **ONE_RANKING}),
    ".snakemake lost, another seed": (
        both(forgotten, configured(seed=1)),
        {"prepare_task": 4, "rank_controls": 4, "score_importance": 8},
    ),
    ".snakemake lost, other weights": (both(forgotten, other_weights), {"resolve_model": 1}),
    ".snakemake lost, another estimator": (both(forgotten, estimator), {"score_importance": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize("edit,expected", SEEN.values(), ids=SEEN)
def test_what_means_something_else_runs_again(study, edit, expected):
    edit(study)
    stale = study.stale()
    assert expected.items() <= stale.items(), stale


@pytest.mark.slow
def test_more_documents_to_evaluate_score_nothing(study):
    study.configure(limits={"calibration": 10, "evaluation": 12})
    stale = study.stale()
    scored = {"score_importance", "rank_by_task", "rank_by_aggregate", "correlate"}
    assert (stale["prepare_task"], stale["prune"]) == (6, 12) and not scored & set(stale)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [documents_behind_a_wildcard, documents_in_a_directory])
def test_documents_are_seen_wherever_they_are(study, kind):
    prompts = "artifacts/tasks/tiny_a/0-shot/evaluation.parquet"
    kind(study)
    assert study.run(prompts).returncode == 0
    assert study.stale(prompts) == {}
    ANSWER(study)
    assert study.stale(prompts) == {"prepare_task": 1}


@pytest.mark.slow
def test_what_a_tasks_code_reaches_is_seen(study, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(study.directory / "lm_tasks"))
    code_of_a_task(study)
    assert study.stale()["prepare_task"] == 4
    assert study.run("artifacts/tasks/tiny_a/0-shot/evaluation.parquet").returncode == 0
    study.append("lm_tasks/helper.py", "# a comment\n")
    assert "prepare_task" not in study.stale("artifacts/tasks/tiny_a/0-shot/evaluation.parquet")
    study.append("lm_tasks/helper.py", "COUNT = 1\n")
    assert study.stale("artifacts/tasks/tiny_a/0-shot/evaluation.parquet") == {"prepare_task": 1}


@pytest.mark.slow
def test_what_touches_no_model_runs_no_model(study):
    study.configure(bootstrap={"resamples": 30})
    assert not MODEL_JOBS & set(study.stale())
    study.configure(importance={"ffns": {"metric": "loss"}})
    assert not {"draw_head_importance", "draw_head_pruning", "draw_transfer"} & set(study.stale())


@pytest.mark.slow
def test_studies_that_take_turns_run_nothing_of_each_other(study):
    """Another number of documents, and only some of the tasks, in the same folder."""
    others = (
        {"limits": {"calibration": 10, "evaluation": 12}},
        {"tasks": ["tiny_a"], "heldout_tasks": ["tiny_c"]},
    )
    for changes in others:
        study.configure(**changes)
        result = study.run()
        assert result.returncode == 0, result.stdout
    for changes in (*others, {}, *others):
        study.configure(**changes)
        assert study.stale() == {}, changes
    for seed in range(1, 6):
        study.configure(seed=seed)
        assert study.run(RANDOM).returncode == 0
    for seed in range(6):
        study.configure(seed=seed)
        assert study.stale(RANDOM) == {}, seed


# --- why ---


@pytest.mark.slow
def test_why_tells_what_is_different(study, monkeypatch, capsys):
    monkeypatch.chdir(study.directory)
    monkeypatch.setenv("COLUMNS", "200")
    path = "artifacts/tiny/pruning/tiny_a/0-shot/heads/by-aggregate.parquet"
    study.configure(levels={**STUDY["levels"], "heads": [0, 25, 50, 75]})
    monkeypatch.setattr("sys.argv", ["headcount", "why", path])
    main()
    told = capsys.readouterr().out
    assert "stale" in told
    [row] = [line for line in told.splitlines() if "parameters.levels" in line]
    assert "[0, 25, 50]" in row and "[0, 25, 50, 75]" in row
    monkeypatch.setattr("sys.argv", ["headcount", "why", "artifacts/tiny/figures/induction.png"])
    main()
    assert "current" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["headcount", "why", "artifacts/tiny/report/index.html"])
    main()
    assert "tables/cross_task.parquet" in capsys.readouterr().out
