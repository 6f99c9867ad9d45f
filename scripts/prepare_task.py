"""Render the prompts of a task's calibration or evaluation documents with lm-eval."""

import job

job.begin(snakemake)

import reading

from headcount.artifacts import schemas, storage
from headcount.tasks import loading, prompts

parameters = snakemake.params
limits = prompts.Limits(**parameters.limits)
yaml = reading.task(snakemake)
with reading.documents(snakemake) as unhashed:
    rows = prompts.prepare(
        yaml,
        shots=int(snakemake.wildcards.shots),
        limits=limits,
        seed=parameters.seed,
        datasets=parameters.place["datasets"],
        metric=parameters.metric,
        splits=[snakemake.wildcards.split],
    )
storage.write(
    snakemake.output[0],
    rows,
    schemas.SCHEMAS["tasks"],
    job.provenance(
        snakemake,
        seed=parameters.seed,
        task_version=loading.version(yaml),
        remarks=[*prompts.remarks(rows, limits), *unhashed],
    ),
)
