"""Make a figure's table from the artifacts that it shows, and draw the figure from the table."""

import job

job.begin(snakemake)

import polars as pl

from headcount import artifacts, figures, tables

name = snakemake.params.figure
inputs = {
    key: files if isinstance(files, str) else list(files) for key, files in snakemake.input.items()
}
rows = getattr(tables, name)(**inputs, **snakemake.params.options)
table = rows.to_arrow()
artifacts.write(snakemake.output.table, table, table.schema, job.provenance(snakemake))
chart = getattr(figures, name)(pl.read_parquet(snakemake.output.table))
figures.save(chart, snakemake.output.png, snakemake.output.svg, snakemake.output.html)
