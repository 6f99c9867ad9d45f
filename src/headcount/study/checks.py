"""All problems of a study that can be found before it runs, reported at once.

The workflow checks at every start, `headcount check` on request. Only files are read: neither torch
nor lm-eval is imported, nothing is downloaded.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from headcount.messages import did_you_mean
from headcount.report.vocabulary import ORDERS
from headcount.scores.rankings import count_removed
from headcount.study import model_checks
from headcount.tasks import code as task_code, loading as tasks, spec as task_spec
from headcount.tasks.files import TaskError


@dataclass
class Checked:
    """A study's tasks and problems, a line for each with the key and the remedy."""

    config: dict
    studied: list[str] = field(default_factory=list)
    heldout: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    specs: dict[str, task_spec.TaskSpec] = field(default_factory=dict)  # of tasks that were read

    @property
    def tasks(self) -> list[str]:
        return [*self.studied, *self.heldout]

    def request(self, task: str) -> task_spec.TaskRequest:
        """Return what the study asks of a task."""
        return task_spec.TaskRequest(
            shots=self.config["shots"],
            limits=task_spec.Limits(**self.config["limits"]),
            datasets=self.config["datasets"],
            calibrate=calibrates(task, self.studied, self.config),
            metric=self.config["metrics"].get(task),
        )

    def check_tasks(self, names: Iterable[str], documents: bool = True) -> None:
        """Add the problems of tasks, and of their documents if `documents`."""
        for task in names:
            try:
                yaml = tasks.find(task, self.config["task_path"])
                spec = task_spec.resolve(yaml, self.request(task), documents)
                self.specs |= {task: spec} if documents else {}
            except TaskError as error:
                self.problems += str(error).splitlines()

    @cached_property
    def notes(self) -> list[str]:
        """Caveats about the results, a line each."""
        models = self.config["models"].items()
        found = [note for name, entry in models for note in model_checks.notes(name, entry)]
        found += _idle_levels(self.config)
        found += _idle_names(self.config, self.tasks)
        self.check_tasks(task for task in self.tasks if task not in self.specs)
        for task, spec in self.specs.items():
            found += filter(None, [tasks.shadowed(task, self.config["task_path"])])
            code = task_code.code_of(tasks.find(task, self.config["task_path"]))
            found += [f"{task}: {note}" for note in (*spec.warnings, *task_code.notes(code))]
        return found


def check(config: dict, documents: bool = True) -> Checked:
    """Return the problems of the study in `config`, completed by `configuration`.

    Without `documents`, those of its tasks are left to `Checked.check_tasks`: reading them takes
    most of the time.
    """
    found = Checked(config)
    for name, entry in config["models"].items():
        found.problems += model_checks.problems(name, entry, config["artifacts"])
    found.problems += _artifacts(config["artifacts"])
    found.problems += _levels(config)
    for key, names in (("tasks", found.studied), ("heldout_tasks", found.heldout)):
        for name in config[key]:
            try:
                names += tasks.expand([name], config["task_path"])
            except TaskError as error:
                found.problems.append(f"{key}: {error}")
    found.studied, found.heldout = sorted({*found.studied}), sorted({*found.heldout})
    found.problems = list(dict.fromkeys(found.problems))
    found.problems += _unfit(config, found.tasks)
    found.problems += _names(config, found.studied, found.heldout)
    found.check_tasks(found.tasks, documents)
    return found


def _artifacts(directory: str) -> Iterator[str]:
    """Yield the problem with a name that cannot be a directory of artifacts."""
    if unusable := sorted({*directory} & {*"{}<>"}):
        signs = " ".join(unusable)
        yield f"artifacts: {directory}: its name must not contain {signs}: choose another name"
    elif Path(directory).exists() and not Path(directory).is_dir():
        yield f"artifacts: {directory} is a file: name a directory"


def calibrates(task: str, studied: list[str], config: dict) -> bool:
    """Whether a task needs calibration documents, for its ranking or for stand-ins."""
    return task in studied or config["ablation"] != "zero"


