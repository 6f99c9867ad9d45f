"""Resolve a model's source to a directory that loads fast and offline."""

import json
from pathlib import Path

import job

job.begin(snakemake)

from headcount import artifacts, model

facts = model.resolve(
    snakemake.params.source,
    revision=snakemake.params.revision,
    gguf_file=snakemake.params.gguf_file,
    converted=Path(snakemake.output[0]).parent / "checkpoint",
    trust_remote_code=snakemake.params.trust_remote_code,
    layout=snakemake.params.layout,
)
with artifacts.atomic(snakemake.output[0]) as path:
    text = json.dumps({"name": snakemake.wildcards.model, **facts}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
