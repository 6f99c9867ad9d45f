"""Agreement with lm-evaluation-harness: the same requests, log-likelihoods and metrics.

The reference is lm-eval's own `simple_evaluate` with its own model (HFLM), which loads the same
checkpoint and renders the task's prompts itself. A row of the table is equal if

- the requests are the same texts in the same order,
- no log-likelihood differs by more than `TOLERANCE` nats and every `is_greedy` is the same,
- there is a metric, and every metric that only depends on which log-likelihoods are larger, such as
  accuracy and F1, is the same number. A smooth function of the log-likelihoods (a perplexity, a
  probability, a Brier score) depends on their last digits, hence on the order of floating-point
  additions, in HFLM too: the table shows it at two batch sizes. Such a metric may differ by the
  effect of the row's largest difference d of a log-likelihood.

d changes a probability p normalised over the choices by at most 2 d p (1 - p), hence a Brier
score's terms (p - 1)^2 and p^2 by at most 4 d of themselves; a perplexity by d of itself, a mean of
log-likelihoods by d. All are within d max(1, 4 |value|).
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import yaml as pyyaml

from headcount.artifacts import storage, temporaries
from headcount.engine import Masks, log_likelihoods
from headcount.models.language_model import LanguageModel
from headcount.scores.documents import DocumentScores, Evaluation, request_pairs, split_rows
from headcount.tasks import datasets as task_datasets, loading as task_loading
from headcount.tasks.files import installed

TOLERANCE = 1e-4  # nats
REQUESTS = 100  # compared for each task: those of its first documents, at least two of these
OTHER_BATCH_SIZE = 8  # of HFLM, for comparison with itself at batch size 1


class NoParityError(FileNotFoundError):
    """There is no parity table; the message names the remedy."""


def compare(
    model: LanguageModel,
    reference: Any,
    prompts: pa.Table,
    yaml: str | Path,
    shots: int,
    datasets: str | Path | None = None,
) -> tuple[list[dict], dict]:
    """Compare the task's first requests by `model` and by lm-eval with its model `reference`.

    `prompts` is the artifact `tasks`; `reference` is a `recorder` of the same checkpoint. Returns
    rows of the artifact `parity`, and {headcount, hflm, choice} for each metric: both values, and
    whether it depends only on which log-likelihoods are larger. A metric that differs also has the
    value of HFLM at another batch size. Metrics are named as in lm-eval, "name,filter", without the
    filter "none".
    """
    evaluation = Evaluation(_first(prompts), "evaluation", yaml)
    scores = evaluation.run(model, Masks.removing(model, [([], [])]))
    ours = evaluation.metrics.aggregate(scores.results[0])
    run = (yaml, shots, len(evaluation.docs), datasets)
    reference.answers = []
    theirs = _lm_eval(reference, 1, *run)
    unfiltered = {name: name.partition(",")[0] for name in sorted(theirs)}
    if missing := set(unfiltered.values()) - set(ours):
        raise ValueError(f"{yaml}: lm-eval has the metrics {sorted(missing)}, not {sorted(ours)}")
    choices = _choices(evaluation, scores)
    metrics = {
        name: {"headcount": ours[of], "hflm": theirs[name], "choice": of in choices}
        for name, of in unfiltered.items()
    }
    pairs = request_pairs(evaluation.requests)
    sums = [ll for document in scores.log_likelihoods[0] for ll in document]
    greedy = [hit for document in scores.is_greedy[0] for hit in document]
    rows = _rows(model, pairs, sums, greedy, reference.answers)
    for row, request in zip(rows, evaluation.requests, strict=True):
        row |= {"case": None, "doc_id": request["doc_id"]}
    if any(values["headcount"] != values["hflm"] for values in metrics.values()):
        again = _lm_eval(reference, OTHER_BATCH_SIZE, *run)
        for name, values in metrics.items():
            values["hflm_other_batch_size"] = again[name]
    return rows, metrics


def edge_cases(model: LanguageModel, reference: Any, prompts: pa.Table) -> list[dict]:
    """Return rows of the artifact `parity` for rare requests, built from four of the task's.

    The context is empty, ends in white space, is longer than the window, or has moved mostly to the
    continuation.
    """
    from lm_eval.api.instance import Instance

    cases: dict[str, list[tuple[str, str]]] = {}
    for request in split_rows(prompts, "evaluation")[:4]:
        context, continuation = request["context"], request["continuation"]
        words = context.split(" ")
        half = len(words) // 2
        repeats = 2 + model.window // len(words)  # a word is a token or more
        for case, pair in (
            ("empty context", ("", continuation)),
            ("context ends in a space", (context.rstrip() + " ", continuation.lstrip())),
            ("context ends in three spaces", (context.rstrip() + "   ", continuation.lstrip())),
            ("context ends in a line break", (context.rstrip() + "\n", continuation.lstrip())),
            ("context is cut to the window", ("\n\n".join([context] * repeats), continuation)),
            (
                "continuation is long",
                (" ".join(words[:half]), " " + " ".join(words[half:]) + continuation),
            ),
        ):
            cases.setdefault(case, []).append(pair)
    rows = []
    for case, pairs in cases.items():
        sums, greedy = log_likelihoods(
            model, model.encode(pairs), Masks.removing(model, [([], [])])
        )
        reference.answers = []
        reference.loglikelihood(
            [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        )
        found = _rows(model, pairs, sums[0].tolist(), greedy[0].tolist(), reference.answers)
        rows += [row | {"case": case, "doc_id": None} for row in found]
    return rows


def recorder(path: str | Path, dtype: str, device: str, trust_remote_code: bool = False) -> Any:
    """Return lm-eval's HFLM for the checkpoint in `path`, recording its `answers`.

    An answer is (context, continuation, log-likelihood in nats, is greedy).
    """
    from lm_eval.models.huggingface import HFLM

    class Recorder(HFLM):
        def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list:
            answers = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
            self.answers += [(*r.args, *a) for r, a in zip(requests, answers, strict=True)]
            return answers

    loading = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    found = Recorder(str(path), **loading, batch_size=1)
    found.answers = []
    return found


def _choices(evaluation: Evaluation, scores: DocumentScores) -> set[str]:
    """Return the metrics that stay the same when all log-likelihoods are doubled.

    Doubling is exact in floating point, and keeps the order of log-likelihoods and their ties.
    """
    chosen = set(evaluation.metrics.aggregate(scores.results[0]))
    measured = scores.log_likelihoods[0], scores.is_greedy[0], scores.results[0]
    for doc, sums, greedy, found in zip(evaluation.docs, *measured, strict=True):
        doubled = evaluation.metrics.of(doc, [2 * ll for ll in sums], greedy)
        chosen -= {name for name in found if not _same_result(found[name], doubled[name])}
    return chosen


def _same_result(a: Any, b: Any) -> bool:
    """Whether two results of a document are the same: numbers, or tuples of these and arrays."""
    if isinstance(a, tuple):
        return all(map(_same_result, a, b))
    return np.array_equal(a, b)


def _first(prompts: pa.Table) -> pa.Table:
    """Return the first evaluation documents with `REQUESTS` requests in all, at least two."""
    requests = Counter(row["doc_id"] for row in split_rows(prompts, "evaluation"))
    within = int((np.cumsum(list(requests.values())) <= REQUESTS).sum())
    return prompts.filter(pc.field("doc_id").isin(list(requests)[: max(2, within)]))


def _lm_eval(
    reference: Any, batch_size: int, yaml: Any, shots: int, limit: int, datasets: Any
) -> dict:
    """Return lm-eval's own metrics of the task, by name and filter."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    loaded = task_loading.load(yaml, datasets).config
    # The task's own file, with another place of its documents.
    task = {key: getattr(loaded, key) for key in ("dataset_path", "dataset_name", "dataset_kwargs")}
    with temporaries.Directory() as directory, task_datasets.uncached() as cache:
        config = {"include": str(installed(yaml).resolve()), "task": loaded.task}
        config |= task_datasets.isolated(task | {"custom_dataset": loaded.custom_dataset}, cache)
        del config["custom_dataset"]
        path = Path(directory, "task.yaml")
        path.write_text(pyyaml.safe_dump(config))
        reference.batch_size_per_gpu = batch_size
        results = lm_eval.simple_evaluate(
            reference,
            tasks=[str(path)],
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
            task_manager=TaskManager(include_defaults=False),
        )["results"][loaded.task]
    return {
        name.removesuffix(",none"): value
        for name, value in results.items()
        if "," in name and "_stderr," not in name
    }


