"""Score every head, or every FFN, by every estimator on the same documents."""

import job

job.begin(snakemake)

from headcount import artifacts, importance
from headcount import model as models
from headcount.evaluation import Evaluation

parameters = snakemake.params
component = snakemake.wildcards.component
facts = job.model_facts(snakemake.input.model)
prompts = artifacts.read(snakemake.input.prompts)
model = models.load(facts["path"], **parameters.computes)
evaluation = Evaluation(prompts, parameters.documents, parameters.yaml)
rows = [
    {"estimator": estimator, **row}
    for estimator in importance.ESTIMATORS
    for row in importance.estimate(estimator, model, evaluation, component).rows(model, component)
]
artifacts.write(
    snakemake.output[0],
    rows,
    artifacts.SCHEMAS["estimators"],
    job.provenance(snakemake, model=facts),
)
