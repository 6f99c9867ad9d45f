"""Score how much of an induction head every head is: prefix matching, or copying."""

from library import job

job.begin(snakemake)


from headcount.artifacts import schemas, storage
from headcount.scores import induction
from headcount_workflow import job_model

facts = job_model.facts(snakemake)
model = job_model.load(snakemake)
function = getattr(induction, snakemake.wildcards.kind)
storage.write(
    snakemake.output[0],
    function(model, seed=snakemake.params.seed, **snakemake.params.induction),
    schemas.SCHEMAS["induction"],
    job.provenance(snakemake, model=facts),
)
