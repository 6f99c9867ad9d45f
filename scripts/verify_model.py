"""Show that headcount computes what the model computes, before anything is spent on it."""

import job

job.begin(snakemake)

import loading

from headcount.artifacts import schemas, storage
from headcount.verify import verification

facts = loading.model_facts(snakemake)
model = loading.load_model(snakemake)
table = verification.prove(model, snakemake.params.seed)
storage.write(
    snakemake.output[0],
    table.to_arrow(),
    schemas.SCHEMAS["verified"],
    # What others go by is the way; the differences are for those who look.
    job.provenance(snakemake, model=facts, way=model.way, content=model.way),
)
