"""lm-evaluation-harness tasks: rendered to prompts, and scored with the harness's own metric code.

lm-eval does all that concerns a task: it loads the documents, draws the examples, renders the
prompts and computes the metrics. What is added here is a calibration set, disjoint from the
evaluated documents, and documents read from a local mirror instead of the hub.

lm-eval is imported inside the functions that need it: importing it costs seconds.
"""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import numpy as np

from headcount import task_files

# lm-eval's command line draws the few-shot examples with this seed and seeds `random` with 0.
FEWSHOT_SEED, RANDOM_SEED = 1234, 0


class TaskError(ValueError):
    """A task that cannot be found, loaded or prepared; the message says what to change."""


# --- finding and loading ---


# What a group may say without changing its tasks.
GROUP_KEYS = {"group", "task", "tag", "aggregate_metric_list", "metadata"}
GROUP_KEYS |= {"group_alias", "task_alias"}


def find(name: str, task_path: str | Path | None = None) -> Path:
    """The YAML file that defines task `name`, below `task_path` or among lm-eval's own tasks.

    A file of lm-eval's is named from the package on (`lm_eval/tasks/...`), wherever it is
    installed. Only reads files, so that an unknown task is noticed at once.

    Raises `TaskError` when there is none, with the names that come close.
    """
    for directory in _directories(task_path):
        if path := task_files.defined(directory, "task").get(name):
            own = directory != task_files.shipped()
            return path if own else path.relative_to(task_files.site_packages())
    names = [
        defined
        for directory in _directories(task_path)
        for kind in ("task", "group")
        for defined in task_files.defined(directory, kind)
    ]
    close = get_close_matches(name, names, n=3)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise TaskError(
        f"unknown task {name!r}{hint}: neither among lm-eval's tasks, groups and tags nor in "
        f"task_path: {task_path}"
    )


def expand(names: Sequence[str], task_path: str | Path | None = None) -> list[str]:
    """The tasks that `names` stand for: a task for itself, a group or tag for its tasks.

    As in lm-eval: a name is looked for below `task_path`, then among lm-eval's own, and there it is
    a task, else a group, else a tag; a group's tasks come in its order, a tag's by name; groups
    may hold groups and tags. What comes up twice stays once, where it was first.

    Raises `TaskError` for an unknown name, and for a group that changes its tasks' settings.
    """
    return list(dict.fromkeys(task for name in names for task in _expanded(name, task_path)))


def _expanded(name: str, task_path: str | Path | None) -> list[str]:
    for directory in _directories(task_path):
        if name in task_files.defined(directory, "task"):
            return [name]
        if path := task_files.defined(directory, "group").get(name):
            return _members(task_files.with_included(path)[0], task_path)
        if tagged := task_files.tagged(directory, name):
            return tagged
    find(name, task_path)  # raises
    return []


def _members(group: dict, task_path: str | Path | None) -> list[str]:
    """Tasks of a group, by its configuration."""
    tasks = []
    for member in group["task"]:
        inner = {"task": member} if isinstance(member, str) else member
        if changed := sorted({*group, *inner} - GROUP_KEYS):
            raise TaskError(
                f"group {group['group']!r} sets {', '.join(changed)} of its tasks, which headcount "
                "takes as their own files define them: list the tasks instead"
            )
        if isinstance(inner.get("task"), list):
            tasks += _members(inner, task_path)
        else:
            tasks += _expanded(inner.get("task") or inner["group"], task_path)
    return tasks


def _directories(task_path: str | Path | None) -> list[Path]:
    """Where tasks are looked for, in this order."""
    if task_path and not Path(task_path).is_dir():
        raise TaskError(f"task_path: {task_path} is not a directory")
    return [*([Path(task_path)] if task_path else []), task_files.shipped()]


def installed(yaml: str | Path) -> Path:
    """Where a file that `find` names is."""
    shipped = Path(yaml).parts[0] == "lm_eval"
    return task_files.site_packages() / yaml if shipped else Path(yaml)


def source_files(yaml: str | Path, datasets: str | Path | None = None) -> list[Path]:
    """The files whose content decides what the task in `yaml` is: configuration, code, local data.

    Local data are the `data_files` that the configuration names, or the splits in the mirror
    `datasets`. What lm-eval downloads from the hub is not among them.
    """
    config, yamls = task_files.with_included(installed(yaml))
    files = [file for path in yamls for file in (path, *path.parent.glob("*.py"))]
    if data := task_files.local_data(config):
        files += [Path(name) for name in data if Path(name).is_file()]
    elif datasets:
        files += _mirrored_files(config, Path(datasets)).values()
    return sorted(set(files))


