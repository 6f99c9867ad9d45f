"""A throwaway SLURM on this machine, from Debian's packages: node n1, and n2 with two GPUs.

The nodes share the machine's cores and files, the GPUs are two devices that everybody has, and
there is no accounting database. As root: `python tests/support/cluster.py start`, and `stop` when
done.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
NODES = ("n1", "n2")
STATE = Path("/var/lib/headcount-slurm")
SOCKET = STATE / "munge" / "socket"
# Where every command of SLURM looks. With it and without a controller, each start of a Snakemake
# that has the executor plugin waits for ten seconds: `stop` removes it.
CONFIGURATION = Path("/etc/slurm/slurm.conf")
# A kill by time or memory is noticed within seconds; finished jobs are remembered for the tests.
SLURM_CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={socket}
SlurmctldPort=6817
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
AccountingStorageType=accounting_storage/none
MinJobAge=3600
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=6821 CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=6822 CPUs=2 RealMemory=8000 Gres=gpu:2
PartitionName=everything Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = """\
NodeName=n2 Name=gpu File=/dev/zero
NodeName=n2 Name=gpu File=/dev/null
"""


def why_not() -> str | None:
    """What speaks against a cluster on this machine, if anything."""
    if os.geteuid() != 0:
        return "a throwaway SLURM needs root"
    if not shutil.which("apt-get"):
        return "a throwaway SLURM is made of Debian's packages"
    if CONFIGURATION.exists():
        return f"there is a SLURM here already: {CONFIGURATION}"
    return None


def start() -> None:
    """Bring the cluster up, both nodes idle; packages are installed where they are not."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        _run("apt-get", "update", "-qq")
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
        _run(*install, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    shutil.rmtree(STATE, ignore_errors=True)
    for directory in ("controller", "munge", *NODES):
        (STATE / directory).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    CONFIGURATION.with_name("gres.conf").write_text(GRES_CONF)
    CONFIGURATION.write_text(SLURM_CONF.format(host=host, state=STATE, socket=SOCKET))
    shutil.chown(STATE / "munge", "munge", "munge")
    options = [f"--socket={SOCKET}", f"--pid-file={STATE}/munge/munged.pid"]
    _run("runuser", "-u", "munge", "--", "munged", *options)
    _run("slurmctld")
    for node in NODES:
        start_node(node)
    wait_for(lambda: states() == ["idle", "idle"], "both nodes to be idle")


def stop() -> None:
    """End all jobs and daemons, and forget the cluster."""
    if (STATE / "slurmctld.pid").exists():
        _run("scancel", "--user=root")
        wait_for(lambda: not _run("squeue", "--noheader"), "jobs to end")
    for name in (*NODES, "slurmctld", "munge/munged"):
        kill(name, signal.SIGTERM)
    CONFIGURATION.unlink(missing_ok=True)
    CONFIGURATION.with_name("gres.conf").unlink(missing_ok=True)


def start_node(node: str) -> None:
    _run("slurmd", "-N", node)


def kill_node(node: str) -> None:
    """The end of a node, as when its power fails: the controller hears of it, nothing reports."""
    kill(node)
    _run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLURMD_NODENAME={node}".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def kill(daemon: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to the controller or to the daemon of a node, and wait for its end."""
    file = STATE / f"{daemon}.pid"
    if not file.exists():
        return
    process = int(file.read_text())
    os.kill(process, number)
    wait_for(lambda: not _runs(process), f"{daemon} to end")


def states() -> list[str]:
    """Of n1 and n2, as `sinfo` calls them."""
    return _run("sinfo", "--noheader", "--Node", "--format=%t").split()


def jobs() -> list[dict[str, str]]:
    """All jobs so far, as `scontrol show job` describes them."""
    lines = _run("scontrol", "--oneliner", "show", "job").splitlines()
    return [
        dict(field.split("=", 1) for field in line.split() if "=" in field)
        for line in lines
        if line.startswith("JobId=")
    ]


def wait_for(condition, what: str, seconds: float = 60) -> None:
    """Return when `condition()` is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def _run(*command: str, **options) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
