"""The processes of a study, as /proc shows them: what tests of faults look for and kill."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from study import Study

MARK = "HEADCOUNT_TEST"  # environment variable that every process of a run has
SAFETY_NET = 20  # seconds


class Run:
    """A run of Snakemake in a process group of its own, with a TMPDIR of its own."""

    def __init__(self, study: Study, tmp: Path, *arguments: str):
        self.mark = f"{MARK}={study.directory}"
        self.log = study.directory / "terminal.log"
        environment = {**os.environ, MARK: str(study.directory), "TMPDIR": str(tmp)}
        with self.log.open("w") as log:
            self.main = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
                cwd=study.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
                # a shell's background processes ignore it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def told(self) -> str:
        return self.log.read_text()

    def processes(self) -> dict[int, tuple[int, str]]:
        """Process -> its parent, and its command line."""
        self.main.poll()  # a process that nobody waited for is still listed
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() not in (place / "environ").read_bytes().split(b"\0"):
                    continue
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            except (OSError, IndexError):  # it has ended
                continue
            if command:  # a zombie has none
                found[int(place.name)] = (int(parent), command)
        return found

    def find(self, role: str) -> list[int]:
        """The processes of a role: main, server, job (forked by the server) or client of a job."""
        if role == "main":
            return [self.main.pid]
        there = self.processes()
        of_server = {pid for pid, (_, command) in there.items() if "job_server.py" in command}
        if role == "client":
            return [pid for pid, (_, command) in there.items() if ".snakemake/scripts" in command]
        forked = role == "job"
        return sorted(pid for pid in of_server if (there[pid][0] in of_server) == forked)

    def interrupt(self) -> None:
        """Ctrl-C, and again if Snakemake was where it takes no notice."""
        for _ in range(3):
            if self.main.poll() is None:
                os.killpg(self.main.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    self.main.wait(4)

    def ended(self) -> float:
        """Wait until no process is left; the seconds that it took."""
        start = time.monotonic()
        while there := self.processes():
            assert time.monotonic() - start < SAFETY_NET, (there, self.told[-3000:])
            time.sleep(0.05)
        return time.monotonic() - start
