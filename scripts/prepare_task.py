"""Render the prompts of a task's calibration or evaluation documents with lm-eval."""

import job

job.begin(snakemake)

import reading

from headcount import artifacts, tasks

parameters = snakemake.params
limits = tasks.Limits(**parameters.limits)
yaml = reading.task(snakemake)
with reading.documents(snakemake) as unhashed:
    rows = tasks.prepare(
        yaml,
        shots=int(snakemake.wildcards.shots),
        limits=limits,
        seed=parameters.seed,
        datasets=parameters.place["datasets"],
        metric=parameters.metric,
        splits=[snakemake.wildcards.split],
    )
artifacts.write(
    snakemake.output[0],
    rows,
    artifacts.SCHEMAS["tasks"],
    job.provenance(
        snakemake,
        seed=parameters.seed,
        task_version=tasks.version(yaml),
        remarks=[*tasks.remarks(rows, limits), *unhashed],
    ),
)
