"""Correlate importance scores between tasks, or between numbers of shots."""

import job

job.begin(snakemake)

from headcount import artifacts, correlation

function = getattr(correlation, snakemake.wildcards.across)
artifacts.write(
    snakemake.output[0],
    function(list(snakemake.input), snakemake.params.resamples, snakemake.params.seed),
    artifacts.SCHEMAS["correlation"],
    job.provenance(snakemake, model=artifacts.provenance(snakemake.input[0])["model"]),
)
