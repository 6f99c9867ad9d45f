"""Make a figure's table from the artifacts that it shows, and draw the figure from its table."""

import job

job.begin(snakemake)

import polars as pl

from headcount import artifacts, figures, tables

name = snakemake.params.figure
inputs = {key: files if isinstance(files, str) else list(files) for key, files in snakemake.input.items()}
table = getattr(tables, name)(**inputs, **snakemake.params.options)
made_by = job.provenance(snakemake)
