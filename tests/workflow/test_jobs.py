"""The processes that jobs run in: how they end, and what they say then."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from study import REPOSITORY

from headcount.artifacts import hashes, source_code
from headcount_workflow import job, job_log, job_server

# Snakemake's part: it starts the server, writes the script's file, and runs it.
MAIN = """
import subprocess, sys
from headcount_workflow import job_server
if "without" not in sys.argv:
    job_server.start()
client = subprocess.Popen([sys.executable, "script.py"])
sys.exit(client.wait())
"""
SCRIPT = """
import os, sys, time
from pathlib import Path
from headcount_workflow import job_server
Path("client").exists() or Path("client").write_text(str(os.getpid()))
try:
    job_server.hand_over({waits})
except job_server.KilledError as error:
    sys.exit(str(error))
with Path("child").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
Path("parent").write_text(str(os.getppid()))
{rest}
"""


@pytest.fixture
def main(tmp_path):
    """Starts the make-believe Snakemake with a script; kills what is left of it at the end."""
    started = []

    def start(
        rest: str, *arguments: str, temporary: str = "temporary", waits: bool = True
    ) -> subprocess.Popen:
        texts = {"main.py": MAIN, "script.py": SCRIPT.format(rest=rest, waits=waits)}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        # A server without anything to import answers at once.
        package = tmp_path / "src" / "headcount_workflow"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copy(job_server.__file__, package)
        process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "TMPDIR": str(tmp_path / temporary),
                "PYTHONPATH": f"{tmp_path / 'src'}:{REPOSITORY / 'src'}",
            },
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


@pytest.mark.parametrize("waits", [True, False])
def test_a_job_that_imports_little_does_not_wait_for_the_server(main, tmp_path, waits):
    """The server is held up until the job is done, or until it has been seen to wait."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "slow.py").write_text("from headcount_slow import *\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "headcount_slow.py").write_text(
        "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)\n"
    )
    process = main("print('done')", waits=waits)
    if waits:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        (tmp_path / "go").touch()
    assert process.wait(60) == 0 and process.stdout.read() == "done\n"
    assert (of(tmp_path, "parent") == of(tmp_path, "client")) is not waits


def test_a_job_runs_in_a_child_of_the_server_as_its_client_would(main, tmp_path):
    process = main("print(os.getcwd(), 'done'); sys.exit(3)")
    output, _ = process.communicate(timeout=60)
    assert output == f"{tmp_path} done\n"
    assert process.returncode == 3
    assert of(tmp_path, "client") != of(tmp_path, "child")
    assert all_gone(tmp_path)


def test_without_a_server_the_script_goes_on_in_a_child_of_its_client(main, tmp_path):
    process = main("print(os.getppid()); sys.exit(3)", "without")
    assert process.communicate(timeout=60)[0] == f"{of(tmp_path, 'client')}\n"
    assert process.returncode == 3


def test_a_job_in_the_server_is_one_process_and_no_more(main, tmp_path):
    process = main("time.sleep(600)")
    server = parent(of(tmp_path, "child"))
    assert parent(server) == process.pid
    assert "job_server.py" in Path(f"/proc/{server}/cmdline").read_text()


@pytest.mark.parametrize("where", [[], ["without"]])
def test_a_killed_job_is_tried_once_more(main, tmp_path, where):
    kill = "job_server.KILLED in os.environ or os.kill(os.getpid(), 9); print('done')"
    process = main(kill, *where)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0
    assert len((tmp_path / "child").read_text().split()) == 2


@pytest.mark.parametrize("where", [[], ["without"]])
def test_a_job_that_leaves_with_a_message_was_not_killed(main, tmp_path, where):
    process = main("sys.exit('no such thing')", *where)
    assert process.communicate(timeout=60)[0] == "no such thing\n"
    assert process.returncode == 1
    assert len((tmp_path / "child").read_text().split()) == 1


@pytest.mark.parametrize("where", [[], ["without"]])
def test_a_job_that_is_killed_twice_says_so(main, tmp_path, where):
    process = main("os.kill(os.getpid(), 9)", *where)
    assert process.communicate(timeout=60)[0] == "killed twice\n"
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "who,where",
    [(who, "server") for who in ("main", "client", "child", "group")] + [("client", "without")],
)
def test_nothing_is_left_of_what_is_killed(main, tmp_path, who, where, number):
    process = main("time.sleep(600)", where)
    of(tmp_path, "child")
    if who == "group":  # as Ctrl-C does
        os.killpg(process.pid, number)
    elif who == "child":  # which is tried again
        for _ in range(2):
            with suppress(ProcessLookupError):  # which SIGINT ends as an exception does
                os.kill(of(tmp_path, "child"), number)
            time.sleep(0.5)
    else:
        os.kill(process.pid if who == "main" else of(tmp_path, who), number)
    process.communicate(timeout=60)
    assert all_gone(tmp_path)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_job_whose_server_is_killed_is_tried_again_without_it(main, tmp_path):
    process = main("job_server.KILLED in os.environ or time.sleep(600); print('done')")
    server = parent(of(tmp_path, "child"))
    os.kill(server, signal.SIGKILL)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0
    assert len((tmp_path / "child").read_text().split()) == 2
    assert all_gone(tmp_path)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().split()[3])


