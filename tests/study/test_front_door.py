"""The commands that begin a study: init, check, plan, run; and what they say of mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from study import STUDY, Study

from headcount.__main__ import main
from headcount.artifacts import hashes
from headcount.study import checks, configuration, model_checks


@pytest.fixture
def study(tmp_path, checkpoint, task_path):
    """A function that writes mine.yaml, with changes to the tiny study, and returns its path."""

    def write(**changes) -> Path:
        models = {"tiny": {"source": str(checkpoint), "device_map": "cpu"}}
        config = {**STUDY, "models": models, "heldout_tasks": [], "task_path": str(task_path)}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(config | {"artifacts": str(tmp_path / "made")} | changes))
        return path

    return write


@pytest.fixture
def headcount(monkeypatch, capsys):
    """A function that runs the command and returns its exit status and what it says."""

    def run(*arguments) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["headcount", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
            if isinstance(status, str):
                print(status)
                status = 1
        return status or 0, capsys.readouterr().out

    return run


def test_without_a_command_there_is_help(headcount):
    status, told = headcount()
    assert status == 0 and "init" in told and "A study of your own: headcount init" in told


def test_the_version_is_told(headcount):
    assert headcount("--version") == (0, "headcount 0.1.0\n")


# --- the environment ---


@pytest.mark.parametrize("variables", [{"XDG_CACHE_HOME": "{}/file"}, {"HOME": "{}/file/home"}])
@pytest.mark.parametrize("command", ["run", "plan", "verify x", "init --model x"])
def test_where_nothing_can_be_cached_it_is_said(
    tmp_path, monkeypatch, headcount, variables, command
):
    """In the place of a traceback of Snakemake, or of a library of Hugging Face."""
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    status, told = headcount(*command.split())
    assert status == 1 and told.startswith(f"headcount: nothing can be cached in {tmp_path}/file")
    assert "Set XDG_CACHE_HOME to a directory that you may write in" in told


def test_what_needs_no_cache_does_without(monkeypatch, headcount, tmp_path):
    """Of a user whom the system does not know, in a container say."""

    def unknown(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(unknown))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").write_bytes(b"x")
    assert not hashes.memory().parent.exists() and len(hashes.file_hashes([tmp_path / "file"])) == 1
    assert "nothing can be cached" in headcount("run")[1]


def test_a_terminal_without_a_width_is_printed_to(monkeypatch, headcount, tmp_path):
    monkeypatch.setenv("COLUMNS", "0")
    assert "earlier versions" in headcount("cache", tmp_path)[1]


def test_run_leaves_the_summary_to_the_workflow(monkeypatch, headcount, study):
    """Which ends with it: twice would be once too often."""
    started = []

    def run(command):
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("headcount.cli._study.subprocess.run", run)
    assert headcount("run", study()) == (0, "")
    assert "snakemake" in started[0]


# --- the configuration ---


@pytest.mark.parametrize(
    "text,told",
    [
        ("tasks: [a\nshots: [0]\n", r"mine.yaml, line 2, column 6 is not valid YAML"),
        ("tasks:\n\t- a\n", r"mine.yaml, line 2, column 1 .* indent with spaces, not with tabs"),
        ("tasks: {{a}}\n", r"mine.yaml, line 1, column 9 .* a text that begins with {{ stands in"),
        ("- a\n", "mine.yaml holds no `key: value` pairs"),
        ("", "mine.yaml holds no `key: value` pairs"),
    ],
)
def test_a_slip_is_told_with_its_file_line_and_column(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(configuration.ConfigurationError, match=told):
        configuration.read(tmp_path / "mine.yaml")


def test_all_mistakes_are_told_at_once_each_with_its_key(study):
    path = study(tsaks=[1], ablation="zreo", limits={"calibraton": 3}, levels={"heads": [10]})
    with pytest.raises(configuration.ConfigurationError) as raised:
        configuration.read(path)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    for words in (
        "tsaks: there is no such key: did you mean tasks?",
        "ablation: 'zreo' is not one of ['zero', 'mean', 'resample']: did you mean zero?",
        "limits.calibraton: there is no such key: did you mean calibration?",
        "levels.heads: [10] lacks 0, the unpruned model: add 0",
    ):
        assert f"{path}: {words}" in lines


def test_a_study_is_complete_as_the_paper_has_it_and_its_sets_in_order(study):
    config = configuration.read(study(shots=[5, 0]))
    assert config["shots"] == [0, 5] and config["models"]["tiny"]["memory"] == 1000
    assert config["importance"]["ffns"]["estimator"] == "oracle"


def test_paths_are_found_beside_the_file_where_they_are_not_here(study, tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    path = study(task_path="beside", datasets="nowhere")
    monkeypatch.chdir("/")
    config = configuration.read(path)
    assert config["task_path"] == str(tmp_path / "beside") and config["datasets"] == "nowhere"


# --- what speaks against a study ---


def found(path) -> str:
    return "\n".join(checks.check(configuration.read(path)).problems)


def test_nothing_speaks_against_the_study_of_this_repository(headcount, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    status, told = headcount("check")
    assert status == 0 and "no problems found" in told


def test_check_tells_everything_a_line_each(study, headcount):
    models = {"a": {"source": "../nowhere"}, "b": {"source": "/tmp", "device_map": "cdua"}}
    path = study(models=models, tasks=["tiny_a", "tiny_aa"], levels={"heads": [0, 0.3]}, shots=[30])
    status, told = headcount("check", path)
    assert status == 1
    lines = told.splitlines()
    assert len(lines) == 6 and all(line.startswith(f"{path}: ") for line in lines)
    for words in (
        "models.a.source: ../nowhere is not there",
        "models.b.source: /tmp has no config.json",
        "models.b.device_map: 'cdua' is not a device: did you mean cuda?",
        "levels.heads: levels are in percent, and 0.3 % removes next to nothing: did you mean 30?",
        "tasks: unknown task 'tiny_aa' (close: tiny_a",
        "tiny_a: 30 shots need 31 examples, there are 24 in 'train': use fewer shots",
    ):
        assert words in told


def test_a_level_that_removes_none_is_a_note(study):
    config = configuration.read(study(levels={"heads": [0, 5, 50], "ffns": [0, 20, 34]}))
    notes = checks.check(config).notes
    assert "levels.heads: 5 % of tiny's 12 heads is less than one" in notes
    assert "levels.ffns: 20 % of tiny's 3 FFNs is less than one" in notes


def test_names_of_nothing_are_a_note_and_one_name_for_two_tasks_is_a_problem(study):
    config = configuration.read(study(figures={"names": {"tiny_a": "A", "tiny_aa": "AA"}}))
    [note] = [note for note in checks.check(config).notes if note.startswith("figures.names")]
    assert "tiny_aa is neither a model nor a task of this study (did you mean tiny_a?)" in note
    path = study(tasks=["tiny_a", "tiny_b"], figures={"names": {"tiny_a": "A", "tiny_b": "A"}})
    assert "figures.names: two tasks cannot both be shown as A" in found(path)


@pytest.mark.parametrize(
    "entry,told",
    [
        ({"source": "modle"}, "modle is not there: did you mean model?"),
        ({"source": "modle", "gguf_file": "m.gguf"}, "modle is not there: did you mean model?"),
        ({"source": "other", "gguf_file": "m.gguf"}, "other is not there: correct the name"),
        ({"source": "./model", "gguf_file": "m.guf"}, "m.guf is not in model (there: m.gguf): did"),
        ({"source": "model/m.gguf"}, "is a file: source: model, gguf_file: m.gguf"),
        ({"source": "model/config.json"}, "is a file: give the directory that it is in"),
        ({"source": "only_gguf"}, "only_gguf has no config.json: set gguf_file: m.gguf"),
        ({"source": "no_weights"}, "no_weights has no weights"),
        ({"source": "sharded"}, "sharded lacks 1 of 1 shards, a.safetensors"),
        ({"source": "cut"}, "cut/model.safetensors is cut short or damaged (it has"),
        ({"source": "a/b/c"}, "a/b/c is not there"),
        (
            {"source": "no/such-model"},
            "is neither a directory nor a hub model in the cache",
        ),
        ({"source": "model", "device_map": "cuda:0"}, None),
        ({"source": "model", "device_map": "cuda:x"}, "device_map: 'cuda:x' is not a device"),
    ],
)
def test_what_speaks_against_a_model_is_told_from_its_files(
    checkpoint, tmp_path, monkeypatch, entry, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(checkpoint, "model")
    for name in ("only_gguf", "no_weights", "sharded"):
        Path(name).mkdir()
    for name in ("model", "only_gguf"):
        Path(name, "m.gguf").write_bytes(b"GGUF")
    weights = Path(shutil.copytree(checkpoint, "cut"), "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    for name in ("no_weights", "sharded"):
        Path(name, "config.json").write_text("{}")
    index = {"weight_map": {"x": "a.safetensors"}}
    Path("sharded/model.safetensors.index.json").write_text(json.dumps(index))
    problems = model_checks.problems("m", {"gguf_file": None, "device_map": "cpu"} | entry, "made")
    assert (told is None and problems == []) or told in "\n".join(problems)


# --- a study of one's own ---


def test_init_writes_a_study_and_a_task_that_load_as_they_stand(
    checkpoint, tmp_path, monkeypatch, headcount
):
    monkeypatch.chdir(tmp_path)
    status, told = headcount("init", "--model", checkpoint, "--new-task", "mine", "--shots", "0,2")
    assert status == 0 and "Next: headcount run mine.yaml" in told and "FLOP in all" in told
    config = configuration.read("mine.yaml")
    (entry,) = config["models"].values()
    assert entry["dtype"] == "float32" and config["shots"] == [0, 2]
    assert config["levels"]["ffns"] == [0, 34, 67]  # its three FFNs one by one
    assert checks.check(config).problems == []
    status, told = headcount("check", "mine.yaml")
    assert status == 0 and "calibration has 12 documents" in told


def test_init_writes_over_nothing(checkpoint, tmp_path, monkeypatch, headcount):
    monkeypatch.chdir(tmp_path)
    Path("tasks/mine").mkdir(parents=True)
    status, told = headcount("init", "--model", checkpoint, "--new-task", "mine")
    assert (status, told) == (
        1,
        "headcount: tasks/mine already exists: choose another with --new-task\n",
    )
    Path("mine.yaml").write_text("precious")
    status, told = headcount("init", "--model", checkpoint, "--tasks", "copa")
    assert status == 1 and "mine.yaml already exists: choose another with --out" in told
    assert Path("mine.yaml").read_text() == "precious"


def test_init_tells_what_speaks_against_a_study(tmp_path, task_path, monkeypatch, headcount):
    monkeypatch.chdir(tmp_path)
    given = ["--task-path", task_path, "--shots", "30", "--tasks", "tiny_a,tiny_aa"]
    status, told = headcount("init", "--model", "./nowhere", *given)
    assert status == 1 and not Path("mine.yaml").exists()
    for words in ("./nowhere is not there", "unknown task 'tiny_aa'", "30 shots need 31 examples"):
        assert words in told


# --- from another directory ---


@pytest.mark.slow
def test_a_study_runs_from_another_directory_and_ends_with_its_summary(finished, tmp_path):
    study = finished.copy(tmp_path / "clone")
    home = tmp_path / "elsewhere"
    home.mkdir()
    for name in ("model", "lm_tasks", "artifacts", "config.yaml"):
        shutil.move(study.directory / name, home / name)
    path = {"PYTHONPATH": str(study.directory / "src"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "headcount", "run", "config.yaml"]
    ran = subprocess.run(command, cwd=home, env=path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("how much can be removed") == 1


MODULE = """
configfile: "study.yaml"


