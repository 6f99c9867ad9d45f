"""Whatever breaks off a study, the same command continues from there, and nothing is lost."""

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from random import Random

import pytest
from processes import Run
from study import Study

from headcount.artifacts import storage, temporaries

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS = [*product(("job", "client", "server", "main", "group"), SIGNALS)] * 2
# Below `artifacts`, what no job has for its output.
NOT_OF_A_JOB = {".earlier", "evaluations"}


# --- kills ---


def jobs(finished) -> list[list[str]]:
    """Of each job, its files below `artifacts`."""
    directory = finished.directory / "artifacts"
    of_key = {}
    for path in sorted(directory.glob("*/**/*.*")):
        if path.suffix in (".parquet", ".json") and not NOT_OF_A_JOB & {*path.parts}:
            made = storage.provenance(path)
            home = "report" if path.suffix == ".json" else "figures"
            beside = [f"tiny/{home}/{name}" for name in made.get("files", {})]
            of_key.setdefault(made["key"], []).extend([str(path.relative_to(directory)), *beside])
    return list(of_key.values())


def written(study, jobs) -> dict[str, int]:
    """File -> inode, of the jobs that have finished: what is written again has another."""
    paths = [[study.directory / "artifacts" / name for name in names] for names in jobs]
    done = [path for files in paths if all(map(os.path.exists, files)) for path in files]
    return {str(path): path.stat().st_ino for path in done}


def strike(run: Run, role: str, number: int, random: Random) -> bool:
    """Kill a process of a role at a random moment; whether there was one before the end."""
    of_all = role in ("main", "group")
    early = of_all and random.random() < 0.3
    while run.main.poll() is None:
        if early:
            time.sleep(random.uniform(0.5, 3))  # while it starts
        elif not run.find("job" if of_all else role):
            time.sleep(0.02)
            continue
        else:
            time.sleep(random.uniform(0, 2))
        with suppress(ProcessLookupError, IndexError):  # it has just ended: the next one
            if role == "group":
                os.killpg(run.main.pid, number)
            else:
                os.kill(random.choice(run.find(role)), number)
            return True
    return False


@pytest.mark.kills
def test_thirty_kills_cost_nothing_that_was_finished(finished, tmp_path, record_property):
    study, tmp = Study.create(tmp_path / "study"), tmp_path / "tmp"
    tmp.mkdir()
    of_jobs, random = jobs(finished), Random(0)
    before, left = {}, random.sample(KILLS, len(KILLS))
    seconds = {}
    while left:
        run = Run(study, tmp)
        role, number = left[-1]
        struck = strike(run, role, number, random)
        if struck and (role in ("job", "client", "server") or number == signal.SIGINT):
            time.sleep(random.uniform(0, 0.5))
            run.interrupt()  # as who sees the error
        elif not struck:
            run.main.wait()
        took = run.ended()
        after = written(study, of_jobs)
        assert before.items() <= after.items(), run.told
        before = after
        if struck:
            left.pop()
            seconds.setdefault(f"{role} {number.name}", []).append(round(took, 1))
            print(role, number.name, f"{took:.1f} s", len(after), flush=True)
        elif run.main.returncode == 0:  # finished before all kills: another of the same
            (study.directory / "artifacts").rename(tmp_path / f"finished-{len(left)}")
            before = {}
    record_property("seconds", seconds)
    run = Run(study, tmp)
    assert run.main.wait() == 0, run.told
    run.ended()
    assert before.items() <= written(study, of_jobs).items()
    equal(study, finished)
    assert study.stale() == {}
    # Of a start that was killed before it read our rules, an empty directory of Snakemake may stay.
    assert [path for path in tmp.rglob("*") if not path.is_dir()] == []
    assert [*tmp.glob("headcount*")] == []
    assert [*(study.directory / "artifacts").rglob(".headcount-*")] == []


TERMINATED = """
import signal
from snakemake.persistence.file import FilePersistence
noted = FilePersistence._write_record
def note(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    noted(*arguments)
FilePersistence._write_record = note
"""


@pytest.mark.slow
def test_a_run_that_is_terminated_while_it_notes_a_job_ends(tmp_path):
    study, tmp = Study.create(tmp_path / "study"), tmp_path / "tmp"
    tmp.mkdir()
    study.append("Snakefile", TERMINATED)
    run = Run(study, tmp)
    try:
        assert run.main.wait(120) == -signal.SIGTERM, run.told
        run.ended()
    finally:
        run.main.kill()
    temporaries.sweep(tmp)  # as the next start does
    assert [*tmp.iterdir()] == []


