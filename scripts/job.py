"""What every script of a rule does around its library call."""

import logging
import os
import sys
from pathlib import Path

import preloaded

# Of a model's facts, those that stand in what was made with it.
MODEL = ("name", "source", "revision", "fingerprint", "architecture", "layers", "heads", "ffns")
MODEL += ("converted", "trust_remote_code", "layout", "window")


def begin(snakemake) -> None:
    """Go on in a process with everything imported, if there is one; then set up the job's log.

    What the job prints and logs goes to its log file; an error, what the library warns of, and how
    far a long job is are told on the terminal too (the last only where it is one). The job reads
    nothing from the terminal.
    """
    preloaded.hand_over(snakemake)  # before anything is imported that takes long
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
    if terminal.isatty():
        progress = logging.StreamHandler(terminal)
        name = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
        progress.setFormatter(logging.Formatter(f"{name.replace('%', '%%')}: %(message)s"))
        logging.getLogger("headcount.progress").addHandler(progress)

    def report(kind, error, trace):
        sys.__excepthook__(kind, error, trace)
        print(f"{kind.__name__}: {error}\n(traceback in {log})", file=terminal, flush=True)

    sys.excepthook = report
    global task
    task = described(snakemake)
    if task.problem() is None:
        sys.exit(0)  # an input was made anew, and is what it was
    if task.earlier():
        sys.exit(task.take_back())
    task.keep()


def described(snakemake):
    """The job as `headcount.lineage` knows it; where things lie (`place`) decides no number."""
    from headcount import lineage

    parameters = {key: value for key, value in snakemake.params.items() if key != "place"}
    return lineage.Job(
        rule=snakemake.rule,
        wildcards=dict(snakemake.wildcards.items()),
        parameters=parameters,
        inputs=list(snakemake.input),
        outputs=list(snakemake.output),
        directory=snakemake.config["artifacts"],
    )


def prompts(snakemake):
    """The rows of the job's prompts, of the splits that it reads."""
    import pyarrow.compute as pc

    from headcount import artifacts

    rows = artifacts.read(snakemake.input.prompts)
    return rows.filter(pc.field("split").isin(snakemake.params.splits))


def provenance(snakemake, **facts) -> dict:
    """What made an artifact: the job's key, what it is the hash of, wildcards and `facts`."""
    wildcards = dict(snakemake.wildcards.items())
    if "shots" in wildcards:
        wildcards["shots"] = int(wildcards["shots"])
    if "model" in facts:  # where it lies on this machine made no difference
        facts["model"] = {k: v for k, v in facts["model"].items() if k in MODEL}
    return {**wildcards, "key": task.key, "made_of": task.made_of, **facts}
