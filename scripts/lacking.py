"""What ended a job of a SLURM cluster that failed, and what its next try gets."""

import logging
import re
import subprocess
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

# What SLURM leaves in the log of a job that held more memory than it had asked for.
OUT_OF_MEMORY = re.compile(r"exceeded memory limit|exceeded job memory|oom.kill", re.IGNORECASE)
# Ends that the job is not to blame for. Of a group Snakemake does not say what the plugin tells it.
ENDED = {"CANCELLED": "cancelled", "NODE_FAIL": "on a node that failed"}


class Explanation:
    """Says of each failed job of a workflow what ended it, after Snakemake's own message."""

    def __init__(self, dag, growth: int):
        self.dag = dag
        self.growth = growth  # of time and memory, from one try to the next

    def __call__(self, record: logging.LogRecord) -> str | None:
        """Of the event that a job or a group failed; None where SLURM is not to blame."""
        if record.event == LogEvent.JOB_ERROR:
            failed, of_cluster = record.jobid, record.aux.get("external_jobid")
        else:
            failed, of_cluster = record.job_error_info[0]["jobid"], record.external_jobid
        if of_cluster is None:
            return None
        job = next(job for job in self.dag.jobs if self.dag.jobid(job) == failed)
        tries_left = job.restart_times >= job.attempt
        lack = lacked(described(of_cluster), self.growth if tries_left else None)
        return lack and f"job {of_cluster} of the cluster was {lack}"


def described(job: str) -> dict[str, str]:
    """A job as SLURM's controller describes it, which remembers it for some minutes."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    fields = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return dict(field.split("=", 1) for field in fields if "=" in field)


def lacked(job: dict[str, str], growth: int | None) -> str | None:
    """What a failed job lacked; growth: of that, to its next try, None where there is none."""
    log = Path(job.get("StdOut", ""))
    text = log.read_text(errors="replace") if log.is_file() else ""
    if job.get("JobState") == "TIMEOUT":
        amount, unit, key = minutes(job["TimeLimit"]), "min", "runtime"
        lack = f"over its time limit of {amount} min"
    elif job.get("JobState") == "OUT_OF_MEMORY" or OUT_OF_MEMORY.search(text):
        amount, unit, key = megabytes(job["MinMemoryNode"]), "MB", "mem_mb"
        lack = f"over its memory of {amount} MB"
    elif end := ENDED.get(job.get("JobState")):
        return f"{end}: tried again" if growth else f"{end}, on its last try"
    else:
        return None
    if growth is None:
        return f"{lack}, on its last try: raise `{key}` of its model in the configuration"
    return f"{lack}: tried again with {growth * amount} {unit}"


def minutes(limit: str) -> int:
    """Of a time limit, [days-]hours:minutes:seconds."""
    days, _, rest = limit.rpartition("-")
    hours, minutes, _ = rest.split(":")
    return int(days or 0) * 24 * 60 + int(hours) * 60 + int(minutes)


def megabytes(memory: str) -> int:
    """Of an amount of memory with a unit, M or G."""
    return round(float(memory[:-1]) * {"M": 1, "G": 1024, "T": 1024**2}[memory[-1]])