rule report:
    input:
        "artifacts/tiny/figures/head_importance.png",
    output:
        "report.txt",
    script:
        "report.py"


module headcount:
    snakefile:
        "../clone/Snakefile"
    config:
        config


use rule * from headcount as headcount_*
"""


@pytest.mark.slow
def test_the_workflow_is_a_module_of_another(tmp_path):
    clone, home = Study.create(tmp_path / "clone").directory, tmp_path / "mine"
    home.mkdir()
    for name in ("model", "lm_tasks"):
        shutil.move(clone / name, home / name)
    shutil.move(clone / "config.yaml", home / "study.yaml")
    (home / "Snakefile").write_text(MODULE)
    (home / "report.py").write_text("open(snakemake.output[0], 'w').write('written')\n")
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    ran = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (home / "report.txt").read_text() == "written"
    assert (home / "artifacts/tiny/figures/head_importance.png").stat().st_size > 1000


def test_a_target_that_nothing_makes_is_told_with_the_closest(finished):
    ran = finished.run("-n", "artifacts/tiny/figures/head_prunning.png", "head_pruning")
    assert ran.returncode == 1 and "Traceback" not in ran.stdout
    png = "did you mean artifacts/tiny/figures/head_pruning.png?"
    assert f"head_prunning.png: {png}" in ran.stdout and f"  head_pruning: {png}" in ran.stdout
