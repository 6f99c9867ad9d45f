"""The tiny study that the tests of the workflow run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tiny
import yaml

from headcount.report import catalogue

REPOSITORY = Path(__file__).parents[2]
STUDY = {
    "models": {"tiny": {"source": "model", "device_map": "cpu"}},
    "tasks": ["tiny_a", "tiny_b"],
    "heldout_tasks": ["tiny_c"],
    "task_path": "lm_tasks",
    "shots": [0, 2],
    "limits": {"calibration": 10, "evaluation": 8},
    "levels": {
        "heads": [0, 25, 50],
        "ffns": [0, 34],
        "combined": {"heads": [0, 50], "ffns": [0, 34]},
    },
    "random_rankings": 1,
    "induction": {"sequences": 2},
    "bootstrap": {"resamples": 20},
}
DRAWN = [
    figure for figure in catalogue.FIGURES.values() if not (figure.of_models or figure.on_request)
]
FIGURES = {figure.name for figure in DRAWN}
PAGES = {page for figure in DRAWN for page in figure.pages}
FORMATS = ("png", "svg", "pdf", "html")


class Study:
    """A copy of the repository with a tiny study of its own, so that a test can edit any file."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.powers: list[str] = []  # a command that takes some away from those that follow

    @classmethod
    def create(cls, directory: Path) -> "Study":
        study = cls.empty(directory)
        tiny.save_model(directory / "model")
        tiny.save_tasks(directory / "lm_tasks", ("tiny_a", "tiny_b", "tiny_c"), root=directory)
        study.configure()
        return study

    @classmethod
    def empty(cls, directory: Path) -> "Study":
        """The workflow alone, without a model, tasks and configuration."""
        for name in ("workflow", "scripts", "src", "envs"):
            ignored = shutil.ignore_patterns("__pycache__", "resources", "*.egg-info")
            shutil.copytree(REPOSITORY / name, directory / name, ignore=ignored)
        shutil.copy(REPOSITORY / "Snakefile", directory)
        (directory / "profiles").symlink_to("workflow/profiles")
        return cls(directory)

    def copy(self, directory: Path) -> "Study":
        shutil.copytree(self.directory, directory, symlinks=True)
        return Study(directory)

    def configure(self, **changes) -> None:
        (self.directory / "config.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))

    def append(self, path: str, text: str) -> None:
        with (self.directory / path).open("a") as file:
            file.write(text)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [*self.powers, sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        return subprocess.run(
            command,
            cwd=self.directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def stale(self, *targets: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run would execute."""
        result = self.run(*targets, "--dry-run")
        assert result.returncode == 0, result.stdout
        if "Nothing to be done" in result.stdout:
            return {}
        table = result.stdout.split("Job stats:")[1].split("\n\n")[0]
        jobs = dict(re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE))
        return {rule: int(n) for rule, n in jobs.items() if rule not in ("total", "all")}
