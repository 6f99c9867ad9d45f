"""One row for each comparison with lm-eval."""

from library import job

job.begin(snakemake)

from headcount.artifacts import storage
from headcount.interop import parity

table = parity.table([*snakemake.input.tasks, snakemake.input.edge_cases]).to_arrow()
storage.write(
    snakemake.output[0],
    table,
    table.schema,
    job.provenance(snakemake, dtype=snakemake.params.dtype),
)
