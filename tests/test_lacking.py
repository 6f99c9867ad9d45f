"""What is said of a job of a cluster that failed for want of time or memory."""

import pytest
from study import REPOSITORY

TIMEOUT = {"JobState": "TIMEOUT", "TimeLimit": "1-02:30:00", "MinMemoryNode": "2G"}
FAILED = {"JobState": "FAILED", "TimeLimit": "00:30:00", "MinMemoryNode": "1500M"}


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import lacking

    return lacking


def test_it_says_what_was_lacking_and_what_the_next_try_gets(lacking):
    assert (
        lacking.lacked(TIMEOUT, 2) == "over its time limit of 1590 min: tried again with 3180 min"
    )
    out_of_memory = TIMEOUT | {"JobState": "OUT_OF_MEMORY"}
    assert (
        lacking.lacked(out_of_memory, 2) == "over its memory of 2048 MB: tried again with 4096 MB"
    )


def test_the_last_try_ends_with_a_remedy(lacking):
    said = lacking.lacked(TIMEOUT, None)
    assert said.startswith("over its time limit of 1590 min, on its last try: raise `runtime`")


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-n1: error: StepId=58.0 exceeded memory limit (615 > 314), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch",
    ],
)
def test_memory_is_found_in_the_log_where_the_state_does_not_tell(lacking, line, tmp_path):
    log = tmp_path / "58.log"
    log.write_text(f"importing\n{line}\n")
    said = lacking.lacked(FAILED | {"StdOut": str(log)}, 2)
    assert said == "over its memory of 1500 MB: tried again with 3000 MB"


def test_a_cancelled_job_and_a_failed_node_are_named(lacking):
    assert lacking.lacked(FAILED | {"JobState": "CANCELLED"}, 2) == "cancelled: tried again"
    said = lacking.lacked(FAILED | {"JobState": "NODE_FAIL"}, None)
    assert said == "on a node that failed, on its last try"


def test_of_other_failures_it_says_nothing(lacking, tmp_path):
    log = tmp_path / "58.log"
    log.write_text("ModelError: no weights\n")
    assert lacking.lacked(FAILED | {"StdOut": str(log)}, 2) is None
    assert lacking.lacked({}, 2) is None  # SLURM has forgotten it