def version(yaml: str | Path) -> float | str | None:
    """The version of the task in `yaml`, if its metadata say one."""
    config, _ = task_files.with_included(installed(yaml))
    return (config.get("metadata") or {}).get("version")


def load(yaml: str | Path, datasets: str | Path | None = None, **overrides):
    """The lm-eval task defined in `yaml`, with configuration keys replaced by `overrides`.

    `datasets` is a directory that mirrors the hub's datasets:
    `DIR/<dataset_path with / as __>/<dataset_name or default>/<split>.parquet`.

    Raises `TaskError` when the task does not ask for log-likelihoods or a mirrored file is missing.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    supply_squad_metrics()
    config = {**load_yaml(installed(yaml), resolve_func=True), **overrides}
    for structural in ("tag", "group", "task_list"):
        config.pop(structural, None)
    if "class" in config or config.get("output_type") not in ("multiple_choice", "loglikelihood"):
        raise TaskError(
            f"task {config['task']!r} ({yaml}) is not an lm-eval task of output_type "
            "multiple_choice or loglikelihood: headcount reads answers off log-likelihoods"
        )
    if datasets and not config.get("custom_dataset") and not task_files.local_data(config):
        files = _mirrored_files(config, Path(datasets))
        config["dataset_path"], config["dataset_name"] = "parquet", None
        config["dataset_kwargs"] = {"data_files": {s: str(path) for s, path in files.items()}}
    if config.get("metric_list") and not config.get("process_results"):
        config["metric_list"] = _with_accuracy(config["metric_list"])
    return ConfigurableTask(config=config)


def _mirrored_files(config: dict, datasets: Path) -> dict[str, Path]:
    """Split -> file, of the hub dataset that `config` names, in the mirror `datasets`."""
    home = datasets / config["dataset_path"].replace("/", "__")
    home = home / (config.get("dataset_name") or "default")
    kinds = ("training_split", "validation_split", "test_split", "fewshot_split")
    splits = sorted({config[kind] for kind in kinds if config.get(kind)})
    files = {split: home / f"{split}.parquet" for split in splits}
    for split, path in files.items():
        if not path.is_file():
            raise TaskError(
                f"task {config['task']!r}: its split {split!r} is not in the mirror: expected the "
                f"file {path} (config key `datasets`)"
            )
    return files


def _with_accuracy(metrics: list[dict]) -> list[dict]:
    """`metrics` and accuracy: some tasks (CoLA) report only what is no mean over documents."""
    if any(metric["metric"] == "acc" for metric in metrics):
        return metrics
    return [*metrics, {"metric": "acc", "aggregation": "mean", "higher_is_better": True}]


def supply_squad_metrics() -> None:
    """Give lm-eval's `record` the two functions that it imports and transformers 5 removed."""
    name = "transformers.data.metrics.squad_metrics"
    if name not in sys.modules:
        from headcount import squad

        module = ModuleType(name)
        module.compute_exact, module.compute_f1 = squad.compute_exact, squad.compute_f1
        package = ModuleType("transformers.data.metrics")
        package.squad_metrics = module
        sys.modules |= {package.__name__: package, name: module}


# --- prompts ---


@dataclass(frozen=True)
class Limits:
    """How many documents: at most `calibration`, and `evaluation` (None: the whole split)."""

    calibration: int
    evaluation: int | None


def prepare(
    yaml: str | Path,
    shots: int,
    limits: Limits,
    seed: int,
    datasets: str | Path | None = None,
    calibrate: bool = True,
) -> list[dict]:
    """Rows of the artifact `tasks`: every request of the calibration and evaluation documents.

    Evaluation: lm-eval's own prompts, seeds and order. Calibration (unless `calibrate` is false, as
    for held-out tasks): documents drawn with `seed`, the same for every number of shots, from the
    training split; without one, from the validation split if the test split is evaluated, or else
    from the evaluated split beyond the limit. A query is never among its own examples.

    Raises `TaskError` when calibration documents, or examples for `shots`, cannot be had.
    """
    task = load(yaml, datasets)
    rows = _requests(task, shots, "evaluation", limit=limits.evaluation)
    if calibrate:
        split, first = _calibration_source(task, limits.evaluation)
        held = load(
            yaml,
            datasets,
            validation_split=None,
            test_split=split,
            **_fewshot_split(task),
        )
        indices = np.arange(first, len(held.eval_docs))
        drawn = np.random.default_rng(seed).permutation(indices)[: limits.calibration]
        rows += _requests(held, shots, "calibration", samples=sorted(drawn.tolist()))
    return rows


