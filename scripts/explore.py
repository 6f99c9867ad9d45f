"""Make the page of a model's study from the artifacts and the tables of its figures."""

from library import job

job.begin(snakemake)

from headcount.artifacts import lineage, storage
from headcount.report import explorer

files = snakemake.input
tables = {name: files.get(name) for name in snakemake.params.tables}
lists = ("importance", "estimators", "controls", "induction", "pruning", "prompts")
gathered = explorer.gather(
    explorer.Files(**{name: list(files.get(name)) for name in lists}, tables=tables),
    snakemake.params.names,
)
page = snakemake.output.page
with storage.atomic(page) as temporary:
    temporary.write_text(explorer.page(gathered), encoding="utf-8")
storage.write_json(snakemake.output.made, job.provenance(snakemake, files=lineage.seals([page])))
