"""Score how much of an induction head every head is: prefix matching, or copying."""

import job

job.begin(snakemake)

import loading

from headcount.artifacts import schemas, storage
from headcount.scores import induction

facts = loading.model_facts(snakemake)
model = loading.load_model(snakemake)
function = getattr(induction, snakemake.wildcards.kind)
storage.write(
    snakemake.output[0],
    function(model, seed=snakemake.params.seed, **snakemake.params.induction),
    schemas.SCHEMAS["induction"],
    job.provenance(snakemake, model=facts),
)