def _calibration_source(task, limit: int | None) -> tuple[str, int]:
    """The split that calibration documents come from, and the index of the first one to use."""
    config = task.config
    if config.training_split:
        return config.training_split, 0
    if config.test_split and config.validation_split:
        return config.validation_split, 0
    split = config.test_split or config.validation_split
    if limit is None or limit >= len(task.eval_docs):
        raise TaskError(
            f"task {config.task!r} has a single split, {split!r}, and all of its "
            f"{len(task.eval_docs)} documents are evaluated: set limits: evaluation below that to "
            "leave documents for calibration, or list the task under heldout_tasks"
        )
    return split, limit


def _fewshot_split(task) -> dict:
    """Name the split of the examples, as lm-eval would choose it.

    lm-eval leaves a query out of its own examples only when it knows that both have one split.
    """
    config = task.config
    if config.fewshot_config.split or config.fewshot_config.samples:
        return {}
    return {"fewshot_split": config.training_split or config.validation_split or config.test_split}


def _requests(task, shots: int, split: str, **which) -> list[dict]:
    """Rows for the requests of `task`'s evaluated documents, as `lm_eval` would render them."""
    name, pool = task.config.task, len(task.sampler.df) if hasattr(task, "sampler") else 0
    needed = shots + (task.fewshot_cfg.split == task.config.test_split) if shots else 0
    if needed > pool:
        raise TaskError(f"task {name!r}: {shots} shots need {needed} examples, there are {pool}")
    if shots and task.config.num_fewshot == 0:
        raise TaskError(f"task {name!r} fixes num_fewshot: 0, lm-eval gives it no examples")
    random.seed(RANDOM_SEED)
    np.random.seed(FEWSHOT_SEED)
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests(**which)
    samples = which.get("samples")  # lm-eval numbers chosen documents anew, from 0
    rows = []
    for request in task.instances:
        gold = gold_choices(task, request.doc)
        rows.append(
            {
                "split": split,
                "doc_id": samples[request.doc_id] if samples else request.doc_id,
                "choice": request.idx,
                "context": request.args[0],
                "continuation": request.args[1],
                "gold": request.idx in gold,
                "doc": json.dumps(request.doc, default=str) if request.idx == 0 else None,
            }
        )
    return rows


def gold_choices(task, doc: dict) -> set[int]:
    """Indices of the requests of `doc` whose continuation is a right answer."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return {0}
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    golds = gold if isinstance(gold, list) else [gold]
    return {choices.index(g) if isinstance(g, str) and g in choices else g for g in golds}


# --- metrics ---


class Metrics:
    """lm-eval's metrics of one task, from the log-likelihoods of its requests.

    Needs the documents of the artifact `tasks`, not the dataset: no hub, no network.

    `name` is the metric whose mean over documents headcount reports: accuracy where the task has
    it, else the first that is a mean and better when higher (F1 for ReCoRD).
    """

    def __init__(self, yaml: str | Path, doc: dict):
        from datasets import Dataset
        from lm_eval.api.metrics import mean

        # lm-eval insists on looking at one document of the task's dataset.
        dataset = {"documents": Dataset.from_list([doc])}
        self.task = load(
            yaml,
            custom_dataset=lambda **_: dataset,
            test_split="documents",
            training_split=None,
            validation_split=None,
            fewshot_split=None,
            fewshot_config=None,
            process_docs=None,
        )
        better = self.task.higher_is_better()
        means = [
            name
            for name, function in self.task.aggregation().items()
            if function is mean and better[name]
        ]
        if not means:
            raise TaskError(f"task {self.task.config.task!r} has no metric that is a mean")
        self.name = "acc" if "acc" in means else means[0]

    def of(self, doc: dict, log_likelihoods: list[float], is_greedy: list[bool]) -> dict:
        """What lm-eval's `process_results` makes of one document: metric name -> value.

        A value is a number where the metric is a mean, else what its aggregation needs.
        """
        return self.task.process_results(doc, list(zip(log_likelihoods, is_greedy, strict=True)))

    def aggregate(self, results: list[dict]) -> dict[str, float]:
        """The task's metrics over all documents, by lm-eval's own aggregation."""
        return {
            name: function([result[name] for result in results])
            for name, function in self.task.aggregation().items()
        }