# A cluster in whose queue jobs wait for ever.
QUEUE = """
from pathlib import Path
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    init_seconds_before_status_checks=0,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)

class Executor(RemoteExecutor):
    def run_job(self, job):
        Path(f"queued-{job.jobid}").touch()
        info = SubmittedJobInfo(job=job, external_jobid=str(job.jobid))
        self.report_job_submission(info)

    async def check_active_jobs(self, active_jobs):
        for job in active_jobs:
            yield job

    def cancel_jobs(self, active_jobs):
        for job in active_jobs:
            Path(f"queued-{job.external_jobid}").unlink()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_on_a_cluster_that_is_told_to_end_cancels_its_jobs(tmp_path, monkeypatch, number):
    study, tmp = Study.create(tmp_path / "study"), tmp_path / "tmp"
    tmp.mkdir()
    (plugin := tmp_path / "snakemake_executor_plugin_queue").mkdir()
    (plugin / "__init__.py").write_text(QUEUE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = Run(study, tmp, "--executor", "queue", "--jobs", "3", "--group-components", "tasks=1")
    try:
        while len([*study.directory.glob("queued-*")]) < 3 and run.main.poll() is None:
            time.sleep(0.05)
        run.main.send_signal(number)
        assert run.main.wait(60) == 1, run.told
    finally:
        run.main.kill()
    assert "Interrupted: 0 of" in run.told
    assert not [*study.directory.glob("queued-*")]


def equal(study, finished):
    """Every artifact has the bytes of an undisturbed run's."""
    names = [Path(name) for names in jobs(finished) for name in names]
    assert len(names) > 69
    for name in names:
        path = study.directory / "artifacts" / name
        if name.suffix in (".parquet", ".json"):
            there = finished.directory / "artifacts" / name
            made, undisturbed = storage.provenance(path), storage.provenance(there)
            kind = "content" if "content" in made else "files"  # of the explorer, its page
            assert made[kind] == undisturbed[kind], name
        else:
            assert path.stat().st_size > 1000


# --- other faults: each is told with its remedy, and gone with its cause ---


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study that the test may edit."""
    return finished.copy(tmp_path / "study")


def told(study, message, *arguments) -> None:
    """The study stops and says why, without a traceback."""
    result = study.run(*arguments)
    assert result.returncode != 0
    assert re.search(message, result.stdout), result.stdout
    assert "Traceback" not in result.stdout, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,message",
    [
        ("lm_tasks/data/tiny_c/validation.jsonl", r"validation\.jsonl"),
        ("model", r"models\.tiny\.source: model is not there.*Put it back"),
    ],
)
def test_what_was_away_for_a_moment_costs_nothing(study, name, message):
    path = study.directory / name
    before = written(study, jobs(study))
    path.rename(study.directory / "away")
    told(study, message)
    (study.directory / "away").rename(path)
    assert study.stale() == {}
    assert written(study, jobs(study)) == before


@pytest.mark.slow
def test_a_directory_that_never_was_is_not_looked_for_on_the_hub(study):
    for source in ("./models/opt", "/models/opt", "my/models/opt"):
        study.configure(models={"tiny": {"source": source}})
        told(study, f"models.tiny.source: {source} is not there", "--dry-run")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def of_another_version(path):
    """As if another version of headcount had written it: whole, and of another format."""
    rows, made = storage.read(path), storage.provenance(path)
    path.write_bytes(storage._sealed(rows, {**made, "format": storage.FORMAT + 1}))


DAMAGED = {
    "importance/tiny_a/0-shot/heads.parquet": cut,
    "rankings/tiny_b/2-shot/ffns.parquet": flip,
    "correlation/cross_task/heads.parquet": of_another_version,
    "figures/retention.svg": cut,
}


@pytest.mark.slow
def test_what_is_damaged_is_made_anew_and_nothing_else(study):
    before = written(study, jobs(study))
    whole = {name: (study.directory / "artifacts/tiny" / name).read_bytes() for name in DAMAGED}
    for name, damage in DAMAGED.items():
        damage(study.directory / "artifacts/tiny" / name)
    result = study.run()
    assert result.returncode == 0, result.stdout
    after = written(study, jobs(study))
    for name, data in whole.items():
        assert re.search(f"Note: artifacts/tiny/{name}|Note: {Path(name).name}", result.stdout)
        if name.endswith(".parquet"):
            assert (study.directory / "artifacts/tiny" / name).read_bytes() == data
    again = {path for path in before if after[path] != before[path]}
    figure = {f"figures/retention.{kind}" for kind in ("png", "svg", "pdf", "html")}
    expected = {*DAMAGED, *figure, "tables/retention.parquet"}
    assert again == {str(study.directory / "artifacts/tiny" / name) for name in expected}
    assert study.stale() == {}


@pytest.mark.slow
def test_an_input_damaged_while_the_study_runs_stops_its_readers(study, tmp_path):
    name = "artifacts/tiny/pruning/tiny_a/0-shot/heads/by-aggregate.parquet"
    (study.directory / "artifacts/tiny/tables/head_pruning.parquet").unlink()
    run = Run(study, tmp_path)
    while " jobs: " not in run.told and run.main.poll() is None:
        time.sleep(0.05)
    flip(study.directory / name)
    assert run.main.wait() != 0
    run.ended()
    assert re.search(f"{name} is damaged.*run the study again", run.told), run.told
    assert "Traceback" not in run.told, run.told
    result = study.run()
    assert result.returncode == 0, result.stdout
    assert study.stale() == {}


@pytest.fixture
def disk(study):
    """The study's artifacts on a file system of their own, with some kB to spare."""
    folder = study.directory / "artifacts"
    kept = study.directory / "kept"
    folder.rename(kept)
    folder.mkdir()
    size = sum(path.stat().st_blocks for path in kept.rglob("*")) // 2 + 400
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return


