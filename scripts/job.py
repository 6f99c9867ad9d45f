"""What every script of a rule does around its library call."""

import json
import logging
import os
import sys
from pathlib import Path

import preloaded

from headcount import artifacts


def begin(snakemake) -> None:
    """Go on in a process with everything imported, if there is one; then set up the job's log.

    What the job prints and logs goes to its log file; an error, and what the library warns of, is
    told on the terminal too. The job reads nothing from the terminal.
    """
    preloaded.hand_over(snakemake)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what asks a question gets no answer
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w", encoding="utf-8")
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    warnings = logging.StreamHandler(terminal)
    warnings.setLevel(logging.WARNING)
    logging.getLogger("headcount").addHandler(warnings)

    def report(kind, error, trace):
        sys.__excepthook__(kind, error, trace)
        print(f"{kind.__name__}: {error}\n(traceback in {log})", file=terminal, flush=True)

    sys.excepthook = report


def model_facts(path: str) -> dict:
    """What `resolve_model` found out about a model."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def prompts_made_by(path: str) -> dict:
    """What decided the prompts in an artifact `tasks`: documents, seeds, the task's files."""
    made = artifacts.provenance(path)
    return {**made["config"], "seed": made["seed"], "task_version": made["task_version"]}


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
        "packages": artifacts.package_versions(),
        **facts,
    }
