"""Rank components by the mean of their importance over the given tasks (one: its own ranking)."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.scores import rankings

importance = list(snakemake.input.importance)
tables = [storage.frame(path, ["layer", "head", "score"]) for path in importance]
made = storage.provenance(importance[0])
storage.write(
    snakemake.output[0],
    rankings.rank(rankings.aggregate(tables)),
    schemas.SCHEMAS["rankings"],
    job.provenance(
        snakemake,
        ranking=snakemake.params.ranking,
        model=made["model"],
        scored_by=made["estimator"],
        documents=rankings.most_documents(importance),
    ),
)
