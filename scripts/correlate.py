"""Correlate importance scores between tasks, numbers of shots, or halves of the documents."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.scores import correlation, rankings

across, importance = snakemake.wildcards.across, list(snakemake.input.importance)
function = getattr(correlation, across)
storage.write(
    snakemake.output[0],
    function(importance, snakemake.params.resamples, snakemake.params.seed),
    schemas.SCHEMAS["reliability" if across == "reliability" else "correlation"],
    job.provenance(
        snakemake,
        model=storage.provenance(importance[0])["model"],
        documents=rankings.most_documents(importance),
    ),
)
