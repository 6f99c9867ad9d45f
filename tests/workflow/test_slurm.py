"""The tiny study on a throwaway SLURM of two nodes, through the profile that is shipped."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cluster
import pytest
from study import REPOSITORY, STUDY, Study

from headcount.artifacts import storage

pytestmark = pytest.mark.slurm
# Jobs leave a trace when they compute, and do, once, what a test has put in their way.
HOOK = """

undisturbed = begin


def begin(snakemake):
    undisturbed(snakemake)
    name = "-".join([snakemake.rule, *snakemake.wildcards])
    Path("disturbed").mkdir(exist_ok=True)
    with Path("disturbed", f"{name}.computed").open("a") as file:
        file.write("once\\n")
    disturbance = Path("disturbed", f"{name}.py")
    if disturbance.exists():
        code = disturbance.read_text()
        disturbance.unlink()
        exec(code)
"""
SLEEP = "import time; time.sleep(300)"
IMPORTANCE = [("tiny_a", "heads"), ("tiny_a", "ffns"), ("tiny_b", "heads"), ("tiny_b", "ffns")]


@pytest.fixture(scope="module")
def slurm():
    """The cluster, which is gone afterwards."""
    if reason := cluster.why_not():
        pytest.skip(reason)
    try:
        cluster.start()
        yield
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def local(slurm, tmp_path_factory):
    """The tiny study, run on this machine without the cluster."""
    study = Study.create(tmp_path_factory.mktemp("local") / "study")
    study.append("src/headcount_workflow/job.py", HOOK)
    result = study.run("all")
    assert result.returncode == 0, result.stdout
    return study


@pytest.fixture
def interrupted(local, tmp_path):
    """A copy of it that lacks the importance of two tasks at 0 shots: four jobs."""
    study = local.copy(tmp_path / "study")
    for target in targets():
        (study.directory / target).unlink()
    for trace in study.directory.glob("disturbed/*"):
        trace.unlink()
    return study


def targets(importance=IMPORTANCE) -> list[str]:
    return [
        f"artifacts/tiny/importance/{task}/0-shot/{component}.parquet"
        for task, component in importance
    ]


@pytest.fixture
def start():
    """A function that starts Snakemake on the cluster; what it says goes to the file `said`."""
    started = []

    def start(study: Study, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/slurm"]
        with (study.directory / "said").open("w") as said:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=study.directory,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def said(study: Study) -> str:
    return (study.directory / "said").read_text()


def finish(study: Study, process: subprocess.Popen) -> str:
    """Wait for a Snakemake that has to succeed; its log."""
    assert process.wait(timeout=1200) == 0, said(study)
    return max(study.directory.glob(".snakemake/log/*.log")).read_text()


def submitted(text: str) -> list[dict[str, str]]:
    """The submissions of a Snakemake, as SLURM describes them."""
    numbers = re.findall(r"submitted with SLURM jobid (\d+)", text)
    jobs = {job["JobId"]: job for job in cluster.jobs()}
    return [jobs[number] for number in numbers]


def disturb(study: Study, task: str, component: str, code: str) -> None:
    (study.directory / "disturbed").mkdir(exist_ok=True)
    disturbance(study, task, component).write_text(code)


def disturbance(study: Study, task: str, component: str) -> Path:
    name = f"score_importance-tiny-{task}-0-{component}.py"
    return study.directory / "disturbed" / name


def wait_until_disturbed(study: Study, task: str, component: str) -> None:
    file = disturbance(study, task, component)
    cluster.wait_for(lambda: not file.exists(), f"{file.stem} to run", seconds=180)


def times_computed(study: Study, task: str, component: str) -> int:
    trace = disturbance(study, task, component).with_suffix(".computed")
    return len(trace.read_text().splitlines())


def running() -> dict[str, str]:
    """The one job that runs."""
    (job,) = [job for job in cluster.jobs() if job["JobState"] == "RUNNING"]
    return job


def contents(study: Study) -> dict[str, str]:
    """Artifact -> the hash of what it holds. No two PDFs of a figure have the same bytes."""
    root = study.directory / "artifacts"
    return {
        str(path.relative_to(root)): storage.provenance(path)["content"]
        for path in root.rglob("*.parquet")
        if "evaluations" not in path.parts  # which rows are in which part is left to chance
    }


def test_a_study_is_what_it_is_on_one_machine(local, start, tmp_path):
    """On both nodes, in a dozen submissions, the figures where Snakemake runs."""
    study = Study.create(tmp_path / "study")
    study.append("src/headcount_workflow/job.py", HOOK)
    text = finish(study, start(study, "all"))
    assert contents(study) == contents(local)
    figures = {path.name for path in study.directory.glob("artifacts/tiny/figures/*")}
    assert figures == {path.name for path in local.directory.glob("artifacts/tiny/figures/*")}
    jobs = submitted(text)
    assert {job["NodeList"] for job in jobs} == {"n1", "n2"}
    assert len(jobs) <= 12
    assert not [job for job in jobs if re.search("draw|rank|correlate", job["Comment"])]


def test_a_retry_gets_what_the_last_try_lacked(interrupted, start):
    """More time, or more memory; and jobs of a model alone ask for GPUs."""
    (interrupted.directory / "artifacts/tasks/tiny_a/0-shot/evaluation.parquet").unlink()
    model = STUDY["models"]["tiny"] | {"gpus": 1, "mem_mb": 1500, "runtime": 1}
    interrupted.configure(models={"tiny": model})
    disturb(interrupted, "tiny_b", "heads", SLEEP)
    disturb(interrupted, "tiny_b", "ffns", f"held = b'1' * 2 ** 31; {SLEEP}")
    process = start(interrupted, *targets(), "--group-components", "importance=1")
    text = finish(interrupted, process)
    assert "was over its time limit of 1 min: tried again with 2 min" in text
    assert "was over its memory of 1500 MB: tried again with 3000 MB" in text
    for job in submitted(text):
        of_model = "importance" in job["Comment"]
        assert ("gpu" in job.get("TresPerJob", "")) == of_model, job
        assert not of_model or job["NodeList"] == "n2"


def test_a_cancelled_job_and_a_dead_node_cost_only_what_ran(interrupted, local, start):
    """Four jobs travel in a group; one of them is cancelled, and then its node dies."""
    disturb(interrupted, "tiny_a", "heads", SLEEP)
    process = start(interrupted, *targets())
    wait_until_disturbed(interrupted, "tiny_a", "heads")
    disturb(interrupted, "tiny_a", "heads", SLEEP)
    cancelled = running()["JobId"]
    subprocess.run(["scancel", cancelled], check=True)
    wait_until_disturbed(interrupted, "tiny_a", "heads")
    node = running()["NodeList"]
    cluster.kill_node(node)
    cluster.start_node(node)
    text = finish(interrupted, process)
    assert f"job {cancelled} of the cluster was cancelled: tried again" in text
    assert [times_computed(interrupted, *job) for job in IMPORTANCE] == [3, 1, 1, 1]
    assert contents(interrupted) == contents(local)


def test_a_job_that_outlives_its_snakemake_has_no_second_writer(interrupted, local, start):
    """Killed and started again, Snakemake submits the job again, which waits for the first one."""
    disturb(interrupted, "tiny_a", "heads", "import time; time.sleep(20)")
    process = start(interrupted, *targets([("tiny_a", "heads")]))
    wait_until_disturbed(interrupted, "tiny_a", "heads")
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = running()
    text = finish(interrupted, start(interrupted, *targets([("tiny_a", "heads")])))
    assert [job["JobState"] for job in submitted(text)] == ["COMPLETED"]
    (first,) = (job for job in cluster.jobs() if job["JobId"] == first["JobId"])
    assert first["JobState"] == "COMPLETED"
    assert times_computed(interrupted, "tiny_a", "heads") == 1
    (path,) = targets([("tiny_a", "heads")])
    assert (interrupted.directory / path).read_bytes() == (local.directory / path).read_bytes()


def test_every_command_of_the_guide_runs(interrupted):
    """With the tiny model in the place of OPT-66B."""
    guide = (REPOSITORY / "docs" / "cluster.md").read_text()
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL))
    # One command after the other: two at once would be refused.
    commands = commands.replace("sbatch ", "sbatch --wait ")
    directory = interrupted.directory
    (directory / "configs").mkdir()
    (directory / "config.yaml").rename(directory / "configs" / "opt-66b.yaml")
    (directory / ".venv").symlink_to(sys.prefix)
    result = subprocess.run(
        ["bash", "-exc", commands],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    assert all((directory / path).exists() for path in targets())
    assert "Nothing to be done" in (directory / "study.log").read_text()
