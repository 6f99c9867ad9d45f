"""Orders that know nothing of importance: the top layer first, and random ones."""

from library import job

job.begin(snakemake)

import polars as pl

from headcount.artifacts import schemas, storage
from headcount.scores import rankings

facts = storage.read_json(snakemake.input.model)
components = pl.DataFrame(
    rankings.components(snakemake.wildcards.component, facts["heads"], facts["ffns"]),
    schema={"layer": pl.Int32, "head": pl.Int32},
    orient="row",
)
for name, path in zip(snakemake.params.rankings, snakemake.output, strict=True):
    if name == "depth":
        order = rankings.depth(components)
    else:
        index = int(name.removeprefix("random-"))
        order = rankings.random_order(components, snakemake.params.seed, index)
    storage.write(
        path,
        order,
        schemas.SCHEMAS["rankings"],
        job.provenance(snakemake, ranking=name, model=facts),
    )