@pytest.mark.slow
def test_a_full_disk_is_told_and_costs_nothing(study, disk):
    of_jobs = jobs(study)
    (disk / "tiny/rankings/depth/0-shot/heads.parquet").unlink()
    before = written(study, of_jobs)
    fill(disk)
    told(study, r"(?s)artifacts.*No space left on device.*Make room")
    (disk / "filler").unlink()
    result = study.run()
    assert result.returncode == 0, result.stdout
    assert before.items() <= written(study, of_jobs).items()
    assert study.stale() == {}


@pytest.mark.slow
def test_a_folder_that_is_only_read_is_told_and_costs_nothing(study, disk):
    study.configure(bootstrap={"resamples": 30})
    remount = ["mount", "-o"]
    subprocess.run([*remount, "remount,ro", disk], check=True)
    told(study, r"artifacts.*Read-only file system.*writable")
    subprocess.run([*remount, "remount,rw", disk], check=True)
    study.configure()
    assert study.stale() == {}


@pytest.mark.slow
def test_a_broken_heldout_task_stops_what_depends_on_it_alone(study):
    data = study.directory / "lm_tasks/data/tiny_c/validation.jsonl"
    whole = data.read_text()
    data.write_text(whole.replace('"choices"', '"chioces"', 1))
    study.configure(bootstrap={"resamples": 30})  # work that has nothing to do with the task
    before = written(study, jobs(study))
    told(study, r"lm_tasks/tiny_c\.yaml: the task does not load")
    after = written(study, jobs(study))
    assert before.keys() == after.keys()
    folder = study.directory / "artifacts"
    again = {str(Path(path).relative_to(folder)) for path in before if before[path] != after[path]}
    assert {"tiny/correlation/cross_task/heads.parquet", "tiny/figures/summary.png"} <= again
    assert not [name for name in again if "tiny_c" in name or "transfer" in name]
    data.write_text(whole)
    assert study.stale() == {"draw_transfer": 1, "explore": 1}  # which have new resamples too
    result = study.run()
    assert result.returncode == 0, result.stdout
    assert study.stale() == {}


@pytest.mark.slow
def test_code_that_is_changed_while_it_runs_does_not_mix(study, tmp_path):
    study.configure(bootstrap={"resamples": 30})
    before = written(study, jobs(study))
    run = Run(study, tmp_path)
    while " jobs: " not in run.told and run.main.poll() is None:
        time.sleep(0.05)
    study.append("src/headcount/scores/correlation.py", "\nEDITED = 1\n")
    assert run.main.wait() != 0
    run.ended()
    assert "code was changed while it ran: run it again" in run.told, run.told
    assert "Traceback" not in run.told and "killed" not in run.told, run.told
    assert written(study, jobs(study)).keys() == before.keys()
    result = study.run()
    assert result.returncode == 0, result.stdout
    assert study.stale() == {}
