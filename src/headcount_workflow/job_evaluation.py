"""The evaluations of a job, for the scripts that evaluate prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from headcount.artifacts import storage
from headcount.engine.ablation import Ablation
from headcount.models import loading as model_loading
from headcount.models.language_model import LanguageModel
from headcount.scores import evaluation_store
from headcount.scores.documents import Evaluation, fit_ablation
from headcount_workflow import job, job_model, job_task


@dataclass
class Inputs:
    """What a job evaluates, and with what."""

    facts: dict  # of the model
    model: LanguageModel  # without its weights: its components and its tokenizer
    evaluation: Evaluation
    ablation: Ablation | None
    store: evaluation_store.Store


@contextmanager
def inputs(snakemake: Any, split: str) -> Iterator[Inputs]:
    """Yield the inputs of a job that evaluates a split; what it computes is stored at the end."""
    facts, prompts = job_model.facts(snakemake), job.prompts(snakemake)
    outline = model_loading.outline(facts["path"], facts["trust_remote_code"], facts["layout"])
    yaml, metric = job_task.task(snakemake), snakemake.params.metric
    evaluation = Evaluation(prompts, split, yaml, metric)
    with _store(snakemake, prompts) as store:
        ablation = _ablation(snakemake, prompts, store)
        yield Inputs(facts, outline, evaluation, ablation, store)


def _store(snakemake: Any, prompts: pa.Table) -> evaluation_store.Store:
    """Return what was ever computed of the job's task, at its number of shots.

    The model is loaded if something is missing, and proved on `prompts` before it computes.
    """
    facts, wildcards = job_model.facts(snakemake), snakemake.wildcards
    way = storage.provenance(snakemake.input.verified)["way"]
    context = evaluation_store.context(
        facts["fingerprint"], snakemake.params.dtype, way, facts["layout"]
    )
    of_model = Path(snakemake.input.model).parent
    place = Path("evaluations", wildcards.task, f"{wildcards.shots}-shot")
    beside = [one / place for one in of_model.parent.iterdir() if one != of_model]
    load = partial(job_model.load_proved, snakemake, prompts)
    return evaluation_store.Store(of_model / place, context, load, beside)


def _ablation(snakemake: Any, prompts: pa.Table, store: evaluation_store.Store) -> Ablation | None:
    """Return what removed components leave, from the calibration documents among `prompts`."""
    chosen, yaml = snakemake.params.ablation, snakemake.params.place["yaml"]
    if chosen["kind"] == "zero":
        return None
    return fit_ablation(store.model, prompts, **chosen, yaml=yaml)
