"""Evaluate a task with the model pruned level by level, by each of several rankings."""

import itertools

import job

job.begin(snakemake)

import loading
import polars as pl

from headcount import artifacts, correlation, proof, pruning
from headcount.evaluation import Evaluation, fit_ablation

parameters, wildcards = snakemake.params, snakemake.wildcards
facts = job.model_facts(snakemake.input.model)
prompts = artifacts.read(snakemake.input.prompts)
model = loading.load_model(snakemake)
proof.prove_on(model, prompts, parameters.yaml)
evaluation = Evaluation(prompts, "evaluation", parameters.yaml, parameters.metric)

# (ranking, component) -> table
tables = {}
for path in snakemake.input.rankings:
    made = artifacts.provenance(path)
    tables.setdefault(made["ranking"], {})[made["component"]] = pl.read_parquet(path)

# The name of each output -> the ranking that it prunes by, the same unless it transfers.
by = {name: name for name in parameters.rankings}
if parameters.transfer:
    cross_task = pl.read_parquet(snakemake.input.cross_task)
    task, shots = wildcards.task, int(wildcards.shots)
    by["closest"], by["farthest"] = correlation.closest_and_farthest(cross_task, task, shots)

heads, ffns = [0.0], [0.0]
if wildcards.component == "combined":
    heads, ffns = parameters.levels["heads"], parameters.levels["ffns"]
elif wildcards.component == "heads":
    heads = parameters.levels
else:
    ffns = parameters.levels

rows = pruning.prune(
    model,
    evaluation,
    {ranking: tables[ranking] for ranking in by.values()},
    list(itertools.product(heads, ffns)),
    fit_ablation(model, prompts, parameters.ablation, parameters.seed, parameters.yaml),
)
for (name, ranking), path in zip(by.items(), snakemake.output, strict=True):
    artifacts.write(
        path,
        rows[ranking],
        artifacts.SCHEMAS["pruning"],
        job.provenance(
            snakemake,
            model={**facts, "window": model.window},
            prompts=job.prompts_made_by(snakemake.input.prompts),
            ranking=name,
            heldout=parameters.heldout,
            metric=evaluation.metrics.name,
            chance=evaluation.chance,
            truncated=evaluation.truncated,
        ),
    )