# --- who may have a job run ---

NOBODY = 65534
# What another user would send: a script of theirs, to be run as the user of the server.
INTRUDER = """
import json, os, socket, sys
directory, script = sys.argv[1:]
os.chdir(directory)
os.setgid(65534)
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect("socket")
print("connected", flush=True)
try:
    socket.send_fds(connection, [b"\\n"], [1, 2])
    job = {"script": script, "directory": "/", "environment": {"HEADCOUNT_PRELOADED": ""}}
    connection.sendall(json.dumps(job).encode() + b"\\n")
    print("answered", len(connection.recv(1)))
except ConnectionError:
    print("answered 0")
"""
IMPOSTOR = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setuid(65534)
listening = socket.socket(socket.AF_UNIX)
listening.bind("socket")
listening.listen()
print("listening", flush=True)
connection, _ = listening.accept()
print(len(connection.recv(1)))
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@as_root
@pytest.mark.parametrize("open_to_all", [False, True])
def test_another_user_has_nothing_run(main, tmp_path, open_to_all):
    """Neither through the directory nor, were that open, by the server."""
    started = main("print(os.environ.get('HOME')); time.sleep(600)")
    of(tmp_path, "child")
    (directory,) = (tmp_path / "temporary").iterdir()
    if open_to_all:
        directory.chmod(0o755)
        (directory / "socket").chmod(0o777)
    script = tmp_path / "theirs.py"
    script.write_text(f"open({str(tmp_path / 'stolen')!r}, 'w')")
    command = [sys.executable, "-c", INTRUDER, str(directory), str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = "connected\nanswered 0\n" if open_to_all else ""
    assert ran.stdout == said and ("PermissionError" in ran.stderr) != open_to_all, ran.stderr
    assert not (tmp_path / "stolen").exists()
    os.kill(started.pid, signal.SIGTERM)


@as_root
def test_a_job_is_not_handed_to_the_server_of_another_user(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    command = [sys.executable, "-c", IMPOSTOR, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as impostor:
        assert impostor.stdout.readline() == "listening\n"
        assert (tmp_path / "socket").stat().st_uid == NOBODY
        monkeypatch.setenv(job_server.ADDRESS, str(tmp_path))
        assert job_server._served({}) is None
        assert impostor.stdout.readline() == "0\n"


def test_the_server_can_be_reached_by_its_user_alone_and_from_no_list(main, tmp_path):
    main("time.sleep(600)")
    of(tmp_path, "child")
    (directory,) = (tmp_path / "temporary").iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    places = {row[6]: row[7] for row in rows if len(row) > 7}  # inode -> path, or @name
    server = Path(f"/proc/{parent(of(tmp_path, 'child'))}/fd")
    inodes = [link.readlink().name.partition("[")[2].rstrip("]") for link in server.iterdir()]
    found = [places[inode] for inode in inodes if inode in places]
    assert found and not any(place.startswith("@") for place in found)


def test_a_long_name_of_the_temporary_directory_is_no_hindrance(main, tmp_path):
    temporary = "t" * 200
    (tmp_path / temporary).mkdir()
    process = main("print('done')", temporary=temporary)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert of(tmp_path, "client") != of(tmp_path, "child")
    assert all_gone(tmp_path) and not list((tmp_path / temporary).iterdir())


# --- what is said of a server that failed ---


@pytest.mark.parametrize(
    "text,why",
    [
        ("from headcount import no_such_module", "No module named 'headcount.no_such_module'"),
        ("from headcount import", "SyntaxError: invalid syntax"),
    ],
)
def test_where_the_server_cannot_import_jobs_go_without_it(main, tmp_path, text, why):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "broken.py").write_text(text)
    process = main("print('done'); sys.exit(3)")
    output, _ = process.communicate(timeout=60)
    assert sorted(output.splitlines())[1:] == ["done"] and process.returncode == 3
    assert output.count("each imports for itself") == 1 and why in output
    assert "Traceback" not in output
    assert of(tmp_path, "parent") == of(tmp_path, "client")


def test_a_server_that_is_killed_while_it_imports_costs_no_job(main, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "slow.py").write_text("from headcount import slow")
    shutil.copytree(REPOSITORY / "src" / "headcount", tmp_path / "src" / "headcount")
    pause = "import os, time\nopen('server', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    (tmp_path / "src" / "headcount" / "slow.py").write_text(pause)
    process = main("print('done')")
    server = of(tmp_path, "server")
    of(tmp_path, "client")
    os.kill(server, signal.SIGKILL)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert of(tmp_path, "parent") == of(tmp_path, "client")


def test_the_kernel_ends_a_job_rather_than_the_server(main, tmp_path):
    main("time.sleep(600)")
    child = of(tmp_path, "child")
    server = parent(child)
    adjusted = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (server, child)]
    assert adjusted[0] < adjusted[1] or adjusted == [1000, 1000]


def test_what_a_job_has_said_before_it_was_killed_stays_in_its_log(tmp_path, monkeypatch):
    def killed(waits):
        raise job_server.KilledError

    monkeypatch.setattr(job_server, "hand_over", killed)
    log = tmp_path / "a.log"
    log.write_text("INFO headcount.progress: masks x prompts: 5 of 9\n")
    planned = {"engine_mb": 500, "mem_mb": 1500}
    resources = SimpleNamespace(**planned, items=planned.items)
    read = job_log.JobLog(log)
    with pytest.raises(SystemExit, match="1"):
        params = SimpleNamespace(code={"packages": {}})
        job.begin(SimpleNamespace(log=[log], resources=resources, params=params))
    assert read.follow() == []
    assert read.progress == "masks x prompts: 5 of 9"
    assert read.failure.startswith("the job was killed, with 500 MB for the computation and again")


@pytest.mark.parametrize(
    "for_memory,why",
    [
        (2, "memory ran out, and the kernel has ended 2 processes for it"),
        (0, "though not for want of memory, as far as the kernel tells: it crashed"),
        (None, "most often because memory ran out"),
    ],
)
def test_a_killed_job_says_whether_memory_ran_out(for_memory, why):
    resources = {"engine_mb": 500, "mem_mb": 1500}
    snakemake = SimpleNamespace(resources=SimpleNamespace(**resources, items=resources.items))
    said = job._killed(snakemake, job_server.KilledError(for_memory))
    assert why in said and "run fewer jobs at once" in said and "mem" in said
    said = job._killed(snakemake, job_server.KilledError(for_memory, "SIGSEGV"))
    assert "crashed twice, by SIGSEGV" in said and "memory" not in said


# --- the code that runs is the code that keys are made of ---


@pytest.fixture
def ranked(tmp_path, monkeypatch):
    """A copy of the scripts, one of which a job runs: the check of its code, after an edit."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    package = REPOSITORY / "src" / "headcount_workflow"
    shutil.copytree(package, tmp_path / "src" / package.name)
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.setattr(job, "SCRIPTS", tmp_path / "scripts")
    monkeypatch.setattr(job_server, "REPOSITORY", tmp_path)
    monkeypatch.setenv(job_server.CODE, "")
    job.note_code()
    described = SimpleNamespace(params=SimpleNamespace(code=job.code("rank.py")))

    def check(name: str, old: str, new: str) -> None:
        path = tmp_path / name
        times = path.stat()
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and tar leave it
        job.check_code(described)

    return check


def test_a_job_whose_code_was_changed_since_its_key_was_made_fails(ranked):
    with pytest.raises(RuntimeError, match="code was changed while it ran: run it again"):
        ranked("scripts/rank.py", "\nfrom ", "\nother = 1\nfrom ")


def test_what_a_jobs_own_script_does_not_reach_fails_no_other(ranked):
    ranked("scripts/rank_controls.py", "from library", "other = 1\nfrom library")
    ranked("scripts/rank.py", "from library", "# a comment\nfrom library")
    ranked("src/headcount_workflow/job.py", "\nfrom ", "\nother = 1\nfrom ")


def test_a_server_that_may_have_imported_other_code_runs_no_job(main, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADCOUNT_CODE", "the state before an edit")
    told = main("print('below', os.getppid())").communicate(timeout=60)[0]
    assert f"below {of(tmp_path, 'client')}" in told and "code was changed" in told


# --- what the code of a script means ---


@pytest.fixture
def settled(monkeypatch, tmp_path):
    """A folder to run in, and code that has not changed for a while."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hashes, "SETTLED", -1)


def test_what_code_means_is_remembered_while_it_stays_as_it_is(settled, monkeypatch):
    first = job.code("rank.py")
    monkeypatch.setattr(source_code, "reached", lambda *_: pytest.fail("the code is read again"))
    assert job.code("rank.py") == first
    monkeypatch.setattr(job_server, "state", lambda: "another")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        job.code("rank.py")


def test_what_can_be_imported_changes_what_is_remembered(settled, monkeypatch, tmp_path):
    (tmp_path / "path").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    before, _ = job._path_state()
    (tmp_path / "path" / "notes.txt").touch()
    assert job._path_state()[0] == before
    (tmp_path / "path" / "numpy.py").touch()
    assert job._path_state()[0] != before


def test_what_rests_on_code_elsewhere_is_not_remembered(settled, monkeypatch):
    """As of a package whose code counts as it lies in a checkout."""
    monkeypatch.setattr(source_code, "_checkout", lambda name, path: "its hash")
    found = job.code("prune.py")
    assert "torch (its code)" in found["packages"]
    assert not (job.MEMORY / "code.json").exists()
