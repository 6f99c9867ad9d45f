"""The metrics of a task: lm-eval's own, one of which headcount reports.

The **headline metric** is a metric that is a mean over documents in lm-eval, and better when
higher: `acc` if the task reports it, else the first such metric in its `metric_list`, or the one
that the configuration names (`metrics: {TASK: NAME}`). A metric that is not a mean (Matthews'
correlation, F1 over all documents) has no value for a single document, which importance and
intervals need.

**Chance** is the headline metric of guessing: the share of a document's choices that are right. It
is defined if the metric is lm-eval's own accuracy over choices, and null otherwise.
"""

from pathlib import Path
from typing import Any

from headcount.messages import did_you_mean
from headcount.tasks.files import Function, TaskError

# Metrics that lm-eval computes for a task without `process_results`: a number for each document,
# whose registered aggregation is the mean, and better when higher.
MEANS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("acc",),
}
ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
DEFAULT = {"multiple_choice": ("acc", "acc_norm"), "loglikelihood": ("perplexity", "acc")}
# lm-eval's defaults for registered metrics that `metric_list` does not describe: the aggregation,
# and whether higher is better (lm_eval.api.metrics).
REGISTERED = {
    **dict.fromkeys((*MEANS["multiple_choice"], "acc_all"), ("mean", True)),
    **{"f1": ("f1", True), "mcc": ("matthews_corrcoef", True)},
    **{"perplexity": ("perplexity", False), "brier_score": ("brier_score", False)},
}


def headline(config: dict, wanted: str | None = None) -> str:
    """Return the headline metric of a task, by its configuration; `wanted` overrides the rule.

    Raises `TaskError` if no metric is a mean over documents, or `wanted` is not one of these.
    """
    kind = config["output_type"]
    listed = config.get("metric_list") or [{"metric": name} for name in DEFAULT[kind]]
    names = [_name(entry["metric"]) for entry in listed]
    means = [name for name, entry in zip(names, listed, strict=True) if _is_mean(config, entry)]
    if wanted is not None and wanted not in means:
        raise TaskError(
            f"metrics: {config['task']}: {wanted!r} is not one of its metrics that are a mean over "
            f"documents and better when higher: {', '.join(means) or 'it has none'}"
        )
    if not means:
        raise TaskError(
            f"none of its metrics ({', '.join(names)}) is a mean over documents that is better "
            f"when higher{_remedy(names, kind)}"
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
    """Return a metric's name; the function's if the metric is one."""
    if isinstance(metric, Function):
        return metric.rpartition(".")[2]
    return getattr(metric, "__name__", None) or metric


class Metrics:
    """lm-eval's metrics of one task, from the log-likelihoods of its requests.

    `name` is the headline metric. One evaluated document of the artifact `tasks` is enough: neither
    the dataset nor a network is needed.

    Raises `TaskError` as `headline` and `headcount.tasks.loading.load` do.
    """

    def __init__(self, yaml: str | Path, doc: dict, metric: str | None = None):
        from datasets import Dataset

        from headcount.tasks import loading

        # lm-eval insists on one document of the task's dataset.
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
        """Return the metrics of an lm-eval task that is loaded already."""
        metrics = cls.__new__(cls)
        metrics._of_task(task, metric)
        return metrics

    def _of_task(self, task: Any, metric: str | None) -> None:
        self.task = task
        self.name = headline(vars(task.config), metric)

    def of(self, doc: dict, log_likelihoods: list[float], is_greedy: list[bool]) -> dict:
        """Return lm-eval's `process_results` of one document: metric name -> value.

        A value is a number if the metric is a mean, else what its aggregation needs.
        """
        return self.task.process_results(doc, list(zip(log_likelihoods, is_greedy, strict=True)))

    def aggregate(self, results: list[dict]) -> dict[str, float]:
        """Return the task's metrics over all documents, by lm-eval's own aggregation."""
        from lm_eval.api.metrics import mean

        aggregation = self.task.aggregation()
        names = dict.fromkeys(name for result in results for name in result)
        return {
            name: aggregation.get(name, mean)([r[name] for r in results if name in r])
            for name in names
        }

    def gold(self, doc: dict, requests: int) -> set[int]:
        """Return the indices of the requests of `doc` whose continuation is a right answer.

        An answer is right if certainty about it gives the headline metric its best value. So
        lm-eval decides, whatever form the task gives its labels (several right answers, labels that
        only its `process_results` knows). Empty if no choice is right.
        """
        if requests == 1:
            return {0}
        if self.task.OUTPUT_TYPE != "multiple_choice":
            raise TaskError(
                f"a document has {requests} requests that are not choices: leave the task out"
            )
        values = []
        for sure in range(self.choices(requests)):
            answers = [(0.0, True) if i == sure else (-1e3, False) for i in range(requests)]
            values.append(self.task.process_results(doc, answers)[self.name])
        best = max(values)
        return {i for i, value in enumerate(values) if value == best and best > min(values)} or (
            set(range(len(values))) if best > 0 else set()
        )

    def choices(self, requests: int) -> int:
        """Return how many of a document's requests are choices.

        If a task reports `acc_mutual_info`, lm-eval adds a request without a context to each.
        """
        return requests // 2 if "acc_mutual_info" in self.task.aggregation() else requests

    def chance(self, right: int, requests: int) -> float | None:
        """Return the headline metric of guessing on a document with so many `right` requests.

        None if the metric is not an accuracy over choices.
        """
        guessed = self.task.OUTPUT_TYPE == "multiple_choice" and self.name in ACCURACIES
        if not guessed or self.task.config.process_results:
            return None
        return right / self.choices(requests)