def _rows(model: LanguageModel, pairs: list, sums: list, greedy: list, answers: list) -> list[dict]:
    """Return rows of the artifact `parity` for our requests and the recorded `answers`."""
    if len(pairs) != len(answers):
        raise ValueError(f"headcount makes {len(pairs)} requests, lm-eval {len(answers)}")
    return [
        {
            "same_request": pair == answer[:2],
            "targets": len(prompt.targets),
            "truncated": prompt.truncated,
            "log_likelihood": log_likelihood,
            "hflm_log_likelihood": answer[2],
            "is_greedy": hit,
            "hflm_is_greedy": answer[3],
        }
        for pair, prompt, log_likelihood, hit, answer in zip(
            pairs, model.encode(pairs), sums, greedy, answers, strict=True
        )
    ]


# --- the table ---

_METRIC = pl.Struct(
    dict.fromkeys(("headcount", "hflm", "hflm_other_batch_size"), pl.Float64)
    | {"metric": pl.String, "choice": pl.Boolean}
)


def table(files: Sequence[str | Path]) -> pl.DataFrame:
    """Return one row for each task and number of shots, and for each edge case.

    Columns: task (or edge case), shots (null for an edge case), documents, requests, targets_low
    and targets_high (tokens of a continuation), truncated (requests cut to the window), difference
    (the largest of log-likelihoods, in nats), greedy (requests whose is_greedy differs), metrics
    (name and values), equal.
    """
    rows = []
    for path in files:
        made, requests = storage.provenance(path), storage.frame(path)
        metrics = [{"metric": name, **values} for name, values in made["metrics"].items()]
        for (case,), group in requests.group_by("case", maintain_order=True):
            about = case or made["task"], None if case else made["shots"]
            rows.append(_row(*about, group, metrics))
    schema = {"task": pl.String, "shots": pl.Int32, "documents": pl.Int32}
    return pl.DataFrame(rows, schema_overrides=schema | {"metrics": pl.List(_METRIC)})


