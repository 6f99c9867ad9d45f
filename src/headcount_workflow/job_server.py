"""Jobs that find torch, transformers and lm-eval already imported.

Importing them costs several CPU seconds, more than most jobs of a small study compute. What runs
where:

- Snakemake calls `start`, which runs a *server*, this file, beside it. It imports what the scripts
  import while Snakemake works out what there is to do, and ends with Snakemake.
- Snakemake starts each job's script in a process of its own, the *client*. `hand_over` sends the
  name of the script, the working directory and the environment (JSON) and the standard output and
  error (descriptors) to the server, waits, and leaves with the job's exit status.
- A job that needs little of that, such as a ranking, does not wait until all is imported: it goes
  on by itself unless the server is ready.
- The server forks a *child* for it, which runs that very file from the beginning; the file itself
  sets up `snakemake`. The child is a process of its own: it can be killed, it frees its memory, it
  holds its own GPU. It ends when the client, the server or Snakemake does.

Without a server, or where it cannot import what it should, the script goes on in a child of the
client, which says how it ended.
The socket lies in a directory that is its user's alone, and both ends ask the system who the other
is: whoever may have a job run can run anything as that user anyway.

Snakemake's service rules are not used for this: all consumers of a service start at once. Nor is
multiprocessing's forkserver: its children get what they run by pickle, in the environment and with
the standard output of the server.
"""

import ast
import contextlib
import ctypes
import fcntl
import gc
import hashlib
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADDRESS = "HEADCOUNT_PRELOADED"  # environment variable with the directory of the server's socket
READY = "ready"  # a file there, once the server has imported everything
HERE = "here"  # its value in a child of the server, which is the process that is to run the script
CODE = "HEADCOUNT_CODE"  # environment variable: the state of the code as keys were made of it
KILLED = "HEADCOUNT_KILLED"  # set for a job whose first try was killed
# What the library imports inside of functions, as lm-eval, or through transformers' lazy modules.
LAZY = {
    "headcount.tasks.loading": ["lm_eval.api.task", "lm_eval.tasks", "datasets"],
    "headcount.models.language_model": [
        "lm_eval.models.huggingface",
        "transformers.conversion_mapping",
        "transformers.models.opt.modeling_opt",
    ],
}
REPOSITORY = Path(__file__).parents[2]
QUEUE = 1000  # clients that may wait for the server to import


def start() -> None:
    """Start the server; it ends with this process, however that ends.

    Where no socket can be made, a line says so and jobs go without.
    """
    if sys.platform != "linux":
        return
    from headcount.artifacts import temporaries

    library = f"{REPOSITORY / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    try:
        directory = temporaries.Directory()  # readable by its user alone
        with socket.socket(socket.AF_UNIX) as listening:
            with _place(directory.name) as place:
                listening.bind(place)
            listening.listen(QUEUE)
            os.environ[ADDRESS] = directory.name
            subprocess.Popen(
                [sys.executable, "-P", __file__, str(listening.fileno())],
                stdin=subprocess.PIPE,  # closes when this process is gone
                stdout=subprocess.DEVNULL,  # what packages say when they are imported
                pass_fds=[listening.fileno()],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": library, "PYTHONUTF8": "1"},
            )
    except OSError as error:
        os.environ.pop(ADDRESS, None)
        go_without(error)
    else:
        _kept.append(directory)


_kept: list = []  # the directory, which goes with this process


def go_without(error: Exception) -> None:
    """Say why every job imports for itself what the server should have imported for all."""
    why = f"{type(error).__name__}: {error}".partition("\n")[0]
    print(
        f"Note: jobs take seconds longer to start, each imports for itself ({why}).",
        file=sys.stderr,
    )


@contextlib.contextmanager
def _place(directory: str) -> Iterator[str]:
    """The address of the socket in a directory; the system takes no path above 107 bytes."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield f"/proc/self/fd/{handle}/socket"
    finally:
        os.close(handle)


def _is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end is of the user of this one."""
    credentials = struct.Struct("iII")  # process, user, group
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    _, user, _ = credentials.unpack(told)
    return user == os.geteuid()


def files() -> list[Path]:
    """The files of the project's code."""
    return sorted([*REPOSITORY.glob("scripts/*.py"), *REPOSITORY.glob("src/headcount*/**/*.py")])


def state() -> str:
    """What changes with any file of the project's code, also where its time is put back."""
    states = [(str(file), file.stat().st_ino, file.stat().st_ctime_ns) for file in files()]
    return hashlib.sha256(repr(states).encode()).hexdigest()


# --- the client ---


class KilledError(Exception):
    """A job was killed, and once more when it was tried again.

    `for_memory`: how many processes the kernel has ended meanwhile for want of memory, if it tells;
    `by`: the name of the signal, if it is known.
    """

    def __init__(self, for_memory: int | None = None, by: str | None = None):
        super().__init__("killed twice")
        self.for_memory, self.by = for_memory, by


def hand_over(waits: bool = True) -> None:
    """Have another process run the current script, and leave; return in the process that is to.

    A script that `waits` has the server import what it needs, however long that takes.

    That is a child of the server, or one of this process where there is no server. A job that is
    killed, most often for want of memory, is tried once more: with `KILLED` in its environment, so
    that it takes less. Raises `SystemExit`, or `KilledError`.
    """
    if sys.platform != "linux" or os.environ.get(ADDRESS) == HERE:
        return
    before = _ended_for_memory()
    environment: dict[str, str]
    by: str | None
    for environment in ({}, {KILLED: "1"}):
        status = _served(environment) if waits or _is_ready() else None
        if status is None:
            if not (child := os.fork()):
                os.environ.update(environment)
                _end_with_parent()
                _end_before_others()
                return
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status >= 0:
            sys.exit(status)
        by = None if status == -UNKNOWN else signal.Signals(-status).name
        if _is_left_alone():
            break
    after = _ended_for_memory()
    for_memory = None if before is None or after is None else after - before
    raise KilledError(for_memory, by)


