"""The command `headcount init`: writes the configuration of a study for this machine.

The model and the tasks are looked up, and settings chosen to suit: device, dtype, memory, numbers
of documents, and levels. The file gives the reasons.
"""

import json
import re
import sys
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import jinja2

from headcount import messages
from headcount.artifacts import gpus
from headcount.study import checks, configuration, machines, plan, resources
from headcount.tasks import (
    datasets as task_datasets,
    files as task_files,
    loading as tasks,
    streams,
)
from headcount.tasks.files import TaskError

SMALL = 1e9  # weights below which jobs gain more from running side by side than from threads
GPU_BYTES = 24e9  # of weights that are assumed to fit on one GPU; a larger model gets `auto`
TRIED = 40  # documents that the cost is estimated from
NUMBERS = (2500, 1000, 500, 200, 100, 50, 30, 20)  # of documents; the first is the paper's
ENOUGH = 50  # documents; levels are reduced before these
MINUTES = 5  # of a first look on this machine


class NewStudyError(ValueError):
    """A study that cannot be written; the message has a line for each reason."""


def numbers(text: str) -> list[int]:
    """Return numbers of shots from text such as 0,1,5; raise `NewStudyError` for other text."""
    try:
        return sorted({int(one) for one in text.split(",")})
    except ValueError:
        raise NewStudyError(f"--shots {text}: give numbers separated by commas: 0,1,5") from None


def begin(
    out: Path,
    model: str,
    tasks: list[str],
    shots: list[int],
    task_path: str | None = None,
    datasets: str | None = None,
    new_task: str | None = None,
) -> None:
    """Write the study to `out`, and with `new_task` a task beside it; print its cost.

    Nothing is overwritten. Raises `NewStudyError` when a file exists already or the study has a
    problem, `ModelError` when the model has no configuration.
    """
    if out.exists():
        raise NewStudyError(f"{out} already exists: choose another with --out, or move it")
    if new_task:
        task_path = task_path or str(out.parent / "tasks")
        write_task(Path(task_path), new_task)
        tasks = [*tasks, new_task]
    if not tasks:
        raise NewStudyError("say what to study: --tasks TASK,TASK, or --new-task NAME")
    entry = _source(model)
    study: dict[str, Any] = {
        "models": {_name(model): entry},
        "tasks": tasks,
        "shots": shots,
        "task_path": task_path,
        "datasets": datasets,
        "limits": {"calibration": TRIED, "evaluation": TRIED},
    }
    _refuse(study)
    size = plan.size_of(configuration.completed(study)["models"][_name(model)])
    why = _place(entry, size)
    for step, random in ((10, 2), (20, 1)):
        study["levels"], why["levels"] = levels(size.heads, size.ffns, step)
        study["random_rankings"] = random
        study["limits"], why["limits"] = _limits(study, size)
        if study["limits"]["calibration"] >= ENOUGH:
            break
    _refuse(study)
    text = _render(
        "study.yaml",
        **study,
        name=_name(model),
        entry=entry,
        why=why,
        schema=configuration.SCHEMA.name,
        size=f"{size.layers} layers, {size.heads} heads, {size.ffns} FFNs, "
        f"{messages.unit(size.bytes, 'B')} of weights",
        of_tasks=_found(study),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"{out} is written.")
    config = configuration.read(out)
    for note in checks.check(config).notes:
        print(f"Note: {note}.")
    try:
        plan.show(config)
    except TaskError as error:
        print(f"The cost cannot be estimated: {error}")
    print(f"Next: headcount run {out}")


def _refuse(study: dict) -> None:
    """Raise `NewStudyError` with all problems of a study."""
    found = configuration.problems(study)
    found = found or checks.check(configuration.completed(study)).problems
    if found:
        raise NewStudyError("\n".join(found))


# --- the model ---


def _name(model: str) -> str:
    """Return a name for the model's artifacts; a directory `model` is named by its parent."""
    path = Path(model)
    parts = path.resolve().parts if path.exists() else path.parts
    last = parts[-1] if parts[-1] != "model" else parts[-2]
    name = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._").removesuffix(".gguf")
    return name if name not in ("", "tasks", "logs", "across") else "model"


def _source(model: str) -> dict:
    """Return the entry of a model given by hub name, directory, or GGUF file."""
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        return {"source": str(path.parent), "gguf_file": path.name}
    quantised = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if quantised and not (path / "config.json").exists():
        return {"source": model, "gguf_file": quantised[0].name}
    return {"source": model}


def _place(entry: dict, size: plan.Size) -> dict[str, str]:
    """Fill in device, dtype and resources of the model; return the reasons, by key."""
    weights = size.bytes // size.bytes_per_weight
    machine, why = machines.here(), {}
    if number := len(gpus.visible()):
        entry |= {"dtype": "bfloat16", "gpus": 1, "memory": 4000}
        fits = 2 * weights < GPU_BYTES
        entry["device_map"] = "cuda" if fits else "auto"
        why["dtype"] = "fast on a GPU; float32 is more precise"
        why["device_map"] = f"{number} GPU{'s' * (number > 1)} here" + (
            "" if fits else "; what does not fit there stays in memory or on disk"
        )
    else:
        wide = 4 * weights < machine.memory / 2
        entry |= {"dtype": "float32" if wide else "bfloat16", "gpus": 0}
        why["dtype"] = "fits the memory" if wide else "half the memory of float32"
        fits = plan.BYTES[entry["dtype"]] * weights < 0.7 * machine.memory
        entry["device_map"] = "cpu" if fits else "disk"
        why["device_map"] = "no GPU here" + (
            "" if fits else "; larger than its memory: layers are read from disk in turn"
        )
        entry["memory"] = 500 if weights < SMALL else 2000
    cores = machine.cores
    entry["threads"] = 1 if weights < SMALL else cores
    why["threads"] = (
        "CPU cores of a job; jobs of a small model run side by side"
        if weights < SMALL
        else f"CPU cores of a job; all {cores} here"
    )
    held = plan.BYTES[entry["dtype"]] * weights
    entry["mem_mb"] = resources.megabytes(held, entry | {"mem_mb": None})
    why["mem_mb"] = "MB of a job, for the scheduler: weights, `memory` and start-up"
    return why


