"""The model of a job, for the scripts that load one."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from headcount.artifacts import storage
from headcount.models import checkpoints, fingerprint, loading
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel
from headcount.verification import tolerance
from headcount_workflow import job


def facts(snakemake: Any) -> dict:
    """What `resolve_model` found out about the job's model, and the path where that lies now."""
    found = storage.read_json(snakemake.input.model)
    found["source"] = snakemake.params.place["source"]
    return {**found, "path": str(checkpoints.place(found, Path(snakemake.input.model).parent))}


def load(snakemake: Any) -> LanguageModel:
    """The model that `resolve_model` found, as the job's parameters and resources say.

    Its prompts go through the layers the way that `verify_model` proved.

    Raises `ModelError` when no weights, or others, lie there by now, and what `loading.load`
    raises.
    """
    found = facts(snakemake)
    if not Path(found["path"]).is_dir():
        raise ModelError(
            f"the model in {found['path']} is gone: put it back and run it again, or delete "
            f"{snakemake.input.model} if it has moved"
        )
    if fingerprint.fingerprint(found["path"]) != found["fingerprint"]:
        raise ModelError(
            f"the model in {found['path']} is not what it was when the study began: run it again"
        )
    loaded = loading.load(
        found["path"],
        dtype=snakemake.params.dtype,
        device_map=snakemake.params.place["device_map"],
        memory=job.engine_memory(snakemake),
        trust_remote_code=found["trust_remote_code"],
        layout=found["layout"],
    )
    if verified := snakemake.input.get("verified"):
        loaded.backend = storage.provenance(verified)["way"]
    return loaded


def load_proved(snakemake: Any, prompts: pa.Table) -> LanguageModel:
    """The same model, on some of the job's own prompts compared with the unmodified one."""
    loaded = load(snakemake)
    tolerance.prove_on(loaded, prompts, snakemake.params.place["yaml"])
    return loaded
