"""How far a run of Snakemake is: its stages, the jobs that run now, and those that failed."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from headcount_workflow.job_log import JobLog

Entry = Mapping  # what Snakemake's log says of a job, by the names of its logger plugins


@dataclass
class Stage:
    """The jobs whose rules are in one file of rules."""

    name: str
    total: int
    done: int = 0
    begun: float | None = None  # seconds, as all times here
    ended: float | None = None

    def seconds(self) -> float:
        """That it took, or has taken so far."""
        return 0.0 if self.begun is None else (self.ended or time.monotonic()) - self.begun

    def rate(self) -> float | None:
        """Jobs a minute, from the stage's first job to now."""
        return 60 * self.done / self.seconds() if self.done and self.seconds() else None

    def left(self) -> float | None:
        """Seconds, if the rate stays what it is."""
        rate = self.rate()
        return 60 * (self.total - self.done) / rate if rate else None

    def line(self) -> str:
        """How far it is, in words."""
        if self.ended:
            return f"{self.name}: {self.total} of {self.total}, {duration(self.seconds())}"
        left = self.left()
        words = f"{self.name}: {self.done} of {self.total}"
        return words if left is None else f"{words}, {duration(left)} left"

    def begin(self) -> None:
        self.begun = self.begun or time.monotonic()

    def finish_one(self) -> None:
        self.done += 1
        if self.done == self.total:
            self.ended = time.monotonic()


@dataclass
class RunningJob:
    """A job that was started on this machine, or given to a cluster."""

    name: str
    stage: str
    log: JobLog
    begun: float

    def seconds(self) -> float:
        return time.monotonic() - self.begun


@dataclass
class Failure:
    """A job that failed, and is not tried again."""

    name: str
    reason: str | None
    log: Path
    numbers: list[int]  # of the jobs that failed with it: its own, or its group's

    def sentence(self) -> str:
        first, *more = (self.reason or "it ended without an error message").splitlines()
        return f"{first} [...]" if more else first


def duration(seconds: float) -> str:
    return tqdm.format_interval(seconds)


class Run:
    """What Snakemake's log events come to; jobs are known by their number."""

    def __init__(self, stage_of: Mapping[str, str], counts: Mapping[str, int]):
        self.stage_of = stage_of  # rule -> stage, in the order of the stages
        totals: Counter[str] = Counter()
        for rule, stage in stage_of.items():
            totals[stage] += counts.get(rule, 0)
        self.stages = {name: Stage(name, total) for name, total in totals.items() if total}
        self.all = Stage("all", sum(totals.values()))
        self.jobs: dict[int, RunningJob] = {}
        self.failures: dict[int, Failure] = {}
        self.warnings: dict[str, str] = {}  # text -> the job that said it first
        self.interrupted = False

    def begin(self, entry: Entry) -> None:
        """A job is started, perhaps once more."""
        if entry["rule_name"] not in self.stage_of:
            return
        stage = self.stage_of[entry["rule_name"]]
        self.failures.pop(entry["jobid"], None)
        name = entry["rule_msg"] or entry["rule_name"]
        log = JobLog(Path(entry["log"][0]))
        self.jobs[entry["jobid"]] = RunningJob(name, stage, log, time.monotonic())
        self.stages[stage].begin()
        self.all.begin()

    def finish(self, number: int) -> Stage | None:
        """A job is done; the stage that it was the last one of."""
        if not (job := self.jobs.get(number)):
            return None
        self._follow(job)
        del self.jobs[number]
        self.all.finish_one()
        stage = self.stages[job.stage]
        stage.finish_one()
        return stage if stage.ended else None

    def fail(self, numbers: list[int], reason: str | None) -> list[Failure]:
        """A job, or one of a group, has failed; nothing of what an interruption has ended.

        A group's jobs take turns: where none says that it failed, the last to write was running.
        """
        jobs = {number: self.jobs.pop(number) for number in numbers if number in self.jobs}
        for job in jobs.values():
            self._follow(job)
        said = {number for number, job in jobs.items() if job.log.failure}
        if self.interrupted and not said:
            return []
        for number in said or sorted(jobs, key=lambda number: jobs[number].log.changed)[-1:]:
            job = jobs[number]
            failure = Failure(job.name, job.log.failure or reason, job.log.path, numbers)
            self.failures[number] = failure
        return [self.failures[number] for number in numbers if number in self.failures]

    def interrupt(self) -> None:
        """The run was broken off, and with it what runs: who says nothing has not failed."""
        self.interrupted = True
        said = {number: failure for number, failure in self.failures.items() if failure.reason}
        self.failures = said

    def follow(self) -> None:
        """Read what the jobs have written since the last time."""
        for job in self.jobs.values():
            self._follow(job)

    def line(self) -> str:
        """How far it is, in words, and what runs."""
        said = (f" ({job.log.progress})" if job.log.progress else "" for job in self.running())
        names = [job.name + more for job, more in zip(self.running(), said, strict=True)]
        return "; ".join([self.all.line(), *names])

    def running(self) -> list[RunningJob]:
        """The jobs whose logs have begun, the oldest first; others wait for a cluster."""
        return sorted(
            (job for job in self.jobs.values() if job.log.begun), key=lambda job: job.begun
        )

    def waiting(self) -> dict[int, str]:
        """The names of the jobs whose logs have not begun, by number."""
        return {number: job.name for number, job in self.jobs.items() if not job.log.begun}

    def _follow(self, job: RunningJob) -> None:
        for warning in job.log.follow():
            # That of many jobs is said once.
            self.warnings.setdefault(warning, job.name)
