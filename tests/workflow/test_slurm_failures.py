"""What is said of a job of a cluster that was refused, waits, or lacked time or memory."""

import os
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from headcount_workflow import slurm_failures
from headcount_workflow.slurm_failures import lacked

TIMEOUT = {"JobState": "TIMEOUT", "TimeLimit": "1-02:30:00", "MinMemoryNode": "2G"}
FAILED = {"JobState": "FAILED", "TimeLimit": "00:30:00", "MinMemoryNode": "1500M"}


def test_it_says_what_was_lacking_and_what_the_next_try_gets():
    assert lacked(TIMEOUT, 2) == "over its time limit of 1590 min: tried again with 3180 min"
    out_of_memory = TIMEOUT | {"JobState": "OUT_OF_MEMORY"}
    assert lacked(out_of_memory, 2) == "over its memory of 2048 MB: tried again with 4096 MB"


def test_the_last_try_ends_with_a_remedy():
    said = lacked(TIMEOUT, None)
    assert said.startswith("over its time limit of 1590 min, on its last try: raise `runtime`")


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-n1: error: StepId=58.0 exceeded memory limit (615 > 314), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch",
    ],
)
def test_memory_is_found_in_the_log_where_the_state_does_not_tell(line, tmp_path):
    log = tmp_path / "58.log"
    log.write_text(f"importing\n{line}\n")
    said = lacked(FAILED | {"StdOut": str(log)}, 2)
    assert said == "over its memory of 1500 MB: tried again with 3000 MB"


def test_a_cancelled_job_and_a_failed_node_are_named():
    assert lacked(FAILED | {"JobState": "CANCELLED"}, 2) == "cancelled: tried again"
    said = lacked(FAILED | {"JobState": "NODE_FAIL"}, None)
    assert said == "on a node that failed, on its last try"


def test_of_other_failures_it_says_nothing(tmp_path):
    log = tmp_path / "58.log"
    log.write_text("ModelError: no weights\n")
    assert lacked(FAILED | {"StdOut": str(log)}, 2) is None
    assert lacked({}, 2) is None  # SLURM has forgotten it


def test_what_slurm_leaves_open_is_left_out():
    said = lacked({"JobState": "TIMEOUT", "TimeLimit": "Partition_Limit"}, 2)
    assert said == "over its time limit: tried again with 2 times as much"
    said = lacked({"JobState": "OUT_OF_MEMORY", "MinMemoryCPU": "2G"}, None)
    assert said.startswith("over its memory, on its last try: raise `mem_mb`")
    assert lacked({"JobState": "PREEMPTED"}, 2) == "ended for another job: tried again"


# --- with commands of SLURM that a test has written ---


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that puts a command in front of all others on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    return write


class Executor:
    """As an executor plugin reports: of a group Snakemake passes on no message."""

    def __init__(self):
        self.passed_on = []

    def report_job_submission(self, info, register_job=True):
        self.passed_on.append(info.external_jobid)

    def report_job_error(self, info, msg=None, aux_logs=()):
        self.passed_on.append(msg)


def job(number, is_local=False):
    return SimpleNamespace(number=number, is_local=is_local, restart_times=2, attempt=1)


def explanation(executor, jobs):
    dag = SimpleNamespace(jobs=jobs, jobid=lambda job: job.number)
    local = SimpleNamespace()  # which is not listened to
    scheduler = SimpleNamespace(get_executor=lambda job: local if job.is_local else executor)
    return slurm_failures.Explanation(dag, 2, scheduler)


def given(job, of_cluster=None):
    return SimpleNamespace(job=job, external_jobid=of_cluster)


def group_error(jobs):
    infos = [{"jobid": job.number} for job in jobs]
    return SimpleNamespace(event=LogEvent.GROUP_ERROR, job_error_info=infos)


QOS = "Batch job submission failed: Job violates accounting/QOS policy"
REFUSALS = {
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {QOS}": (
        f"QOSMaxSubmitJobPerUserLimit; {QOS}."
    ),
    "/bin/sh: 1: sbatch: not found": "/bin/sh: 1: sbatch: not found.",
    "sbatch: error: invalid partition specified: it's": "invalid partition specified: it's.",
}


@pytest.mark.parametrize("said,told", REFUSALS.items())
@pytest.mark.parametrize("grouped", [False, True])
def test_a_refused_job_is_told_in_the_words_of_sbatch(said, told, grouped):
    """Alone or in a group, in the sentence of the executor plugin."""
    executor, jobs = Executor(), [job(3), job(4), job(5, is_local=True)]
    explain = explanation(executor, jobs)
    whole = f"SLURM sbatch failed. The error message was '{said}'.\n    sbatch call:\n   sbatch -n1"
    of = SimpleNamespace(jobs=jobs[:2]) if grouped else jobs[0]
    executor.report_job_error(given(of), msg=whole)
    assert executor.passed_on == [whole]
    alone = SimpleNamespace(event=LogEvent.JOB_ERROR, jobid=3, aux={})
    reason = explain(group_error(jobs[:2]) if grouped else alone)
    assert reason.startswith(
        f"the cluster did not take the job: {told} What it asks for: `runtime`"
    )
    assert "sbatch call" not in reason
    assert explain(SimpleNamespace(event=LogEvent.JOB_ERROR, jobid=5, aux={})) is None


def test_what_a_job_waits_for_beside_its_turn_is_told_once(command):
    """A held job, a partition that is down, a limit; not that others are before it."""
    table = ["7|JobHeldUser", "8|PartitionDown", "9|Priority", "10|PartitionDown", "11|Resources"]
    rows = "\\n".join(table)
    command("squeue", f'echo "$@" > "$(dirname "$0")/asked"; printf "{rows}\\n"')
    executor, jobs = Executor(), [job(number) for number in range(1, 8)]
    explain = explanation(executor, jobs)
    for of_cluster, number in (("7", 1), ("8", 2), ("9", 3), ("11", 6)):
        executor.report_job_submission(given(jobs[number - 1], of_cluster))
    executor.report_job_submission(given(SimpleNamespace(jobs=jobs[3:5]), "10"), register_job=True)
    assert executor.passed_on == ["7", "8", "9", "11", "10"]
    names = {number: f"Importance {number}" for number in range(1, 7)}
    held, down = explain.waiting(names)
    assert held.startswith("Importance 1 waits as job 7 of the cluster: SLURM gives JobHeldUser as")
    assert "Importance 2 waits as job 8" in down and "PartitionDown" in down
    assert "as for 1 more;" in down and "`scontrol show job 8` says more" in down
    assert explain.waiting(names) == []


def test_only_of_jobs_that_wait_slurm_is_asked(command, tmp_path):
    command("squeue", f'echo "$@" > {tmp_path}/asked')
    executor, jobs = Executor(), [job(1), job(2)]
    explain = explanation(executor, jobs)
    executor.report_job_submission(given(jobs[0], "7"))
    executor.report_job_submission(given(jobs[1], "8"))
    assert explain.waiting({}) == [] and not (tmp_path / "asked").exists()
    assert explain.waiting({2: "Importance"}) == []
    assert "--jobs=8 " in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("text", ["echo slurm_load_jobs error >&2; exit 1", None])
def test_a_cluster_that_does_not_answer_costs_nothing(command, monkeypatch, text):
    if text:
        command("squeue", text)
        command("scontrol", text)
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    assert slurm_failures.described("7") == {} and slurm_failures.reasons_to_wait(["7"]) == []
