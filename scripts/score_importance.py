"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

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
scores = importance.estimate(parameters.estimator, model, evaluation, component)
artifacts.write(
    snakemake.output[0],
    scores.rows(model, component),
    artifacts.SCHEMAS["importance"],
    job.provenance(snakemake, model=facts, estimator=parameters.estimator),
)
