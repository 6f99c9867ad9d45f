"""Loading a model, for the scripts that do: of the others that code is no part."""

from pathlib import Path

import job

from headcount.artifacts import storage
from headcount.models import checkpoints, fingerprint, loading
from headcount.models.families import ModelError
from headcount.verify import tolerance


def model_facts(snakemake) -> dict:
    """What `resolve_model` found out about the job's model, and the path where that lies now."""
    facts = storage.read_json(snakemake.input.model)
    facts["source"] = snakemake.params.place["source"]
    return {**facts, "path": str(checkpoints.place(facts, Path(snakemake.input.model).parent))}


def load_model(snakemake):
    """The model that `resolve_model` found, as the job's parameters and resources say.

    Its prompts go through the layers the way that `verify_model` proved.

    Raises `ModelError` when no weights, or others, lie there by now, and what `loading.load`
    raises.
    """
    facts = model_facts(snakemake)
    if not Path(facts["path"]).is_dir():
        raise ModelError(
            f"the model in {facts['path']} is gone: put it back and run it again, or delete "
            f"{snakemake.input.model} if it has moved"
        )
    if fingerprint.fingerprint(facts["path"]) != facts["fingerprint"]:
        raise ModelError(
            f"the model in {facts['path']} is not what it was when the study began: run it again"
        )
    loaded = loading.load(
        facts["path"],
        dtype=snakemake.params.dtype,
        device_map=snakemake.params.place["device_map"],
        memory=job.engine_memory(snakemake),
        trust_remote_code=facts["trust_remote_code"],
        layout=facts["layout"],
    )
    if verified := snakemake.input.get("verified"):
        loaded.way = storage.provenance(verified)["way"]
    return loaded


def load_proved(snakemake, prompts):
    """The same model, on some of the job's own prompts compared with the unmodified one."""
    loaded = load_model(snakemake)
    tolerance.prove_on(loaded, prompts, snakemake.params.place["yaml"])
    return loaded
