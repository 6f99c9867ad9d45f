"""Compare headcount, unpruned, with lm-eval and its own model."""

from library import job

job.begin(snakemake)

from headcount.artifacts import schemas, storage
from headcount.interop import parity
from headcount_workflow import job_model, job_task

facts, prompts = job_model.facts(snakemake), job.prompts(snakemake)
model = job_model.load(snakemake)
reference = parity.recorder(
    facts["path"], snakemake.params.dtype, str(model.device), facts["trust_remote_code"]
)
if "task" in dict(snakemake.wildcards.items()):
    yaml, datasets = job_task.task(snakemake), snakemake.params.place["datasets"]
    with job_task.documents(snakemake):
        rows, metrics = parity.compare(
            model, reference, prompts, yaml, int(snakemake.wildcards.shots), datasets
        )
else:
    rows, metrics = parity.edge_cases(model, reference, prompts), {}
made = job.provenance(snakemake, model={**facts, "window": model.window}, metrics=metrics)
storage.write(snakemake.output[0], rows, schemas.SCHEMAS["parity"], made)
