"""Evaluate a task with the model pruned level by level, by each of several rankings."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.scores import correlation, pruning, rankings
from headcount_workflow import job_evaluation

parameters, wildcards = snakemake.params, snakemake.wildcards
tables = rankings.by_name(snakemake.input.rankings)
# The name of each output -> the ranking that it prunes by, the same unless it transfers.
by = {name: name for name in parameters.rankings}
if parameters.transfer:
    by = correlation.transfers(snakemake.input.importance, wildcards.task)
levels = pruning.grid(wildcards.component, parameters.levels)
with job_evaluation.inputs(snakemake, "evaluation") as given:
    ordered = {ranking: tables[ranking] for ranking in by.values()}
    rows = pruning.prune(
        given.model, given.evaluation, ordered, levels, given.ablation, given.store
    )
for (name, ranking), path in zip(by.items(), snakemake.output, strict=True):
    facts = {"ranking": name, "order": pruning.order(name, wildcards.task)}
    facts |= {"heldout": parameters.heldout, **given.evaluation.described()}
    model = {**given.facts, "window": given.model.window}
    made = job.provenance(snakemake, model=model, **facts)
    storage.write(path, rows[ranking], schemas.SCHEMAS["pruning"], made)
