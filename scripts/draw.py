"""Make a figure's table from the artifacts that it shows, and draw the figure from the table."""

import job

job.begin(snakemake)

from headcount import artifacts, figures, lineage, tables

name, output = snakemake.params.figure, snakemake.output
inputs = {
    key: files if isinstance(files, str) else list(files) for key, files in snakemake.input.items()
}
rows = getattr(tables, name)(**inputs, **snakemake.params.options)
drawn = [output.png, output.svg, output.html]
figures.save(getattr(figures, name)(rows), *drawn)
table = rows.to_arrow()
made = job.provenance(snakemake, files=lineage.seals(drawn))
artifacts.write(output.table, table, table.schema, made)
