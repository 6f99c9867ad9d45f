"""Rank components by the mean of their importance over the given tasks (one: its own ranking)."""

import job

job.begin(snakemake)

from headcount import artifacts, rankings

importance = list(snakemake.input.importance)
tables = [artifacts.frame(path, ["layer", "head", "score"]) for path in importance]
made = artifacts.provenance(importance[0])
artifacts.write(
    snakemake.output[0],
    rankings.rank(rankings.aggregate(tables)),
    artifacts.SCHEMAS["rankings"],
    job.provenance(
        snakemake,
        ranking=snakemake.params.ranking,
        model=made["model"],
        scored_by=made["estimator"],
        documents=artifacts.most_documents(importance),
    ),
)
