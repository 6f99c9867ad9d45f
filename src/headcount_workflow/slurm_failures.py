"""What a SLURM cluster does with jobs: refuses, keeps waiting or ends them; and what helps."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

# What SLURM leaves in the log of a job that held more memory than it had asked for.
OUT_OF_MEMORY = re.compile(r"exceeded memory limit|exceeded job memory|oom.kill", re.IGNORECASE)
# Ends that the job is not to blame for.
ENDED = {
    "BOOT_FAIL": "on a node that failed",
    "CANCELLED": "cancelled",
    "DEADLINE": "past its deadline",
    "NODE_FAIL": "on a node that failed",
    "PREEMPTED": "ended for another job",
}
TURN = ("None", "Priority", "Resources")  # reasons to wait that pass by themselves
# The words of sbatch in what the executor plugin says of a job that was not taken.
REFUSED = re.compile(r"The error message was '(.*?)'\.$", re.DOTALL | re.MULTILINE)


class Explanation:
    """Says of each failed job of a workflow what ended it, and of waiting ones what they wait for.

    It listens to what the executor of the cluster reports: of a group of jobs, Snakemake's own
    messages leave out the reason.
    """

    def __init__(self, dag: Any, growth: int, scheduler: Any):
        self.dag = dag
        self.growth = growth  # of time and memory, from one try to the next
        self.submitted: dict[str, list[int]] = {}  # job of the cluster -> numbers of its jobs
        self.reported: dict[int, str] = {}  # number of a job -> what the executor says of its end
        self.told: set[str] = set()  # reasons to wait
        for executor in {scheduler.get_executor(job) for job in dag.jobs if not job.is_local}:
            self._listen(executor)

    def _listen(self, executor: Any) -> None:
        submitted, failed = executor.report_job_submission, executor.report_job_error

        def report_job_submission(info: Any, *others: Any, **named: Any) -> None:
            self.submitted[info.external_jobid] = self._numbers(info.job)
            submitted(info, *others, **named)

        def report_job_error(info: Any, msg: str | None = None, **named: Any) -> None:
            self.submitted.pop(info.external_jobid, None)
            self.reported |= dict.fromkeys(self._numbers(info.job), msg or "")
            failed(info, msg=msg, **named)

        executor.report_job_submission = report_job_submission
        executor.report_job_error = report_job_error

    def _numbers(self, job: Any) -> list[int]:
        """Of a job, or of those of a group."""
        return [self.dag.jobid(one) for one in getattr(job, "jobs", [job])]

    def __call__(self, record: Any) -> str | None:
        """Of the event that a job or a group failed; None where SLURM is not to blame."""
        if record.event == LogEvent.JOB_ERROR:
            failed, of_cluster = record.jobid, record.aux.get("external_jobid")
        else:
            failed = record.job_error_info[0]["jobid"]
            of_cluster = getattr(record, "external_jobid", None)
        if of_cluster is None:
            return refused(self.reported.get(failed, ""))
        job = next(job for job in self.dag.jobs if self.dag.jobid(job) == failed)
        tries_left = job.restart_times >= job.attempt
        lack = lacked(described(of_cluster), self.growth if tries_left else None)
        return lack and f"job {of_cluster} of the cluster was {lack}"

    def waiting(self, names: dict[int, str]) -> list[str]:
        """What jobs wait for that is more than their turn, each reason once.

        `names`: of the jobs that have not begun, by number.
        """
        ours = {
            job: [names[number] for number in numbers if number in names]
            for job, numbers in self.submitted.items()
        }
        held = defaultdict(list)
        for job, reason in reasons_to_wait([job for job, waiting in ours.items() if waiting]):
            if reason not in self.told and job in ours:
                held[reason].append(job)
        self.told |= {*held}
        lines = []
        for reason, (first, *more) in held.items():
            others = f", as for {len(more)} more" if more else ""
            why = f"SLURM gives {reason} as the reason{others}"
            ask = f"`scontrol show job {first}` says more"
            lines.append(f"{ours[first][0]} waits as job {first} of the cluster: {why}; {ask}")
        return lines


def asked(*command: str) -> str:
    """What a command of SLURM says; nothing where it cannot be asked."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def reasons_to_wait(jobs: list[str]) -> list[tuple[str, str]]:
    """The jobs of the cluster that wait for more than their turn, each with SLURM's reason."""
    if not jobs:
        return []
    states = "--states=PENDING,SUSPENDED"
    lines = asked("squeue", "--noheader", f"--jobs={','.join(jobs)}", states, "--format=%i|%r")
    found = [line.strip().split("|", 1) for line in lines.splitlines() if "|" in line]
    return [(job, reason) for job, reason in found if reason not in TURN]


def refused(message: str) -> str | None:
    """What kept a job out of the queue, of what the executor says of it; in sbatch's own words."""
    if not message:
        return None
    found = REFUSED.search(message)
    words = [
        line.removeprefix("sbatch: ") for line in (found[1] if found else message).splitlines()
    ]
    said = "; ".join(line.removeprefix("error: ") for line in words)
    return (
        f"the cluster did not take the job: {said}. What it asks for: `runtime`, `mem_mb`, `gpus` "
        "of its model in the configuration, and `default-resources` of the profile"
    )


def described(job: str) -> dict[str, str]:
    """A job as SLURM's controller describes it, which remembers it for some minutes."""
    fields = asked("scontrol", "--oneliner", "show", "job", job).split()
    return dict(field.split("=", 1) for field in fields if "=" in field)


def lacked(job: dict[str, str], growth: int | None) -> str | None:
    """What a failed job lacked; growth: of that, to its next try, None where there is none."""
    log = Path(job.get("StdOut", ""))
    text = log.read_text(errors="replace") if log.is_file() else ""
    if job.get("JobState") == "TIMEOUT":
        amount, unit, key = minutes(job.get("TimeLimit", "")), "min", "runtime"
        lack = "over its time limit"
    elif job.get("JobState") == "OUT_OF_MEMORY" or OUT_OF_MEMORY.search(text):
        amount, unit, key = megabytes(job.get("MinMemoryNode", "")), "MB", "mem_mb"
        lack = "over its memory"
    elif end := ENDED.get(job.get("JobState", "")):
        return f"{end}: tried again" if growth else f"{end}, on its last try"
    else:
        return None
    if amount is not None:
        lack = f"{lack} of {amount} {unit}"
    if growth is None:
        return f"{lack}, on its last try: raise `{key}` of its model in the configuration"
    more = f"{growth * amount} {unit}" if amount is not None else f"{growth} times as much"
    return f"{lack}: tried again with {more}"


def minutes(limit: str) -> int | None:
    """Of a time limit, [days-]hours:minutes:seconds; None of others, as UNLIMITED."""
    if not (found := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", limit)):
        return None
    days, hours, minutes = (int(number or 0) for number in found.groups())
    return days * 24 * 60 + hours * 60 + minutes


def megabytes(memory: str) -> int | None:
    """Of an amount of memory, in megabytes or with a unit, M, G or T; None of others."""
    if not (found := re.fullmatch(r"([\d.]+)([MGT]?)", memory)):
        return None
    return round(float(found[1]) * 1024 ** "MGT".index(found[2] or "M"))
