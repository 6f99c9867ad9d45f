"""Score every head, or every FFN, by every estimator on the same documents."""

import job

job.begin(snakemake)

import loading

from headcount import artifacts, importance, proof
from headcount.evaluation import Evaluation, fit_ablation

parameters = snakemake.params
component = snakemake.wildcards.component
facts = job.model_facts(snakemake.input.model)
prompts = artifacts.read(snakemake.input.prompts)
model = loading.load_model(snakemake)
proof.prove_on(model, prompts, parameters.yaml)
evaluation = Evaluation(prompts, parameters.documents, parameters.yaml, parameters.metric)
ablation = fit_ablation(model, prompts, parameters.ablation, parameters.seed, parameters.yaml)
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
    job.provenance(snakemake, model=facts, prompts=job.prompts_made_by(snakemake.input.prompts)),
)
