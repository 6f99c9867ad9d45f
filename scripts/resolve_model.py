"""Resolve a model's source to a directory that loads fast and offline."""

from pathlib import Path

from library import job

job.begin(snakemake)

from headcount.artifacts import storage
from headcount.models import loading
from headcount.models.fingerprint import CONVERTED

parameters, output = snakemake.params, Path(snakemake.output[0])
# Of each source, so that a study that comes back to an earlier one finds what was made of it.
checkpoint = f"{CONVERTED}{storage.hash_json(parameters.content)[:12]}"
facts = loading.resolve(
    **parameters.place,
    converted=output.parent / checkpoint,
    trust_remote_code=parameters.trust_remote_code,
    layout=parameters.layout,
)
facts = {"name": snakemake.wildcards.model, **facts}
read = {key: facts[key] for key in facts if key not in ("source", "revision", "path", "converted")}
facts["path"] = checkpoint if facts["converted"] else None  # where others lie the study says
storage.write_json(output, facts | job.provenance(snakemake, content=storage.hash_json(read)))
