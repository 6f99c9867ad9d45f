"""The processes that jobs run in: how they end, and what they say then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from study import REPOSITORY

# Snakemake's part: it starts the server, writes the script's file, and runs it.
MAIN = """
import subprocess, sys
import preloaded
if "without" not in sys.argv:
    preloaded.start()
    while subprocess.run([sys.executable, "ready.py"]).returncode:
        pass
client = subprocess.Popen([sys.executable, "script.py"])
sys.exit(client.wait())
"""
READY = """
import os, socket, sys
import preloaded
try:
    socket.socket(socket.AF_UNIX).connect("\\0" + os.environ[preloaded.ADDRESS])
except OSError:
    sys.exit(1)
"""
SCRIPT = """
import os, sys, time
from pathlib import Path
import preloaded
Path("client").exists() or Path("client").write_text(str(os.getpid()))
try:
    preloaded.hand_over()
except preloaded.KilledError as error:
    sys.exit(str(error))
with Path("child").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
{rest}
"""


@pytest.fixture
def main(tmp_path):
    """Starts the make-believe Snakemake with a script; kills what is left of it at the end."""
    started = []

    def start(rest: str, *arguments: str) -> subprocess.Popen:
        texts = {"main.py": MAIN, "ready.py": READY, "script.py": SCRIPT.format(rest=rest)}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        # A server without anything to import answers at once.
        server = (REPOSITORY / "scripts" / "preloaded.py").read_text(encoding="utf-8")
        (tmp_path / "preloaded.py").write_text(server, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    (tmp_path / "temporary").mkdir()
    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def of(directory: Path, name: str) -> int:
    """The process that has written its id, once it has."""
    for _ in range(600):
        path = directory / name
        if path.exists() and (text := path.read_text()):
            return int(text.split()[-1])
        time.sleep(0.05)
    raise TimeoutError(name)


def working_in(directory: Path) -> set[int]:
    """The processes whose working directory it is."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(directory):
                found.add(int(process.name))
        except OSError:
            continue
    return found


def all_gone(directory: Path) -> bool:
    for _ in range(100):
        if not working_in(directory):
            return True
        time.sleep(0.05)
    return False


def test_a_job_runs_in_a_child_of_the_server_as_its_client_would(main, tmp_path):
    process = main("print(os.getcwd(), 'done'); sys.exit(3)")
    output, _ = process.communicate(timeout=60)
    assert output == f"{tmp_path} done\n"
    assert process.returncode == 3
    assert of(tmp_path, "client") != of(tmp_path, "child")
    assert all_gone(tmp_path)


def test_without_a_server_the_script_goes_on_where_it_is(main, tmp_path):
    process = main("print('done')", "without")
    assert process.communicate(timeout=60)[0] == "done\n"
    assert of(tmp_path, "client") == of(tmp_path, "child")


def test_a_killed_job_is_tried_once_more(main, tmp_path):
    process = main("preloaded.KILLED in os.environ or os.kill(os.getpid(), 9); print('done')")
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0
    assert len((tmp_path / "child").read_text().split()) == 2


@pytest.mark.parametrize("where", [[], ["without"]])
def test_a_job_that_leaves_with_a_message_was_not_killed(main, tmp_path, where):
    process = main("sys.exit('no such thing')", *where)
    assert process.communicate(timeout=60)[0] == "no such thing\n"
    assert process.returncode == 1
    assert len((tmp_path / "child").read_text().split()) == 1


def test_a_job_that_is_killed_twice_says_so(main, tmp_path):
    process = main("os.kill(os.getpid(), 9)")
    assert process.communicate(timeout=60)[0] == "killed twice\n"
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("who", ["main", "client", "child", "group"])
def test_nothing_is_left_of_what_is_killed(main, tmp_path, who, number):
    process = main("time.sleep(600)")
    of(tmp_path, "child")
    if who == "group":  # as Ctrl-C does
        os.killpg(process.pid, number)
    elif who == "child":  # which is tried again
        for _ in range(2):
            os.kill(of(tmp_path, "child"), number)
            time.sleep(0.5)
    else:
        os.kill(process.pid if who == "main" else of(tmp_path, who), number)
    process.communicate(timeout=60)
    assert all_gone(tmp_path)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_job_ends_with_its_server(main, tmp_path):
    process = main("time.sleep(600)")
    server = int(Path(f"/proc/{of(tmp_path, 'child')}/stat").read_text().split()[3])
    os.kill(server, signal.SIGKILL)
    assert process.communicate(timeout=60)[0] == "killed with its server\n"
    assert process.returncode == 1
    assert all_gone(tmp_path)


def test_what_a_job_has_said_before_it_was_killed_stays_in_its_log(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import job
    import job_log

    def killed():
        raise job.preloaded.KilledError(by_itself=True)

    monkeypatch.setattr(job.preloaded, "hand_over", killed)
    log = tmp_path / "a.log"
    log.write_text("INFO headcount.progress: masks x prompts: 5 of 9\n")
    planned = {"engine_mb": 500, "mem_mb": 1500}
    resources = SimpleNamespace(**planned, items=planned.items)
    read = job_log.JobLog(log)
    with pytest.raises(SystemExit, match="1"):
        job.begin(SimpleNamespace(log=[log], resources=resources))
    assert read.follow() == []
    assert read.progress == "masks x prompts: 5 of 9"
    assert read.failure.startswith("the job was killed, with 500 MB for the computation and again")
