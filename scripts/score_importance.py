"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.scores import importance
from headcount_workflow import job_evaluation

estimator, component = snakemake.params.estimator, snakemake.wildcards.component
with job_evaluation.inputs(snakemake, snakemake.params.documents) as given:
    scores = importance.estimate(
        estimator, given.model, given.evaluation, component, given.ablation, given.store
    )
storage.write(
    snakemake.output[0],
    scores.rows(given.model, component),
    schemas.SCHEMAS["importance"],
    job.provenance(snakemake, model=given.facts, estimator=estimator),
)
