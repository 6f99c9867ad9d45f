"""Rank components by the mean of their importance over the given tasks (one: its own ranking)."""

import job

job.begin(snakemake)

from headcount import artifacts, rankings

tables = [artifacts.frame(path, ["layer", "head", "score"]) for path in snakemake.input]
made = artifacts.provenance(snakemake.input[0])
artifacts.write(
    snakemake.output[0],
    rankings.rank(rankings.aggregate(tables)),
    artifacts.SCHEMAS["rankings"],
    job.provenance(
        snakemake,
        ranking=snakemake.params.ranking,
        model=made["model"],
        scored_by=made["estimator"],
        documents=artifacts.most_documents(snakemake.input),
    ),
)
