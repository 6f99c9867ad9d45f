"""Importance, pruning and verification in a line each, without Snakemake.

    import headcount as hc

    scores = hc.score("gpt2", [("The capital of France is", " Paris")])
    copa = hc.task("copa", shots=5)
    curve = hc.prune("gpt2", copa, heads=hc.score("gpt2", copa), levels=[0, 25, 50])

A model is a name on the hub, a directory, a `PreTrainedModel` or what `language_model` returns:
loaded once it serves many calls. The numbers are those of the workflow, by the same functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from headcount.artifacts import schemas, storage
from headcount.engine import Masks
from headcount.models import language_model as model_language_model, loading as model_loading
from headcount.models.checkpoints import as_model_error
from headcount.models.language_model import LanguageModel, ModelError, Prompt
from headcount.scores import importance, pruning, rankings
from headcount.scores.documents import Documents, DocumentScores, Evaluation
from headcount.scores.evaluation_store import Store, log_likelihoods
from headcount.scores.rankings import RankingError
from headcount.tasks import loading, prompts as task_prompts
from headcount.tasks.spec import Limits
from headcount.verification import verdict

Model: TypeAlias = str | Path | PreTrainedModel | LanguageModel
LIMITS = Limits(calibration=100, evaluation=100)  # documents of a task, unless others are asked for
LEVELS = tuple(range(0, 100, 10))  # percent, as in the paper


# --- models ---


def language_model(
    source: Model,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str = "float32",
    device_map: str = "cpu",
    memory: float = model_language_model.MEMORY,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A model whose heads and FFNs can be removed, of the hub, in a directory, or loaded before.

    A `PreTrainedModel` stays as it is and where it is; its tokenizer is looked for where it was
    loaded from, unless it is given. `memory`, in MB, is what computations hold beside the weights;
    the others are those of `headcount.models.loading.load`.

    Raises `ModelError` when it cannot be had, is not whole, or its components are not found.
    """
    if isinstance(source, LanguageModel):
        return source
    if isinstance(source, PreTrainedModel):
        return LanguageModel(source, tokenizer or _tokenizer(source), memory)
    with TemporaryDirectory() as converted:
        facts = model_loading.resolve(str(source), None, None, converted, trust_remote_code)
        loaded = model_loading.load(facts["path"], dtype, device_map, memory, trust_remote_code)
    loaded.tokenizer = tokenizer or loaded.tokenizer
    loaded.hf.name_or_path = str(source)
    return loaded


def _tokenizer(hf: PreTrainedModel) -> PreTrainedTokenizerBase:
    if not hf.name_or_path:
        raise ModelError(
            f"this {type(hf).__name__} does not say where it was loaded from: give its tokenizer, "
            "hc.language_model(model, tokenizer)"
        )
    with as_model_error(f"the tokenizer of {hf.name_or_path}"):
        return AutoTokenizer.from_pretrained(hf.name_or_path)


# --- prompts ---


@dataclass(frozen=True)
class Task:
    """The prompts of an lm-eval task at one number of shots, as `task` renders them.

    `prompts` is the artifact `tasks`; `metric` what overrides the task's own, or None.
    """

    name: str
    shots: int
    yaml: Path
    metric: str | None
    prompts: pa.Table

    def documents(self, split: str) -> Evaluation:
        """Those of the split "calibration", or of "evaluation"."""
        return Evaluation(self.prompts, split, self.yaml, self.metric)


def task(
    name: str,
    shots: int = 0,
    limits: Limits = LIMITS,
    seed: int = 0,
    task_path: str | Path | None = None,
    datasets: str | Path | None = None,
    metric: str | None = None,
) -> Task:
    """The lm-eval task `name` with `shots` solved examples in each context.

    `limits` are numbers of documents: to calibrate importance on, and to measure accuracy on.
    `task_path`: a directory of task YAML files of one's own; `datasets`: a mirror of the hub's.
    Arguments mean what they do in the configuration of a study.

    Raises `TaskError` when there is no such task, or it cannot be studied as asked.
    """
    yaml = loading.find(name, task_path)
    rows = task_prompts.prepare(yaml, shots, limits, seed, datasets, metric=metric)
    about = {"task": name, "shots": shots}
    prompts = storage.labelled(rows, schemas.SCHEMAS["tasks"], about)
    return Task(name, shots, yaml, metric, prompts)


