"""Correlate importance scores between tasks, numbers of shots, or halves of the documents."""

import job

job.begin(snakemake)

from headcount import artifacts, correlation

across, importance = snakemake.wildcards.across, list(snakemake.input.importance)
function = getattr(correlation, across)
artifacts.write(
    snakemake.output[0],
    function(importance, snakemake.params.resamples, snakemake.params.seed),
    artifacts.SCHEMAS["reliability" if across == "reliability" else "correlation"],
    job.provenance(
        snakemake,
        model=artifacts.provenance(importance[0])["model"],
        documents=artifacts.most_documents(importance),
    ),
)