# A task's name is part of paths, wildcards of rules and patterns of `glob`.
TASK_NAME = re.compile(r"[\w(][\w.()+,=@:~-]*")
LONGEST_NAME = 200  # bytes; a file's name may have 255


def _unfit(config: dict, names: list[str]) -> Iterator[str]:
    """Yield problems with names of tasks that cannot be those of artifacts."""
    for name in names:
        problem = None
        if name.partition("-")[0] in ORDERS:  # the names of rankings in artifacts
            problem = "is reserved for a ranking"
        elif not TASK_NAME.fullmatch(name):
            problem = "cannot be a file's: begin with a letter, then use letters, digits, - . and _"
        elif len(name.encode()) > LONGEST_NAME:
            problem = f"is longer than {LONGEST_NAME} bytes"
        if problem:
            yaml = tasks.find(name, config["task_path"])
            remedy = "give it another (`task:` in its file)"
            yield f"task {name!r} ({yaml}): its name {problem}: {remedy}"


def _names(config: dict, studied: list[str], heldout: list[str]) -> Iterator[str]:
    """Yield problems with names that keys refer to."""
    if twice := sorted({*studied} & {*heldout}):
        yield f"heldout_tasks: {', '.join(twice)} cannot be in tasks too: name each once"
    for name in sorted({*config["metrics"]} - {*studied, *heldout}):
        known = [*studied, *heldout]
        yield f"metrics.{name}: not among tasks, heldout_tasks{did_you_mean(name, known)}"
    for key, known in (("tasks", studied), ("shots", config["shots"])):
        chosen = config["estimator_agreement"][key] or []
        if others := [name for name in chosen if name not in known]:
            yield f"estimator_agreement.{key}: {others} not among {key}"
    written = config["figures"]["names"]
    for kind, known in (("models", config["models"]), ("tasks", [*studied, *heldout])):
        times = Counter(written.get(name, name) for name in known)
        if twice := [name for name, count in times.items() if count > 1]:
            shown = ", ".join(twice)
            yield f"figures.names: two {kind} cannot both be shown as {shown}: rename one"


def _idle_names(config: dict, tasks: list[str]) -> Iterator[str]:
    """Yield remarks on names in figures for models or tasks that the study does not have."""
    known = [*config["models"], *tasks]
    for name in config["figures"]["names"]:
        if name not in known:
            hint = did_you_mean(name, known).removeprefix(": ")
            remark = f"{name} is neither a model nor a task of this study"
            yield f"figures.names: {remark}{hint and f' ({hint})'}"


# --- levels ---


def _all_levels(config: dict) -> dict[str, tuple[str, list[float]]]:
    """Return, by key, the component that it removes and its levels."""
    levels = config["levels"]
    return {
        "levels.heads": ("heads", levels["heads"]),
        "levels.ffns": ("ffns", levels["ffns"]),
        "levels.combined.heads": ("heads", levels["combined"]["heads"]),
        "levels.combined.ffns": ("ffns", levels["combined"]["ffns"]),
    }


def _levels(config: dict) -> Iterator[str]:
    """Yield problems with fractions meant as percentages: all of a key's levels below 1."""
    for key, (_, levels) in _all_levels(config).items():
        if 0 < max(levels) < 1:
            one = max(levels)
            yield (
                f"{key}: levels are in percent, and {one:g} % removes next to nothing: "
                f"did you mean {100 * one:g}?"
            )


def _idle_levels(config: dict) -> Iterator[str]:
    """Yield remarks on levels above 0 that remove nothing from a model."""
    for name, entry in config["models"].items():
        if (total := model_checks.dimensions(entry["source"])) is None:
            continue
        for key, (component, levels) in _all_levels(config).items():
            number = total[component]
            idle = [level for level in levels if level and not count_removed(level, number)]
            if idle:
                shown = ", ".join(f"{level:g}" for level in idle)
                kind = component.replace("ffns", "FFNs")
                yield f"{key}: {shown} % of {name}'s {number} {kind} is less than one"
