"""Correlate importance scores between tasks, numbers of shots, or halves of the documents."""

import job

job.begin(snakemake)

from headcount import artifacts, correlation

across = snakemake.wildcards.across
function = getattr(correlation, across)
artifacts.write(
    snakemake.output[0],
    function(list(snakemake.input), snakemake.params.resamples, snakemake.params.seed),
    artifacts.SCHEMAS["reliability" if across == "reliability" else "correlation"],
    job.provenance(
        snakemake,
        model=artifacts.provenance(snakemake.input[0])["model"],
        documents=artifacts.most_documents(snakemake.input),
    ),
)
