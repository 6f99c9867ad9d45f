"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

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
scores = importance.estimate(parameters.estimator, model, evaluation, component, ablation)
artifacts.write(
    snakemake.output[0],
    scores.rows(model, component),
    artifacts.SCHEMAS["importance"],
    job.provenance(
        snakemake,
        model=facts,
        estimator=parameters.estimator,
        prompts=job.prompts_made_by(snakemake.input.prompts),
    ),
)