def _row(task: str, shots: int | None, requests: pl.DataFrame, metrics: list[dict]) -> dict:
    difference = (requests["log_likelihood"] - requests["hflm_log_likelihood"]).abs().max()
    greedy = (requests["is_greedy"] != requests["hflm_is_greedy"]).sum()
    return {
        "task": task,
        "shots": shots,
        "documents": requests["doc_id"].n_unique() if shots is not None else None,
        "requests": requests.height,
        "targets_low": requests["targets"].min(),
        "targets_high": requests["targets"].max(),
        "truncated": requests["truncated"].sum(),
        "difference": difference,
        "greedy": greedy,
        "metrics": metrics,
        "equal": bool(
            requests["same_request"].all()
            and difference <= TOLERANCE
            and greedy == 0
            and (metrics or shots is None)
            and all(_same(metric, difference) for metric in metrics)
        ),
    }


def _same(metric: dict, difference: float) -> bool:
    """Whether both values are the same up to the effect of the `difference` (nats)."""
    ours, theirs = metric["headcount"], metric["hflm"]
    bound = 0 if metric["choice"] else max(1, 4 * abs(theirs)) * difference
    return bool(np.isclose(ours, theirs, rtol=0, atol=bound, equal_nan=True))


def show(artifacts_directory: Path) -> tuple[str, bool]:
    """Return the tables of all models as a page of Markdown, and whether all rows are equal.

    Raises `NoParityError`, which names the remedy, when there is none.
    """
    files = sorted(artifacts_directory.glob("*/tables/parity.parquet"))
    if not files:
        raise NoParityError(f"no parity table below {artifacts_directory}/: run `make parity`")
    lines, equal = [PAGE], []
    for path in files:
        made, rows = storage.provenance(path), storage.frame(path)
        equal += rows["equal"].to_list()
        packages = made["made_of"]["parameters"]["code"]["packages"]
        versions = ", ".join(f"{name} {version}" for name, version in packages.items())
        lines += [f"## {made['model']}\n\n{made['dtype']}; {versions}.\n", HEADER]
        lines += [_line(row) for row in rows.iter_rows(named=True)]
        lines.append("")
    lines.append(f"{sum(equal)} of {len(equal)} rows are equal.")
    return "\n".join(lines), all(equal)


def models(page: str) -> set[str]:
    """Return the models that have a section in a page of Markdown."""
    return set(re.findall(r"^## (.+)$", page, re.MULTILINE))


PAGE = """# Parity with lm-evaluation-harness

Made by `make parity`. Each row compares headcount, unpruned, with lm-eval's own `simple_evaluate`
and its own model (HFLM, batch size 1), which loads the same checkpoint and renders the prompts by
itself. It is **equal** when the requests are the same texts in the same order, no log-likelihood
differs by more than 1e-4 nats, every `is_greedy` is the same, and every metric, one at least, is
the same number.

A metric that is a smooth function of the log-likelihoods (a perplexity, a probability, a Brier
score) may be off by what the row's difference d makes of it, d max(1, 4 |value|): their last digits
depend on the order in which floating-point numbers are added. HFLM does not agree with itself to
the last digit: its value at batch size 8 stands in brackets.

Compared are the first documents of a task, as many as make up to 100 requests and two at least.
Tokens are those of a continuation; cut are requests longer than the model's window; the difference
is the largest of a log-likelihood, in nats. Rows without shots are edge cases made from a task's
first requests. A group's metric is a mean of its tasks': that of `mini`, all embedded tasks, is the
same number by lm-eval's `--model headcount` as by `--model hf`
(`tests/interop/test_lm_eval_model.py`).
"""
HEADER = """\
| task | shots | documents | requests | tokens | cut | difference | greedy | metrics | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def _line(row: dict) -> str:
    low, high = row["targets_low"], row["targets_high"]
    cells = [
        row["task"],
        row["shots"],
        row["documents"],
        row["requests"],
        low if low == high else f"{low} to {high}",
        row["truncated"] or "",
        f"{row['difference']:.0e}",
        "same" if row["greedy"] == 0 else f"{row['greedy']} differ",
        ", ".join(map(_metric, row["metrics"])),
        "equal" if row["equal"] else "**differs**",
    ]
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"


def _metric(metric: dict) -> str:
    if metric["headcount"] == metric["hflm"]:
        return f"{metric['metric']} {metric['headcount']:.6g}"
    return (
        f"{metric['metric']} {metric['headcount']!r}, HFLM {metric['hflm']!r} "
        f"({metric['hflm_other_batch_size']!r})"
    )
