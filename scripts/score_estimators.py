"""Score every head, or every FFN, by every estimator on the same documents."""

import job

job.begin(snakemake)

import evaluating
import loading
import reading

from headcount.artifacts import schemas, storage
from headcount.scores import importance
from headcount.scores.documents import Evaluation

parameters = snakemake.params
component = snakemake.wildcards.component
facts = loading.model_facts(snakemake)
prompts = job.prompts(snakemake)
model = evaluating.outline(snakemake)
evaluation = Evaluation(prompts, parameters.documents, reading.task(snakemake), parameters.metric)
rows = []
with evaluating.store(snakemake, prompts) as store:
    ablation = evaluating.stand_ins(snakemake, prompts, store)
    for estimator in importance.ESTIMATORS:
        scores = importance.estimate(estimator, model, evaluation, component, ablation, store)
        rows += [{"estimator": estimator, **row} for row in scores.rows(model, component)]
storage.write(
    snakemake.output[0],
    rows,
    schemas.SCHEMAS["estimators"],
    job.provenance(snakemake, model=facts),
)