# --- levels and documents ---


def levels(heads: int, ffns: int, step: int) -> tuple[dict, str]:
    """Return levels that remove different numbers of components, `step` percent apart, and why."""
    of_heads, of_ffns = _steps(heads, step), _steps(ffns, step)
    combined = {"heads": [level for level in of_heads if level <= 70][::2], "ffns": of_ffns[:3]}
    even = f"each level removes a whole number more of the {heads} heads or {ffns} FFNs"
    return {"heads": of_heads, "ffns": of_ffns, "combined": combined}, even


def _steps(components: int, step: int) -> list[int]:
    """Return whole percentages, `step` apart, or one for each component if these are few."""
    if components * step >= 100:
        return [*range(0, 100, step)]
    return [ceil(100 * count / components) for count in range(components)]


def _limits(study: dict, size: plan.Size) -> tuple[dict, str]:
    """Return the number of documents that this machine can do in `MINUTES`, and why."""
    study = {**study, "limits": {"calibration": TRIED, "evaluation": TRIED}}
    config = configuration.completed(study)
    memory = config["models"][next(iter(study["models"]))]["memory"] * 2**20
    try:
        found = plan.stages_of(size, config)
        hours = sum(stage.hours(size, machines.here(), memory) for stage in found)
    except TaskError:
        few = {"calibration": 100, "evaluation": 100}
        return few, "documents at most; the paper has 2500 to calibrate and evaluates all"
    known = [
        count for counts in _document_counts(study).values() for count in counts.values() if count
    ]
    minutes = 60 * hours / min([TRIED, *known])  # per document
    within = [n for n in NUMBERS if minutes * n <= MINUTES]
    number = within[0] if within else NUMBERS[-1]
    limits: dict[str, int | None]
    limits = {"calibration": number, "evaluation": number if number < NUMBERS[0] else None}
    why = "as in the paper"
    if number < NUMBERS[0]:
        aim = f"as many as this machine does in {MINUTES} minutes" if within else "few"
        why = f"{aim}, for a first look; raise them for results (the paper: 2500, and all)"
    single = {task: there for task, there in _singles(config).items() if there <= number}
    if single:
        limits["evaluation"] = min(single.values()) // 2
        why += f"; the rest of {', '.join(single)} calibrates"
    return limits, why


def _singles(config: dict) -> dict[str, int]:
    """Return, for tasks that calibrate on the split they evaluate, its number of documents."""
    found = {}
    for task in tasks.expand(config["tasks"], config["task_path"]):
        of_task = _configuration(task, config)
        evaluated = task_datasets.evaluated_split(of_task)
        others = {of_task.get("training_split"), of_task.get("validation_split")} - {None}
        count = _count(of_task, evaluated, config["datasets"])
        if others <= {evaluated} and count:
            found[task] = count
    return found


def _document_counts(study: dict) -> dict[str, dict[str, int | None]]:
    """Return the numbers of documents by task and split; None if they cannot be read."""
    found = {}
    for task in tasks.expand(study["tasks"], study["task_path"]):
        of_task = _configuration(task, study)
        found[task] = {
            split: _count(of_task, split, study["datasets"])
            for split in task_datasets.splits(of_task)
        }
    return found


def _found(study: dict) -> list[str]:
    """Return a line for each task with its numbers of documents, if known."""
    lines = []
    for task, counts in _document_counts(study).items():
        known = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
        lines.append(f"{task}: {known or 'of the hub'}")
    return lines


def _configuration(task: str, config: dict) -> dict:
    yaml = task_files.installed(tasks.find(task, config["task_path"]))
    return task_datasets.with_resolved_paths(task_files.with_included(yaml), yaml)


def _count(of_task: dict, split: str | None, datasets: str | None) -> int | None:
    """Return the number of documents of a split, if they can be read."""
    documents = streams.open_splits(of_task, datasets).get(split or "")
    return documents.count(sys.maxsize) if documents else None


# --- a new task ---

EXAMPLES = {
    "train": (("film", "book", "play"), ("dull", "slow", "moving", "clever")),
    "validation": (("concert", "meal"), ("dreadful", "tedious", "lovely", "splendid")),
}


def write_task(directory: Path, name: str) -> None:
    """Write a task with documents to fill in; raise `NewStudyError` if it exists."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise NewStudyError(f"--new-task {name}: use letters, digits, - and _")
    home = directory / name
    there = [path for path in (directory / f"{name}.yaml", home) if path.exists()]
    if there:
        raise NewStudyError(f"{there[0]} already exists: choose another with --new-task")
    home.mkdir(parents=True)
    for split, (things, words) in EXAMPLES.items():
        lines = [
            json.dumps({"text": f"The {thing} was {word}.", "label": words.index(word) // 2})
            for thing, word in product(things, words)
        ]
        (home / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = _render("task.yaml", name=name, data=home.as_posix())
    (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    print(f"{directory / name}.yaml is written. Replace its example documents: {home}/")


def _render(template: str, **values: Any) -> str:
    text = (Path(__file__).parent / "templates" / template).read_text(encoding="utf-8")
    return jinja2.Environment(keep_trailing_newline=True).from_string(text).render(**values)
