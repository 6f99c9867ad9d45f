"""What a task is judged by: lm-eval's own metrics, one of which headcount reports.

The **headline metric** is one whose mean over documents lm-eval itself prints, and that is better
when higher: `acc` where the task reports it, else the first of its `metric_list`, or the one that
the config names (`metrics: {TASK: NAME}`). A metric that is no mean over documents (Matthews'
correlation, F1 over all documents) has no value for a document, which importance and intervals
need.

**Chance** is the headline metric of guessing, the share of a document's choices that are right. It
is defined where the metric is lm-eval's own accuracy over choices, and null elsewhere.
"""

from pathlib import Path
from typing import Any

from headcount.messages import did_you_mean
from headcount.tasks.files import Function, TaskError

# What lm-eval makes of the answers where a task has no `process_results`: metrics with a number for
# each document, whose registered aggregation is the mean and that are better when higher.
MEANS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("acc",),
}
ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
DEFAULT = {"multiple_choice": ("acc", "acc_norm"), "loglikelihood": ("perplexity", "acc")}
# Of registered metrics, what lm-eval takes where `metric_list` does not say: a pair of aggregation
# and whether higher is better (lm_eval.api.metrics).
REGISTERED = {
    **dict.fromkeys((*MEANS["multiple_choice"], "acc_all"), ("mean", True)),
    **{"f1": ("f1", True), "mcc": ("matthews_corrcoef", True)},
    **{"perplexity": ("perplexity", False), "brier_score": ("brier_score", False)},
}


def headline(config: dict, wanted: str | None = None) -> str:
    """The metric that is reported of a task, by its configuration; `wanted` overrides the rule.

    Raises `TaskError` when none is a mean over documents, or `wanted` is none of these.
    """
    kind = config["output_type"]
    listed = config.get("metric_list") or [{"metric": name} for name in DEFAULT[kind]]
    names = [_name(entry["metric"]) for entry in listed]
    means = [name for name, entry in zip(names, listed, strict=True) if _is_mean(config, entry)]
    if wanted is not None and wanted not in means:
        raise TaskError(
            f"metrics: {config['task']}: {wanted!r} is none of its metrics that are a mean over "
            f"documents and better when higher ({', '.join(means) or 'it has none'})"
        )
    if not means:
        raise TaskError(
            f"lm-eval reports {', '.join(names)} of it, of which none is a mean over documents "
            f"that is better when higher{_remedy(names, kind)}"
        )
    return wanted or ("acc" if "acc" in means else means[0])


def _remedy(names: list[str], kind: str) -> str:
    mistyped = [name for name in names if name not in REGISTERED]
    hints = [did_you_mean(name, MEANS[kind]) for name in mistyped]
    return next(filter(None, hints), ": leave it out")


def _is_mean(config: dict, entry: dict) -> bool:
    name = _name(entry["metric"])
    aggregation, higher = REGISTERED.get(name, (None, None))
    aggregation = entry.get("aggregation") or aggregation
    higher = entry["higher_is_better"] if entry.get("higher_is_better") is not None else higher
    computed = config.get("process_results") or name in MEANS[config["output_type"]]
    return bool(computed and aggregation == "mean" and higher)


def _name(metric: Any) -> str:
    """A metric's name, of one that is a function the function's."""
    if isinstance(metric, Function):
        return metric.rpartition(".")[2]
    return getattr(metric, "__name__", None) or metric


class Metrics:
    """lm-eval's metrics of one task, from the log-likelihoods of its requests.

    `name` is the headline metric. Needs one evaluated document of the artifact `tasks`, not the
    dataset: no hub, no network.

    Raises `TaskError` as `headline` and `headcount.tasks.loading.load` do.
    """

    def __init__(self, yaml: str | Path, doc: dict, metric: str | None = None):
        from datasets import Dataset

        from headcount.tasks import loading

        # lm-eval insists on looking at one document of the task's dataset.
        dataset = {"documents": Dataset.from_list([doc])}
        task = loading.load(
            yaml,
            custom_dataset=lambda **_: dataset,
            test_split="documents",
            training_split=None,
            validation_split=None,
            fewshot_split=None,
            fewshot_config=None,
            process_docs=None,
        )
        self._of_task(task, metric)

    @classmethod
    def of_task(cls, task: Any, metric: str | None = None) -> "Metrics":
        """The metrics of an lm-eval task that is loaded already."""
        metrics = cls.__new__(cls)
        metrics._of_task(task, metric)
        return metrics

    def _of_task(self, task: Any, metric: str | None) -> None:
        self.task = task
        self.name = headline(vars(task.config), metric)

    def of(self, doc: dict, log_likelihoods: list[float], is_greedy: list[bool]) -> dict:
        """What lm-eval's `process_results` makes of one document: metric name -> value.

        A value is a number where the metric is a mean, else what its aggregation needs.
        """
        return self.task.process_results(doc, list(zip(log_likelihoods, is_greedy, strict=True)))

    def aggregate(self, results: list[dict]) -> dict[str, float]:
        """The task's metrics over all documents, by lm-eval's own aggregation."""
        from lm_eval.api.metrics import mean

        aggregation = self.task.aggregation()
        names = dict.fromkeys(name for result in results for name in result)
        return {
            name: aggregation.get(name, mean)([r[name] for r in results if name in r])
            for name in names
        }

    def gold(self, doc: dict, requests: int) -> set[int]:
        """Indices of the requests of `doc` whose continuation is a right answer.

        Those that, had the model been sure of them, would give the headline metric its best value:
        lm-eval's own word on what is right, however the task words it (several right answers,
        labels that its `process_results` alone knows). None where no choice is right.
        """
        if requests == 1:
            return {0}
        if self.task.OUTPUT_TYPE != "multiple_choice":
            raise TaskError(f"a document with {requests} requests that are no choices")
        values = []
        for sure in range(self.choices(requests)):
            answers = [(0.0, True) if i == sure else (-1e3, False) for i in range(requests)]
            values.append(self.task.process_results(doc, answers)[self.name])
        best = max(values)
        return {i for i, value in enumerate(values) if value == best and best > min(values)} or (
            set(range(len(values))) if best > 0 else set()
        )

    def choices(self, requests: int) -> int:
        """How many of a document's requests are choices; lm-eval adds one without a context to each
        where a task reports `acc_mutual_info`.
        """
        return requests // 2 if "acc_mutual_info" in self.task.aggregation() else requests

    def chance(self, right: int, requests: int) -> float | None:
        """The headline metric of guessing on a document, by how many of its requests are right.

        None where it is no accuracy over choices.
        """
        guessed = self.task.OUTPUT_TYPE == "multiple_choice" and self.name in ACCURACIES
        if not guessed or self.task.config.process_results:
            return None
        return right / self.choices(requests)
