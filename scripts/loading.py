"""Loading a model, for the scripts that do: of the others its code is no part."""

import job

from headcount import artifacts, model


def load_model(snakemake):
    """The model that `resolve_model` found, as the job's parameters and resources say.

    Its prompts go through the layers the way that `verify_model` proved.
    """
    facts = job.model_facts(snakemake.input.model)
    loaded = model.load(
        facts["path"],
        **snakemake.params.computes,
        memory=snakemake.resources.engine_mb,
        trust_remote_code=facts["trust_remote_code"],
        layout=facts["layout"],
    )
    if verified := snakemake.input.get("verified"):
        loaded.way = artifacts.provenance(verified)["way"]
    return loaded
