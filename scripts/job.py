"""What every script of a rule does around its library call."""

import json
import logging
from pathlib import Path

from headcount.artifacts import package_versions


def begin(snakemake) -> None:
    """Send log messages to the rule's log file; errors go there and to the terminal."""
    Path(snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=snakemake.log[0],
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def model_facts(path: str) -> dict:
    """What `resolve_model` found out about a model."""
    return json.loads(Path(path).read_text())


def provenance(snakemake, **facts) -> dict:
    """What made an artifact: wildcards, parameters (config slice, code hash) and `facts`."""
    wildcards = dict(snakemake.wildcards.items())
    if "shots" in wildcards:
        wildcards["shots"] = int(wildcards["shots"])
    parameters = {key: value for key, value in snakemake.params.items() if key != "code"}
    if "model" in facts:  # where it lies on this machine made no difference
        facts["model"] = {key: value for key, value in facts["model"].items() if key != "path"}
    return {
        **wildcards,
        "config": parameters,
        "code": snakemake.params.code,
        "packages": package_versions(),
        **facts,
    }
