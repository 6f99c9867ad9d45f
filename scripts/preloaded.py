"""Jobs that find torch, transformers and lm-eval already imported.

Importing them costs several CPU seconds, more than most jobs of a small study compute. `start` runs
a server beside the main Snakemake process; `hand_over`, in the process of a job, asks it to fork a
child that runs the job's script, waits for it, and leaves with its exit status. Each job remains a
process of its own: it can be killed, it frees its memory, it holds its own GPU. Without a server
(on a node of a cluster) the script simply goes on where it is.

Snakemake's service rules are not used for this: all consumers of a service start at once.
"""

import ast
import importlib
import os
import pickle
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ADDRESS = "HEADCOUNT_PRELOADED"  # environment variable with the path of the server's socket
# What the library imports inside of functions, as lm-eval, or through transformers' lazy modules.
LAZY = {
    "headcount.tasks": ["lm_eval.api.task", "lm_eval.tasks", "datasets"],
    "headcount.model": ["lm_eval.models.huggingface", "transformers.models.opt.modeling_opt"],
}


def start() -> None:
    """Start the server; it ends with this process, however that ends."""
    os.environ[ADDRESS] = str(Path(tempfile.mkdtemp(prefix="headcount-"), "socket"))
    subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True
    )  # its standard input closes when this process is gone


def hand_over(snakemake) -> None:
    """Have the server run the current script and exit; return at once where there is no server."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ.get(ADDRESS, ""))
    except OSError:
        return
    script = sys.modules["__main__"].__file__
    job = pickle.dumps((snakemake, script, os.getcwd(), dict(os.environ)))
    socket.send_fds(connection, [len(job).to_bytes(8, "big")], [1, 2])
    connection.sendall(job)
    status = connection.recv(1)  # empty when the child was killed
    os._exit(status[0] if status else 1)


class Job(socketserver.BaseRequestHandler):
    """One connection, handled in a forked child: one job."""

    def handle(self) -> None:
        size, fds, _, _ = socket.recv_fds(self.request, 8, 2)
        with self.request.makefile("rb") as stream:
            job = pickle.loads(stream.read(int.from_bytes(size, "big")))
        for number, fd in enumerate(fds, start=1):
            os.dup2(fd, number)
        threading.Thread(target=self.die_with_client, daemon=True).start()
        self.request.sendall(bytes([run(*job)]))

    def die_with_client(self) -> None:
        self.request.recv(1)  # returns when the other end is closed
        os._exit(1)


def run(snakemake, script: str, directory: str, environment: dict[str, str]) -> int:
    """Run a job's script as Snakemake would; the exit status."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    del os.environ[ADDRESS]  # here the script goes on
    if "torch" in sys.modules:  # imported before this job's OMP_NUM_THREADS was known
        sys.modules["torch"].set_num_threads(snakemake.threads)
    try:
        runpy.run_path(script, init_globals={"snakemake": snakemake}, run_name="__main__")
        return 0
    except SystemExit as leaving:
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

    def process_request(self, request, client_address) -> None:
        preload(Path(__file__).parent)
        super().process_request(request, client_address)


def preload(scripts: Path) -> None:
    """Import, once, what the job scripts import; only import: threads would not survive a fork."""
    for script in scripts.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module == "headcount":
                for alias in node.names:
                    module = f"headcount.{alias.name}"
                    for name in [module, *LAZY.get(module, [])]:
                        importlib.import_module(name)


def serve() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with Server(os.environ[ADDRESS], Job) as server:
        threading.Thread(target=leave_with_parent, daemon=True).start()
        server.serve_forever()


def leave_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the main process is gone
    Path(os.environ[ADDRESS]).unlink(missing_ok=True)
    Path(os.environ[ADDRESS]).parent.rmdir()
    os._exit(0)


if __name__ == "__main__":
    serve()
