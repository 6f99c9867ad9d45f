"""Compare headcount, unpruned, with lm-eval and its own model."""

import job

job.begin(snakemake)

import loading
import reading

from headcount.artifacts import schemas, storage
from headcount.interop import parity

parameters = snakemake.params
facts = loading.model_facts(snakemake)
prompts = job.prompts(snakemake)
model = loading.load_model(snakemake)
reference = parity.recorder(
    facts["path"],
    parameters.dtype,
    str(model.device),
    facts["trust_remote_code"],
)

if "task" in dict(snakemake.wildcards.items()):
    shots = int(snakemake.wildcards.shots)
    yaml = reading.task(snakemake)
    with reading.documents(snakemake):
        rows, metrics = parity.compare(
            model, reference, prompts, yaml, shots, parameters.place["datasets"]
        )
else:
    rows, metrics = parity.edge_cases(model, reference, prompts), {}
storage.write(
    snakemake.output[0],
    rows,
    schemas.SCHEMAS["parity"],
    job.provenance(
        snakemake,
        model={**facts, "window": model.window},
        metrics=metrics,
    ),
)
