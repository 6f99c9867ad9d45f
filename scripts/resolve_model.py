"""Resolve a model's source to a directory that loads fast and offline."""

from pathlib import Path

import job

job.begin(snakemake)

from headcount import artifacts, checkpoints, model

parameters, output = snakemake.params, Path(snakemake.output[0])
facts = model.resolve(
    **parameters.place,
    converted=output.parent / checkpoints.CONVERTED,
    trust_remote_code=parameters.trust_remote_code,
    layout=parameters.layout,
)
facts = {"name": snakemake.wildcards.model, **facts}
read = {key: facts[key] for key in facts if key not in ("source", "revision", "path", "converted")}
del facts["path"]
artifacts.write_json(output, facts | job.provenance(snakemake, content=artifacts.hash_json(read)))
