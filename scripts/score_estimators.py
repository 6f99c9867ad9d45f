"""Score every head, or every FFN, by every estimator on the same documents."""

import job

job.begin(snakemake)

import loading

from headcount import artifacts, importance, proof
from headcount.evaluation import Evaluation, fit_ablation

parameters = snakemake.params
component = snakemake.wildcards.component
yaml = parameters.place["yaml"]
facts = loading.model_facts(snakemake)
prompts = job.prompts(snakemake)
model = loading.load_model(snakemake)
proof.prove_on(model, prompts, yaml)
evaluation = Evaluation(prompts, parameters.documents, yaml, parameters.metric)
ablation = fit_ablation(model, prompts, **parameters.ablation, yaml=yaml)
rows = [
    {"estimator": estimator, **row}
    for estimator in importance.ESTIMATORS
    for row in importance.estimate(estimator, model, evaluation, component, ablation).rows(
        model, component
    )
]
artifacts.write(
    snakemake.output[0],
    rows,
    artifacts.SCHEMAS["estimators"],
    job.provenance(snakemake, model=facts),
)
