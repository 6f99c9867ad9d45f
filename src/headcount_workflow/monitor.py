"""Follows a run by Snakemake's log events, and says what came of it."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from tqdm import tqdm

from headcount_workflow.run_state import Failure, Run

if TYPE_CHECKING:  # rich is for terminals, and SLURM for clusters
    from headcount_workflow.screen import Screen
    from headcount_workflow.slurm_failures import Explanation

SECONDS = 1  # between two looks at the logs of jobs
PATIENCE = 120  # seconds between two questions to a cluster about what its jobs wait for
SILENCE = 600  # seconds after which a run without a terminal says how far it is
SHOWN = {"headcount": True}  # marks what is for the terminal, too
LAST = "headcount_last"  # marks what is logged once all jobs have ended
SUMMARY = "headcount_summary"  # marks what the summary follows
AGAIN = "the same command continues from there"


class Monitor:
    """Follows a run, and says what came of it.

    Where the terminal is not this project's own (`display`), nothing is followed, and what came of
    a run is the summary alone.
    """

    def __init__(self, workflow: Any, summary: Callable[[], None] | None):
        self.workflow, self.summary = workflow, summary
        self.is_following = False
        self.screen: Screen | None = None
        # Of a cluster: what ended a job, by the event; what others wait for.
        self.explain: Explanation | None = None
        self.run: Run | None = None
        self.of_run = threading.Lock()
        self.warned = 0  # how many of the run's warnings were said
        self.ended = threading.Event()
        self.caught_up = threading.Event()  # with what was logged before the end

    def follow(self, record: Any) -> None:
        """See a record of Snakemake's log, which the terminal has shown by now if it is to."""
        if hasattr(record, LAST):
            self.caught_up.set()
        if record.msg == NOTHING_TO_BE_DONE_MSG or hasattr(record, SUMMARY):
            self._sum_up()
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO and not self.run:
            self._begin(record.stats)
        elif not self.run:
            return
        elif str(record.msg).startswith("Terminating processes"):
            with self.of_run:
                self.run.interrupt()
        elif event == LogEvent.JOB_INFO:
            with self.of_run:
                self.run.begin(vars(record))
        elif event == LogEvent.JOB_FINISHED:
            with self.of_run:
                stage = self.run.finish(record.job_id)
            self._warn()
            if stage:
                self._say(stage.line())
        elif event == LogEvent.JOB_ERROR and not record.indent:  # not once more of a group's
            self._fail(record, [record.jobid])
        elif event == LogEvent.GROUP_ERROR:
            self._fail(record, [info["jobid"] for info in record.job_error_info])

    def _begin(self, counts: dict[str, int]) -> None:
        stage_of = {
            rule.name: Path(rule.snakefile).stem for rule in self.workflow.rules if rule.script
        }
        self.run = Run(stage_of, counts)
        parts = ", ".join(f"{stage.name} {stage.total}" for stage in self.run.stages.values())
        self._say(f"{self.run.all.total} jobs: {parts}")
        threading.Thread(target=self._watch, args=[self.run], daemon=True).start()

    def _watch(self, run: Run) -> None:
        """Look at the jobs' logs until the run ends."""
        said = looked = time.monotonic()
        while not self.ended.wait(SECONDS):
            with self.of_run:
                run.follow()
                if self.screen and run.all.begun:
                    self.screen.show(run)
                doing = run.line()
                waiting = run.waiting()
            self._warn()
            if self.explain and time.monotonic() - looked > PATIENCE:
                looked = time.monotonic()
                for line in self.explain.waiting(waiting):
                    logger.warning(line)
            if time.monotonic() - said > SILENCE:
                said = time.monotonic()
                self._say(doing)

    def _say(self, text: str) -> None:
        """A line for the log and, where nothing else shows how far the run is, for the screen."""
        extra = {"quietness": Quietness.PROGRESS}
        logger.info(text, extra=extra if self.screen else {**extra, **SHOWN})

    def _warn(self) -> None:
        with self.of_run:
            new = [*self.run.warnings.items()][self.warned :]
            self.warned += len(new)
        for warning, name in new:
            logger.warning(f"{name}: {warning}")

    def _fail(self, record: Any, numbers: list[int]) -> None:
        reason = self.explain(record) if self.explain else None
        with self.of_run:
            failures = self.run.fail(numbers, reason)
        self._warn()
        for failure in failures:
            if failure.reason:  # else it may have been interrupted
                logger.error(f"{failure.name} failed: {failure.sentence()} (log: {failure.log})")

    # --- the end ---

    def end(self, succeeded: bool) -> None:
        """Say what came of the run, once its jobs have ended."""
        if not self.is_following:
            if succeeded:
                self._sum_up()
            return
        logger.info("No job runs any more.", extra={LAST: True})
        self.caught_up.wait(PATIENCE)
        self.close()
        with self.of_run:
            self._end_the_rest()
            everything, failures = self.run.all, [*self.run.failures.values()]
        done = f"{everything.done} of {everything.total} jobs are done"
        if failures:
            logger.error(
                "\n".join([f"\n{done}, {len(failures)} failed:", *self._described(failures)])
            )
            logger.error(f"\nWhat was done is kept. Once the causes are fixed, {AGAIN}.")
        elif not succeeded:
            logger.error(f"Interrupted: {done} and kept; {AGAIN}.")
        else:
            took = tqdm.format_interval(everything.seconds())
            done = f"Done: {everything.total} jobs in {took}."
            logger.info(done, extra={**SHOWN, SUMMARY: True})

    def _end_the_rest(self) -> None:
        """See to the jobs of whose end there was no event."""
        dag = self.workflow.dag
        jobs = {dag.jobid(job): job for job in dag.jobs}
        for number in [*self.run.jobs]:
            if dag.finished(jobs[number]):  # with --quiet progress
                self.run.finish(number)
            else:  # Snakemake has refused its outputs
                self.run.fail([number], None)

    def close(self) -> None:
        """Show nothing more of how far the run is."""
        self.ended.set()
        if self.screen:
            with self.of_run:
                self.screen.stop(self.run)

    def _described(self, failures: list[Failure]) -> list[str]:
        """Of each failure: the job, why, its log, and what was not run because of it."""
        lines = []
        for failure in failures:
            reason = failure.reason or "it ended without an error message"
            lines += ["", f"  {failure.name}", *(f"    {line}" for line in reason.splitlines())]
            lines.append(f"    log: {failure.log}")
            if waiting := self._waiting(failure):
                parts = ", ".join(f"{stage} {count}" for stage, count in waiting.items())
                lines.append(f"    not run because of it: {parts}")
        return lines

    def _waiting(self, failure: Failure) -> Counter:
        """Stage -> how many of its jobs need what failed, and were not run."""
        dag = self.workflow.dag
        failed = [job for job in dag.jobs if dag.jobid(job) in failure.numbers]
        needing = {*dag.bfs(dag.depending, *failed)} - {*failed}
        stages = (self.run.stage_of.get(job.rule.name) for job in needing if not dag.finished(job))
        return Counter(stage for stage in stages if stage)

    def _sum_up(self) -> None:
        """The summary of the study, when it was asked for."""
        asked = {output for job in self.workflow.dag.jobs for output in job.output}
        if self.summary and any(output.endswith("tables/summary.parquet") for output in asked):
            self.summary()
