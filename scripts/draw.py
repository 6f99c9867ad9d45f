"""Make a table from the artifacts that it shows, and draw its figures."""

from pathlib import Path

from library import job

job.begin(snakemake)

from headcount.artifacts import lineage, storage
from headcount.report import across, figures, tables

name, output = snakemake.params.figure, snakemake.output
style = figures.Style(**snakemake.params.style)
inputs = {
    key: files if isinstance(files, str) else list(files) for key, files in snakemake.input.items()
}
tabulate = getattr(tables, name, None) or getattr(across, name)
rows = tabulate(**inputs, **snakemake.params.options)
drawn = []
for page in dict.fromkeys(Path(path).stem for path in output[1:]):
    files = [path for path in output[1:] if Path(path).stem == page]
    figures.save(getattr(figures, page)(rows, style), files)
    drawn += files
table = rows.to_arrow()
made = job.provenance(snakemake, files=lineage.seals(drawn))
storage.write(output.table, table, table.schema, made)
