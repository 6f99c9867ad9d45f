"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

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
scores = importance.estimate(parameters.estimator, model, evaluation, component, ablation)
artifacts.write(
    snakemake.output[0],
    scores.rows(model, component),
    artifacts.SCHEMAS["importance"],
    job.provenance(
        snakemake,
        model=facts,
        estimator=parameters.estimator,
    ),
)
