"""Jobs that find torch, transformers and lm-eval already imported.

Importing them costs several CPU seconds, more than most jobs of a small study compute. What runs
where:

- Snakemake calls `start`, which runs a *server*, this file, beside it. It imports what the scripts
  import while Snakemake works out what there is to do, and ends with Snakemake.
- Snakemake starts each job's script in a process of its own, the *client*. `hand_over` sends the
  name of the script, the working directory and the environment (JSON) and the standard output and
  error (descriptors) to the server, waits, and leaves with the job's exit status.
- The server forks a *child* for it, which runs that very file from the beginning; the file itself
  sets up `snakemake`. The child is a process of its own: it can be killed, it frees its memory, it
  holds its own GPU. It ends when the client, the server or Snakemake does.

Without a server the script simply goes on in the client. Snakemake's service rules are not used for
this: all consumers of a service start at once. Nor is multiprocessing's forkserver: its children
get what they run by pickle, in the environment and with the standard output of the server.
"""

import ast
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
from pathlib import Path

ADDRESS = "HEADCOUNT_PRELOADED"  # environment variable with the name of the server's socket
KILLED = "HEADCOUNT_KILLED"  # set for a job whose first try was killed
# What the library imports inside of functions, as lm-eval, or through transformers' lazy modules.
LAZY = {
    "headcount.tasks": ["lm_eval.api.task", "lm_eval.tasks", "datasets"],
    "headcount.model": [
        "lm_eval.models.huggingface",
        "transformers.conversion_mapping",
        "transformers.models.opt.modeling_opt",
    ],
}


def start() -> None:
    """Start the server; it ends with this process, however that ends."""
    if sys.platform == "linux":  # only Linux has sockets that leave nothing behind
        os.environ[ADDRESS] = f"headcount-{uuid.uuid4()}"
        subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True
        )  # its standard input closes when this process is gone


def _place(name: str) -> str:
    """Where the socket of that name is: not among the files, but in Linux's abstract namespace."""
    return f"\0{name}"


# --- the client ---


class KilledError(Exception):
    """A job was killed, and once more when it was tried again; or the server was."""

    def __init__(self, by_itself: bool):
        super().__init__("killed twice" if by_itself else "killed with its server")
        self.by_itself = by_itself


def hand_over() -> None:
    """Have the server run the current script, and leave; return where there is no server.

    A job that is killed, most often for want of memory, is tried once more: with `KILLED` in its
    environment, so that it takes less. Raises `SystemExit`, or `KilledError`.
    """
    script = sys.argv[0]  # what Snakemake wrote; `__file__` names what it was made from
    for environment in ({}, {KILLED: "1"}):
        if not (connection := _connected()):
            if environment:
                break
            return
        environment |= os.environ
        job = {"script": script, "directory": os.getcwd(), "environment": environment}
        status = b""
        with contextlib.suppress(ConnectionError):  # when the child is killed
            socket.send_fds(connection, [b"\n"], [1, 2])
            connection.sendall(json.dumps(job).encode() + b"\n")
            status = connection.recv(1)
        if status:
            sys.exit(status[0])
    # A server that is killed is connected to for some microseconds more: the last word counts.
    raise KilledError(by_itself=_connected() is not None)


def _connected() -> socket.socket | None:
    """A connection to the server, if there is one."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(_place(os.environ[ADDRESS]))
    except (KeyError, OSError):
        return None
    return connection


# --- the server ---


class Job(socketserver.StreamRequestHandler):
    """One connection, handled in a forked child: one job."""

    def handle(self) -> None:
        _end_with_server()
        _, descriptors, _, _ = socket.recv_fds(self.request, 1, 2)
        if not (message := self.rfile.readline()):
            return  # the client is gone
        job = json.loads(message)
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
        threading.Thread(target=self.end_with_client, daemon=True).start()
        self.request.sendall(bytes([run(**job)]))

    def end_with_client(self) -> None:
        self.request.recv(1)  # returns when the other end is closed
        os._exit(1)


def _end_with_server() -> None:
    """Have the kernel kill this process when the one that forked it is gone."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def run(script: str, directory: str, environment: dict[str, str]) -> int:
    """Run a job's script as Snakemake would; the exit status."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    del os.environ[ADDRESS]  # here the script goes on
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
    request_queue_size = 1000


def preload(scripts: Path) -> None:
    """Import what the job scripts import; start no threads, which do not survive a fork."""
    importlib.import_module("snakemake.script")
    for script in scripts.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module == "headcount":
                for alias in node.names:
                    module = f"headcount.{alias.name}"
                    for name in [module, *LAZY.get(module, [])]:
                        importlib.import_module(name)
    if "headcount.evaluations" in sys.modules:
        read_once()
    gc.freeze()  # the children neither collect what is there nor copy its pages for it


def read_once() -> None:
    """Fill the caches of what all jobs read: syntax trees of the code, transformers' old names.

    It imports nothing: of every script, this one's imports are a part of what it means.
    """
    evaluations = sys.modules["headcount.evaluations"]
    for kind in evaluations.KINDS:
        evaluations.code(kind)
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("opt")


def serve() -> None:
    with Server(_place(os.environ[ADDRESS]), Job) as server:  # from here on, clients wait for it
        threading.Thread(target=end_with_parent, daemon=True).start()
        preload(Path(__file__).parent)
        server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the main process is gone
    os.killpg(0, signal.SIGKILL)  # this process and all jobs


if __name__ == "__main__":
    serve()
