"""Render the prompts of a task's calibration or evaluation documents with lm-eval."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.tasks import loading, prompts
from headcount_workflow import job_task

parameters, wildcards = snakemake.params, snakemake.wildcards
limits = prompts.Limits(**parameters.limits)
yaml = job_task.task(snakemake)
with job_task.documents(snakemake) as unhashed:
    rows = prompts.prepare(
        yaml,
        shots=int(wildcards.shots),
        limits=limits,
        seed=parameters.seed,
        datasets=parameters.place["datasets"],
        metric=parameters.metric,
        splits=[wildcards.split],
    )
facts = {"seed": parameters.seed, "task_version": loading.version(yaml)}
facts["remarks"] = [*prompts.remarks(rows, limits), *unhashed]
made = job.provenance(snakemake, **facts)
storage.write(snakemake.output[0], rows, schemas.SCHEMAS["tasks"], made)
