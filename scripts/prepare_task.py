"""Render a task's prompts with lm-eval."""

import job

job.begin(snakemake)

from headcount import artifacts, tasks

parameters = snakemake.params
limits = tasks.Limits(**parameters.limits)
rows = tasks.prepare(
    parameters.place["yaml"],
    shots=int(snakemake.wildcards.shots),
    limits=limits,
    seed=parameters.seed,
    datasets=parameters.place["datasets"],
    calibrate=parameters.calibrate,
    metric=parameters.metric,
)
artifacts.write(
    snakemake.output[0],
    rows,
    artifacts.SCHEMAS["tasks"],
    job.provenance(
        snakemake,
        seed=parameters.seed,
        task_version=tasks.version(parameters.place["yaml"]),
        remarks=tasks.remarks(rows, limits),
    ),
)
