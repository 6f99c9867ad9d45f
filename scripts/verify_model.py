"""Show that headcount computes what the model computes, before anything is spent on it."""

from library import job

job.begin(snakemake)


from headcount.artifacts import schemas, storage
from headcount.verification import verdict
from headcount_workflow import job_model

facts = job_model.facts(snakemake)
model = job_model.load(snakemake)
table = verdict.prove(model, snakemake.params.seed)
storage.write(
    snakemake.output[0],
    table.to_arrow(),
    schemas.SCHEMAS["verified"],
    # What others go by is the way; the differences are for those who look.
    job.provenance(snakemake, model=facts, way=model.backend, content=model.backend),
)
