"""A workflow that uses headcount as a module behaves as it does without it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml
from study import REPOSITORY, STUDY

MODULE = f"""
configfile: "config.yaml"
module headcount:
    snakefile: {str(REPOSITORY / "Snakefile")!r}
    config: config
use rule * from headcount as hc_*
"""
# `value` is what a test changes of a rule's parameters.
OWN = """
rule good:
    input: "given.txt"
    output: "good.txt"
    params: value={value}
    shell: "cat {{input}} > {{output}}; echo {code} {{params.value}} >> {{output}}"

rule fails:
    output: "fails.txt"
    priority: 10
    shell: "echo half > {{output}}; echo the reason of it; false"

rule after:
    output: "after.txt"
    shell: "sleep 1; touch {{output}}"

rule slow:
    output: "slow.txt"
    shell: "echo half > {{output}}; until test -e go; do sleep 0.1; done; echo done >> {{output}}"

rule settings:
    output: "settings.txt"
    run:
        path = [name for name in os.environ if name.startswith("PYTHON")]
        open(output[0], "w").write(repr((sorted(path), sorted(config["models"]["tiny"]))))
"""


class Host:
    """A workflow with rules of its own, with or without the module."""

    def __init__(self, directory: Path, module: bool):
        self.directory, self.module = directory, module
        directory.mkdir()
        tiny.save_model(directory / "model")
        tiny.save_tasks(directory / "lm_tasks", ("tiny_a", "tiny_b", "tiny_c"), root=directory)
        (directory / "config.yaml").write_text(yaml.safe_dump(STUDY))
        (directory / "given.txt").write_text("given\n")
        self.write()

    def write(self, value: int = 1, code: str = "a") -> None:
        """The host's Snakefile, with a parameter and the code of its first rule."""
        header = MODULE if self.module else 'configfile: "config.yaml"\n'
        text = "import os\n" + header + OWN.format(value=value, code=code)
        (self.directory / "Snakefile").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
            cwd=self.directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        said, _ = process.communicate()
        return process.returncode, said

    def reason(self, *arguments: str) -> str | None:
        """Why the first rule would run again, in Snakemake's words."""
        _, said = self.run("good.txt", "--dry-run", *arguments)
        found = re.search(r"reason: (.*)", said, re.IGNORECASE)
        return found and re.sub(r"[:;].*", "", found[1])

    def path(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """The same workflow without the module and with it."""
    directory = tmp_path_factory.mktemp("hosts")
    return [Host(directory / "without", False), Host(directory / "with", True)]


def equal(hosts, behaviour):
    """What a host does is the same with the module as without."""
    without, with_module = [behaviour(host) for host in hosts]
    assert with_module == without
    return without


@pytest.mark.slow
def test_its_rules_run_again_for_the_same_reasons(hosts):
    def reasons(host):
        assert host.run("good.txt")[0] == 0
        found = [host.reason()]
        host.write(value=2)
        found.append(host.reason())
        host.write(code="b")
        found.append(host.reason())
        host.write()
        host.path("given.txt").write_text("something else\n")
        return [*found, host.reason()]

    nothing, *others = equal(hosts, reasons)
    assert nothing is None and None not in others and len(set(others)) == 3


@pytest.mark.slow
def test_its_failures_are_shown_and_stop_it(hosts):
    def failing(host):
        status, said = host.run("fails.txt", "after.txt", "--scheduler", "greedy")
        shown = "Error in rule fails" in said, "the reason of it" in said, "Exiting" in said
        left = [name for name in ("fails.txt", "after.txt") if host.path(name).exists()]
        return status, shown, left, "stat" in said.lower()

    status, shown, left, _ = equal(hosts, failing)
    assert status == 1 and all(shown) and left == []


@pytest.mark.slow
def test_what_it_left_incomplete_is_refused_and_its_lock_holds(hosts):
    def killed(host):
        process = host.start("slow.txt")
        while not host.path("slow.txt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        # A lock is of the files that a run makes.
        _, locked = host.run("slow.txt", "--rerun-incomplete")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert host.run("--unlock")[0] == 0
        _, incomplete = host.run("slow.txt")
        host.path("slow.txt").unlink()
        refused = "files below seem to be incomplete" in incomplete
        return "Directory cannot be locked" in locked, refused

    assert equal(hosts, killed) == (True, True)


@pytest.mark.slow
def test_it_ends_as_snakemake_does_when_it_is_terminated(hosts):
    def terminated(host):
        host.path("slow.txt").unlink(missing_ok=True)
        process = host.start("slow.txt", "--rerun-incomplete")
        while not host.path("slow.txt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        host.path("go").touch()
        said, _ = process.communicate()
        made = host.path("slow.txt").read_text()
        return process.returncode, "Will exit after finishing" in said, made

    assert equal(hosts, terminated)[1:] == (True, "half\ndone\n")


@pytest.mark.slow
def test_its_jobs_see_its_own_settings(hosts):
    def settings(host):
        assert host.run("settings.txt")[0] == 0
        return host.path("settings.txt").read_text()

    assert "device_map" in equal(hosts, settings)
    assert "headcount" not in hosts[1].run("--summary")[1]
