"""Evaluate a task with the model pruned level by level, by each of several rankings."""

import itertools

import job

job.begin(snakemake)

import evaluating
import loading
import reading

from headcount.artifacts import schemas, storage
from headcount.scores import correlation, pruning
from headcount.scores.documents import Evaluation

parameters, wildcards = snakemake.params, snakemake.wildcards
facts = loading.model_facts(snakemake)
prompts = job.prompts(snakemake)
model = evaluating.outline(snakemake)
evaluation = Evaluation(prompts, "evaluation", reading.task(snakemake), parameters.metric)

# (ranking, component) -> table
tables = {}
for path in snakemake.input.rankings:
    made = storage.provenance(path)
    tables.setdefault(made["ranking"], {})[made["component"]] = storage.frame(path)

# The name of each output -> the ranking that it prunes by, the same unless it transfers.
by = {name: name for name in parameters.rankings}
if parameters.transfer:
    importance = {
        storage.provenance(path)["task"]: storage.frame(path) for path in snakemake.input.importance
    }
    by["closest"], by["farthest"] = correlation.closest_and_farthest(importance, wildcards.task)

heads, ffns = [0.0], [0.0]
if wildcards.component == "combined":
    heads, ffns = parameters.levels["heads"], parameters.levels["ffns"]
elif wildcards.component == "heads":
    heads = parameters.levels
else:
    ffns = parameters.levels

with evaluating.store(snakemake, prompts) as store:
    rows = pruning.prune(
        model,
        evaluation,
        {ranking: tables[ranking] for ranking in by.values()},
        list(itertools.product(heads, ffns)),
        evaluating.stand_ins(snakemake, prompts, store),
        store,
    )
for (name, ranking), path in zip(by.items(), snakemake.output, strict=True):
    storage.write(
        path,
        rows[ranking],
        schemas.SCHEMAS["pruning"],
        job.provenance(
            snakemake,
            model={**facts, "window": model.window},
            ranking=name,
            order=pruning.order(name, wildcards.task),
            heldout=parameters.heldout,
            metric=evaluation.metrics.name,
            chance=evaluation.chance,
            truncated=evaluation.truncated,
        ),
    )
