"""Show that headcount computes what the model computes, before anything is spent on it."""

import job

job.begin(snakemake)

import loading

from headcount import artifacts, verify

facts = job.model_facts(snakemake.input.model)
model = loading.load_model(snakemake)
table = verify.prove(model, snakemake.params.seed)
artifacts.write(
    snakemake.output[0],
    table.to_arrow(),
    artifacts.SCHEMAS["verified"],
    job.provenance(snakemake, model=facts, way=model.way),
)
