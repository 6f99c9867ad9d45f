"""Score the importance of every head, or of every FFN, for one task at one number of shots."""

import job

job.begin(snakemake)

from headcount import artifacts, importance
from headcount.evaluation import Evaluation, split_rows

parameters = snakemake.params
component = snakemake.wildcards.component
facts = job.model_facts(snakemake.input.model)
prompts = artifacts.read(snakemake.input.prompts)
model = job.load_model(snakemake)

estimator = parameters.importance["estimator"]
if estimator == "oracle":
    evaluation = Evaluation(prompts, parameters.documents, parameters.yaml)
    scores = importance.oracle(model, evaluation, component)
else:
    gold = [row for row in split_rows(prompts, parameters.documents) if row["gold"]]
    encoded = model.encode([(row["context"], row["continuation"]) for row in gold])
    scores = importance.gradient(model, encoded, component, parameters.importance["reduction"])

artifacts.write(
    snakemake.output[0],
    scores.rows(model, component),
    artifacts.SCHEMAS["importance"],
    job.provenance(
        snakemake,
        model=facts,
        estimator=estimator,
        prompts=job.prompts_made_by(snakemake.input.prompts),
    ),
)