class Pairs:
    """Prompts of one's own, (context, continuation) each, as documents with one choice.

    Their metric is the log-likelihood of the continuation, in nats.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        if not pairs:
            raise ValueError("there is no prompt: give (context, continuation) pairs")
        self.pairs = [(str(context), str(continuation)) for context, continuation in pairs]
        self.doc_ids = list(range(len(self.pairs)))

    def gold(self, model: LanguageModel) -> tuple[list[Prompt], np.ndarray]:
        """The prompts, and the document of each, as `Evaluation.gold` gives them."""
        return model.encode(self.pairs), np.arange(len(self.pairs))

    def run(self, model: LanguageModel, masks: Masks, store: Store | None = None) -> DocumentScores:
        """Every prompt under every mask, as `Evaluation.run` scores documents."""
        sums, greedy = log_likelihoods(model, model.encode(self.pairs), masks, store)
        metric = sums.double().numpy()
        return DocumentScores(
            log_likelihoods=[[[ll] for ll in of_mask] for of_mask in metric.tolist()],
            is_greedy=[[[hit] for hit in of_mask] for of_mask in greedy.tolist()],
            results=[[{"log_likelihood": ll} for ll in of_mask] for of_mask in metric.tolist()],
            metric=metric,
        )


Prompts = str | Task | Sequence[tuple[str, str]]


def _documents(prompts: Prompts, split: str) -> tuple[Documents, dict[str, str | int]]:
    """The documents to compute with, and the labels that they give to the results."""
    if isinstance(prompts, str):
        prompts = task(prompts)
    if isinstance(prompts, Task):
        return prompts.documents(split), {"task": prompts.name, "shots": prompts.shots}
    return Pairs(prompts), {}


# --- what is computed ---


def score(
    model: Model,
    prompts: Prompts,
    component: str = "heads",
    estimator: str = "gradient-token",
) -> pl.DataFrame:
    """Importance of every head, or every FFN ("heads", "ffns"): rows of the artifact `importance`.

    `prompts` is a task, by its name (without examples) or from `task`, of which the calibration
    documents are taken; or a list of (context, continuation) pairs. `estimator` is one of
    `importance.ESTIMATORS`: gradients and `oracle-loss` are in nats a token, `oracle-task` in the
    unit of the task's metric. Prompts of one's own have no columns task and shots; their
    `oracle-task` is the log-likelihood that is lost, in nats.

    Raises `ModelError`, `TaskError`, `PromptError` for a continuation without tokens, and
    `ValueError` for an unknown component or estimator.
    """
    if component not in ("heads", "ffns"):
        raise ValueError(f"component {component!r} is neither heads nor ffns")
    documents, labels = _documents(prompts, "calibration")
    loaded = language_model(model)
    scores = importance.estimate(estimator, loaded, documents, component)
    labels |= {"component": component, "estimator": estimator}
    return _frame(scores.rows(loaded, component), "importance", loaded, labels)


def prune(
    model: Model,
    prompts: Prompts,
    heads: pl.DataFrame | None = None,
    ffns: pl.DataFrame | None = None,
    levels: Sequence[float] | Sequence[tuple[float, float]] = LEVELS,
) -> pl.DataFrame:
    """Every document at every pruning level: rows of the artifact `pruning`.

    `heads` and `ffns` are rankings, or scores, which are ranked: the least important go first.
    `levels` are percentages of the components that are removed, or with both rankings pairs of
    percentages, (of the heads, of the FFNs). `prompts`: see `score`; of a task the evaluation
    documents are taken, of pairs the `metric` is the log-likelihood in nats.

    Raises `RankingError` unless the rankings are of all the model's components and the levels fit
    them, and what `score` raises.
    """
    given = {"heads": heads, "ffns": ffns}
    ranked = {name: _ranking(frame) for name, frame in given.items() if frame is not None}
    pairs = _level_pairs(levels, list(ranked))
    documents, labels = _documents(prompts, "evaluation")
    loaded = language_model(model)
    for name, ranking in ranked.items():
        rankings.check(ranking, loaded.heads, loaded.ffns, loaded.hf.name_or_path)
        if rankings.component_of(ranking) != name:
            raise RankingError(f"{name}: the ranking is of {rankings.component_of(ranking)}")
    by = " and ".join(dict.fromkeys(_name(frame) for frame in given.values() if frame is not None))
    rows = pruning.prune(loaded, documents, {by: ranked}, pairs)[by]
    labels["component"] = "combined" if len(ranked) == 2 else next(iter(ranked))
    if "task" in labels:
        labels["order"] = pruning.order(by, str(labels["task"]))
    return _frame(rows, "pruning", loaded, labels)


def verify(model: Model, seed: int = 0) -> pl.DataFrame:
    """Whether headcount computes what the unmodified model computes: rows of `verified`.

    A row is a property, in float32 and in the model's own dtype: the largest difference on random
    prompts, the bound that rounding explains and whether it `passed`. Raises `ModelError` when the
    model cannot be had.
    """
    loaded = language_model(model)
    rows = verdict.verify_and_choose(loaded, seed)
    return rows.select(pl.lit(loaded.hf.name_or_path).alias("model"), pl.all())


def _ranking(frame: pl.DataFrame) -> pl.DataFrame:
    return frame if "rank" in frame.columns else rankings.rank(frame)


def _name(frame: pl.DataFrame) -> str:
    """What a ranking is called, or the task whose scores it is made from."""
    for label in ("ranking", "task"):
        if label in frame.columns:
            return str(frame[label][0])
    return "own prompts"


def _level_pairs(
    levels: Sequence[float] | Sequence[tuple[float, float]], components: list[str]
) -> list[tuple[float, float]]:
    """(Of the heads, of the FFNs) for each level, in percent."""
    pairs = [level for level in levels if isinstance(level, tuple)]
    single = [float(level) for level in levels if not isinstance(level, tuple)]
    if len(components) == 2 and not single:
        return [(float(of_heads), float(of_ffns)) for of_heads, of_ffns in pairs]
    if len(components) == 1 and not pairs:
        return [(level, 0.0) if components == ["heads"] else (0.0, level) for level in single]
    raise RankingError(
        "give `heads` or `ffns` with levels in percent, or both with pairs (of heads, of FFNs)"
    )


def _frame(
    rows: list[dict], kind: str, model: LanguageModel, labels: dict[str, str | int]
) -> pl.DataFrame:
    """Rows of the artifact `kind` with the labels that are known of them."""
    about = {"model": model.hf.name_or_path, **labels}
    fields = [field for field in schemas.LABELS[kind] if field.name in about]
    schema = pa.schema([*fields, *schemas.ROWS[kind]])
    return pl.DataFrame(storage.labelled(rows, schema, about))