UNKNOWN = 1000  # in the place of the signal that ended a child of the server


def _served(environment: dict[str, str]) -> int | None:
    """The exit status of the script in the server, below 0 if it was killed; None without one."""
    if not (connection := _connected()):
        return None
    environment = environment | os.environ
    # What Snakemake wrote; `__file__` names what it was made from.
    job = {"script": sys.argv[0], "directory": os.getcwd(), "environment": environment}
    begun = status = b""
    with contextlib.suppress(ConnectionError):  # when the child is killed, or the server
        socket.send_fds(connection, [b"\n"], [1, 2])
        connection.sendall(json.dumps(job).encode() + b"\n")
        begun = connection.recv(1)
        status = connection.recv(1)
    if not begun:
        return None
    return status[0] if status else -UNKNOWN


def _is_ready() -> bool:
    """Whether there is a server that has imported everything."""
    return ADDRESS in os.environ and Path(os.environ[ADDRESS], READY).exists()


def _is_left_alone() -> bool:
    """Whether Snakemake, which holds a lock on the directory of the server, is gone."""
    if ADDRESS not in os.environ:
        return False
    try:
        handle = os.open(os.environ[ADDRESS], os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the server has removed it
    return True


def _ended_for_memory() -> int | None:
    """How many processes the kernel has ended since it started because memory ran out."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE):
            return int(found[1])
    return None


def _connected() -> socket.socket | None:
    """A connection to the server, if there is one, and it is this user's."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _place(os.environ[ADDRESS]) as place:
            connection.connect(place)
    except (KeyError, OSError):
        return None
    return connection if _is_own(connection) else None


# --- the server ---


class JobHandler(socketserver.StreamRequestHandler):
    """One connection, handled in a forked child: one job."""

    def handle(self) -> None:
        _end_with_parent()
        _, descriptors, _, _ = socket.recv_fds(self.request, 1, 2)
        if not (message := self.rfile.readline()):
            return  # the client is gone
        job = json.loads(message)
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
        _end_before_others()
        self.request.sendall(b"\n")  # begun: from here on, an end without a status is a kill
        threading.Thread(target=self.end_with_client, daemon=True).start()
        self.request.sendall(bytes([run(**job)]))

    def end_with_client(self) -> None:
        self.request.recv(1)  # returns when the other end is closed
        os._exit(1)


def _end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it is gone."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _end_before_others() -> None:
    """Have the kernel, if it lacks memory, end this job rather than the server or Snakemake."""
    with contextlib.suppress(OSError):
        adjustment = Path("/proc/self/oom_score_adj")
        adjustment.write_text(str(min(int(adjustment.read_text()) + 300, 1000)))


def run(script: str, directory: str, environment: dict[str, str]) -> int:
    """Run a job's script as Snakemake would; the exit status."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    os.environ[ADDRESS] = HERE
    if "torch" in sys.modules:  # imported, as numpy, before this job's OMP_NUM_THREADS was known
        from threadpoolctl import threadpool_limits

        threads = int(environment.get("OMP_NUM_THREADS", 1))
        sys.modules["torch"].set_num_threads(threads)
        threadpool_limits(threads)
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return int(leaving.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 1000  # Snakemake decides how many jobs run

    def __init__(self, listening: int):
        super().__init__("", JobHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=listening)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return _is_own(request)


def preload() -> None:
    """Import what the job scripts import; start no threads, which do not survive a fork."""
    importlib.import_module("snakemake.script")
    for script in REPOSITORY.glob("scripts/*.py"):
        for node in ast.walk(ast.parse(script.read_bytes())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("headcount"):
                _import(str(node.module), [alias.name for alias in node.names])
    for module in {*LAZY} & {*sys.modules}:
        for name in LAZY[module]:
            importlib.import_module(name)
    if "headcount.scores.evaluation_store" in sys.modules:
        read_once()
    gc.freeze()  # the children neither collect what is there nor copy its pages for it


def _import(module: str, names: list[str]) -> None:
    """Import a module, and those of `names` in it that are modules."""
    package = importlib.import_module(module)
    for name in names:
        if hasattr(package, "__path__") and not hasattr(package, name):
            importlib.import_module(f"{module}.{name}")


def read_once() -> None:
    """Fill the caches of what all jobs read: syntax trees of the code, transformers' old names.

    It imports nothing: of every script, this one's imports are a part of what it means.
    """
    evaluations = sys.modules["headcount.scores.evaluation_store"]
    for kind in evaluations.KINDS:
        evaluations.code(kind)
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("opt")


def serve(listening: int) -> None:
    with Server(listening) as server:
        threading.Thread(target=end_with_parent, daemon=True).start()
        try:
            preload()
            # The state that was noted before this began is the only one that can be imported here.
            if os.environ.get(CODE, state()) != state():
                raise RuntimeError("headcount's code was changed meanwhile")
        except Exception as error:  # of a package; each job that needs it will say so
            go_without(error)
        else:
            Path(os.environ[ADDRESS], READY).touch()
            server.serve_forever()


def end_with_parent() -> None:
    os.read(0, 1)  # returns when the main process is gone
    shutil.rmtree(os.environ[ADDRESS], ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # this process and all jobs


if __name__ == "__main__":
    serve(int(sys.argv[1]))
