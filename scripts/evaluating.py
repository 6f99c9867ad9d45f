"""What the scripts do that evaluate prompts: of the others that code is no part."""

from functools import partial
from pathlib import Path

import loading

from headcount.artifacts import storage
from headcount.models import loading as model_loading
from headcount.scores import evaluation_store
from headcount.scores.documents import fit_ablation


def outline(snakemake):
    """The job's model without its weights: its components and its tokenizer."""
    facts = loading.model_facts(snakemake)
    return model_loading.outline(facts["path"], facts["trust_remote_code"], facts["layout"])


def store(snakemake, prompts):
    """What was ever computed of the job's task, at its number of shots.

    The model is loaded if something is missing, and proved on `prompts` before it computes.
    """
    facts, wildcards = loading.model_facts(snakemake), snakemake.wildcards
    way = storage.provenance(snakemake.input.verified)["way"]
    context = evaluation_store.context(
        facts["fingerprint"], snakemake.params.dtype, way, facts["layout"]
    )
    of_model = Path(snakemake.input.model).parent
    place = Path("evaluations", wildcards.task, f"{wildcards.shots}-shot")
    beside = [one / place for one in of_model.parent.iterdir() if one != of_model]
    load = partial(loading.load_proved, snakemake, prompts)
    return evaluation_store.Store(of_model / place, context, load, beside)


def stand_ins(snakemake, prompts, store):
    """What removed components leave, from the calibration documents among `prompts`."""
    ablation = snakemake.params.ablation
    if ablation["kind"] == "zero":
        return None
    return fit_ablation(store.model, prompts, **ablation, yaml=snakemake.params.place["yaml"])
