"""Score every head, or every FFN, by every estimator on the same documents."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.scores import importance
from headcount_workflow import job_evaluation

component, rows = snakemake.wildcards.component, []
with job_evaluation.inputs(snakemake, snakemake.params.documents) as given:
    for estimator in importance.ESTIMATORS:
        scores = importance.estimate(
            estimator, given.model, given.evaluation, component, given.ablation, given.store
        )
        rows += [{"estimator": estimator, **row} for row in scores.rows(given.model, component)]
storage.write(
    snakemake.output[0],
    rows,
    schemas.SCHEMAS["estimators"],
    job.provenance(snakemake, model=given.facts),
)
