"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

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
with evaluating.store(snakemake, prompts) as store:
    ablation = evaluating.stand_ins(snakemake, prompts, store)
    scores = importance.estimate(
        parameters.estimator, model, evaluation, component, ablation, store
    )
storage.write(
    snakemake.output[0],
    scores.rows(model, component),
    schemas.SCHEMAS["importance"],
    job.provenance(
        snakemake,
        model=facts,
        estimator=parameters.estimator,
    ),
)
