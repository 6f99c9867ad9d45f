"""What people see of a run: how far it is, what failed and why; the log file has everything."""

import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest
import yte
from rich.console import Console
from study import REPOSITORY

from headcount_workflow import display, job_log, run_state, screen

# A workflow whose jobs do as they are told, instead of a study's, which take minutes.
SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "src")!r})
from headcount_workflow import display

include: "tasks.smk"
include: "figures.smk"

def explain(exception):
    targets = ", ".join(workflow.dag_settings.targets)
    return f"nothing makes {{targets}}" if exception == "MissingRuleException" else None

SHOWN = display.attach(workflow, lambda: print("the summary"), explain)

onsuccess:
    SHOWN.end(succeeded=True)

onerror:
    SHOWN.end(succeeded=False)

rule all:
    default_target: True
    input:
        "tables/summary.parquet",
"""
TASKS = """
rule prepare:
    output: "tasks/{name}"
    log: "logs/{name}.log"
    message: "Prompts of {wildcards.name}"
    script: "work.py"
"""
FIGURES = """
rule draw:
    input: "tasks/a", "tasks/b"
    output: "tables/{name}.parquet"
    log: "logs/{name}.log"
    message: "Draw {wildcards.name}"
    script: "work.py"
"""
# As `job.begin` does it.
WORK = """
import sys, time
from pathlib import Path
sys.path.insert(0, {library!r})
from headcount_workflow import job_log
log = Path(snakemake.log[0]).open("w")
def tell(line):
    print(line, file=log, flush=True)
def report(kind, error, trace):
    tell("Traceback (most recent call last):")
    if issubclass(kind, Exception):
        tell(job_log.FAILED + job_log.reason(error))
sys.excepthook = report
plan = Path("plan-" + snakemake.output[0].split("/")[-1])
exec(plan.read_text() if plan.exists() else "")
Path(snakemake.output[0]).write_text("made")
"""


class Workflow:
    """Jobs `a` and `b` prepare, `summary.parquet` is drawn of both."""

    def __init__(self, directory):
        self.directory = directory
        work = WORK.format(library=str(REPOSITORY / "src"))
        texts = {"Snakefile": SNAKEFILE, "tasks.smk": TASKS, "figures.smk": FIGURES}
        for name, text in {**texts, "work.py": work}.items():
            (directory / name).write_text(text)

    def plan(self, name: str, code: str) -> None:
        """What the job of that name does before it writes its file."""
        (self.directory / f"plan-{name}").write_text(code)

    logger = ("--logger", "headcount")

    def start(self, output, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *self.logger]
        command += ["--keep-going", *arguments]
        return subprocess.Popen(
            command, cwd=self.directory, stdout=output, stderr=output, start_new_session=True
        )

    def run(self, *arguments: str) -> str:
        """What a run says where there is no terminal."""
        said = self.directory / "said"
        with said.open("w") as file:
            self.start(file, *arguments).wait()
        return said.read_text()

    def show(self, *arguments: str, until: str | None = None) -> str:
        """What a run writes to a terminal of 80 columns; with `until`, Ctrl-C when it says that."""
        ours, its = pty.openpty()
        ioctl(its, TIOCSWINSZ, pack("HHHH", 30, 80, 0, 0))
        process = self.start(its, *arguments)
        os.close(its)
        shown = b""
        with suppress(OSError):  # when the other end is closed
            while data := os.read(ours, 65536):
                shown += data
                if until and until in shown.decode(errors="ignore"):
                    os.killpg(process.pid, signal.SIGINT)
                    until = None
        process.wait()
        os.close(ours)
        return shown.decode()

    @property
    def log(self) -> str:
        """Snakemake's own log file of the last run."""
        return max(self.directory.glob(".snakemake/log/*.log")).read_text()


def lines(screen: str) -> list[str]:
    """The lines that were ever on a screen, without colours and the like, each once."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    return [*dict.fromkeys(line.rstrip() for line in re.split(r"[\r\n]+", plain))]


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


# --- what a log says, and the screen ---


def test_a_log_is_read_as_it_grows_and_not_what_an_earlier_run_has_left(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("FAILED: of an earlier run\n")
    log = job_log.JobLog(path)
    assert log.follow() == [] and not log.begun and log.failure is None
    path.write_text(
        "WARNING headcount.models.loading: short\nand slow\nINFO headcount.progress: 1 of 9\n"
    )
    assert log.follow() == ["short\nand slow"] and log.begun
    with path.open("a") as file:
        file.write("INFO headcount.progress: 2 of 9\nWARNING transformers: not ours\n")
    assert log.follow() == [] and log.progress == "2 of 9"
    path.write_text("Traceback ...\nKeyError: 'x'\nFAILED: KeyError: 'x'\n")  # begun again
    assert log.follow() == [] and log.failure == "KeyError: 'x'"


def test_the_reason_is_the_sentence_of_the_exception_or_has_its_name():
    assert job_log.reason(ValueError("there is no such field")) == "there is no such field"
    assert job_log.reason(KeyError("field")) == "KeyError: 'field'"
    assert job_log.reason(MemoryError()) == "MemoryError"


def begun(tmp_path, jobs: int):
    """A run of ten jobs of two stages, `jobs` of which have been started."""
    run = run_state.Run({"prepare": "tasks", "draw": "figures"}, {"prepare": 8, "draw": 2})
    for number in range(jobs):
        log = tmp_path / f"{number}.log"
        message = f"Prompts of {'a long name of a task ' * 4}{number}"
        run.begin({"rule_name": "prepare", "jobid": number, "rule_msg": message, "log": [str(log)]})
        log.write_text("INFO headcount.progress: masks x prompts: 300 of 1200 (25 %)\n")
    run.follow()
    return run


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_the_terminal(tmp_path, width):
    run = begun(tmp_path, 8)
    run.finish(0)
    run.fail([1], None)
    console = Console(width=width, file=StringIO())
    console.print(screen.screen(run, height=6))
    shown = console.file.getvalue().splitlines()
    assert max(map(len, shown)) <= width and len(shown) <= 3 + 1 + 6
    assert re.match(r"tasks +\S+ +1/8 +\S+/min +\S+ left", shown[0])
    assert re.match(r"figures +0/2$", shown[1].rstrip())
    assert shown[3].rstrip() == "6 running, 1 failed"
    assert re.match(r"  Prompts of a long .*\d\d:\d\d$", shown[4])
    assert shown[5].rstrip() == "    masks x prompts: 300 of 1200 (25 %)"
    assert shown[-1].rstrip() == "  and 4 more"


def test_of_a_group_the_job_that_ran_last_has_failed_and_a_retry_is_no_failure(tmp_path):
    run = begun(tmp_path, 3)
    os.utime(tmp_path / "1.log", (2e9, 2e9))
    (failure,) = run.fail([0, 1, 2], "it was over its time limit")
    assert failure.name.endswith("1") and failure.sentence() == "it was over its time limit"
    entry = {"rule_name": "prepare", "jobid": 1, "rule_msg": "again", "log": ["1.log"]}
    run.begin(entry)
    assert not run.failures


# --- runs ---


SLOW = """
for done in (300, 600):
    rest = "evaluation/s, 00:36 left"
    tell(f"INFO headcount.progress: masks x prompts: {done} of 1200 ({done // 12} %), 25.00 {rest}")
    time.sleep(1.2)
"""


@pytest.mark.slow
def test_without_a_terminal_there_is_a_line_for_each_stage_and_the_summary(workflow):
    said = workflow.run()
    assert re.fullmatch(
        r"3 jobs: tasks 2, figures 1\n"
        r"tasks: 2 of 2, 00:\d\d\nfigures: 1 of 1, 00:\d\d\n"
        r"Done: 3 jobs in 00:\d\d.\nthe summary\n",
        said,
    )
    assert "Reason: Missing output files" in workflow.log  # of Snakemake's own, nothing is missing
    assert "3 jobs: tasks 2" in workflow.log
    again = workflow.run()
    assert re.fullmatch(r"Nothing to be done .*\nthe summary\n", again)
    assert "summary" not in workflow.run("tasks/a")


@pytest.mark.slow
def test_a_terminal_shows_how_far_stages_and_long_jobs_are(workflow):
    workflow.plan("a", SLOW)
    shown = lines(workflow.show())
    assert max(map(len, shown)) <= 80
    assert "    masks x prompts: 300 of 1200 (25 %), 25.00 evaluation/s, 00:36 left" in shown
    assert "    masks x prompts: 600 of 1200 (50 %), 25.00 evaluation/s, 00:36 left" in shown
    assert any(re.fullmatch(r"  Prompts of a +00:0\d", line) for line in shown)
    assert any(re.match(r"tasks +\S+ +1/2 +\S+/min +\S+ left", line) for line in shown)
    assert any(re.match(r"all +\S+ +3/3 +\S+/min +00:\d\d", line) for line in shown)
    running = [i for i, line in enumerate(shown) if re.fullmatch(r"\d running", line)]
    assert shown.index("the summary") > max(running)
    assert not [line for line in shown if "Reason" in line]
    assert "Reason: Missing output files" in workflow.log


FAILING = """
tell("WARNING headcount.models.language_model: its window is short\\nand that is all")
raise ValueError("there is no field 'chioces': correct doc_to_choice")
"""


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_failures_are_told_in_one_block_at_the_end(workflow, terminal):
    workflow.plan("a", FAILING)
    workflow.plan("b", "time.sleep(1)")
    said = workflow.show() if terminal else workflow.run()
    assert "Traceback" not in said and "CalledProcessError" not in said
    said = "\n".join(lines(said))
    reason = "there is no field 'chioces': correct doc_to_choice"
    assert (
        f"Prompts of a: its window is short\nand that is all\nPrompts of a failed: {reason}" in said
    )
    block = [
        "1 of 3 jobs are done, 1 failed:",
        "  Prompts of a",
        f"    {reason}",
        "    log: logs/a.log",
        "    not run because of it: figures 1",
        "What was done is kept. Once the causes are fixed, the same command continues from there.",
    ]
    assert said.endswith("\n".join(block) + "\n" * said.endswith("\n")), said
    assert "CalledProcessError" in workflow.log and block[1] in workflow.log
    assert "Traceback" in (workflow.directory / "logs/a.log").read_text()
    (workflow.directory / "plan-a").unlink()
    assert "Done: 2 jobs" in workflow.run()


@pytest.mark.slow
def test_a_job_without_a_last_word_and_one_whose_file_is_missing_are_told(workflow):
    (workflow.directory / "logs").mkdir()
    (workflow.directory / "logs/a.log").write_text("FAILED: what an earlier run has left\n")
    workflow.plan("a", "import os, signal; os.remove('logs/a.log'); os.kill(os.getpid(), 9)")
    workflow.plan("b", "snakemake.output[0] = 'elsewhere'")
    said = workflow.run()
    assert re.search(
        r"2 failed:\n\n  Prompts of (a|b)\n    it ended without an error message", said
    ), said
    assert "what an earlier run" not in said
    assert "MissingOutputException" in said or "missing" in said


@pytest.mark.slow
def test_a_run_that_is_broken_off_says_what_is_kept_and_blames_no_job(workflow):
    workflow.plan("a", f"{SLOW}time.sleep(60)")
    shown = "\n".join(lines(workflow.show(until="1/2")))
    assert (
        "Interrupted: 1 of 3 jobs are done and kept; the same command continues from there."
        in shown
    )
    assert "failed" not in shown


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_without_their_reasons(workflow):
    said = workflow.run("--dry-run")
    assert re.search(r"^prepare +2\n", said, re.MULTILINE)
    assert "\nPrompts of a\n" in said and "Reason" not in said and said.count("Job stats") == 1
    assert "`headcount why FILE`" in said


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--verbose", "--printshellcmds"])
def test_who_asks_for_more_has_snakemakes_own_output(workflow, option):
    said = workflow.run(option)
    assert "Reason: Missing output files" in said and "Done: 3 jobs" in said


@pytest.mark.slow
def test_quiet_runs_are_quiet(workflow):
    assert workflow.run("--quiet", "all") == ""
    (workflow.directory / "tables/summary.parquet").unlink()
    assert re.fullmatch(r"Done: 1 jobs in .*\nthe summary\n", workflow.run("--quiet", "progress"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--verbose",)])
def test_a_target_that_no_rule_makes_is_told_in_our_words(workflow, options):
    said = workflow.run("elsewhere/summary.parquet", *options)
    assert "nothing makes elsewhere/summary.parquet" in said
    assert ("No rule" in said) == ("--verbose" in options)  # which shows the traceback


@pytest.mark.slow
def test_a_first_failure_says_nothing_of_a_backup(workflow):
    rules = workflow.directory / "tasks.smk"
    rules.write_text(rules.read_text().replace('"tasks/{name}"', 'update("tasks/{name}")'))
    workflow.plan("a", FAILING)
    said = workflow.run("tasks/a")
    assert "1 failed" in said and "restore" not in said and "no backup found" in workflow.log


@pytest.mark.slow
def test_what_is_no_run_says_what_snakemake_says(workflow):
    assert "prepare" in workflow.run("--list-rules")
    assert "Unlocked working directory" in workflow.run("--unlock")


# --- without the plugin, and what it rests on ---


@pytest.mark.slow
def test_without_the_plugin_snakemake_says_it_all_and_the_summary_comes_all_the_same(workflow):
    workflow.logger = ()
    said = workflow.run()
    assert "steps (100%) done" in said and said.count("the summary") == 1


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_profile_asks_for_the_plugin_where_it_is_installed(monkeypatch, is_installed):
    """Snakemake refuses the name of a plugin that it does not find."""
    found = importlib.util.find_spec
    hidden = "snakemake_logger_plugin_headcount"
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == hidden and not is_installed else found(name),
    )
    profile = yte.process_yaml((REPOSITORY / "workflow/profiles/default/config.yaml").read_text())
    assert profile.get("logger") == (["headcount"] if is_installed else None)


def test_words_that_are_looked_for_are_those_of_snakemake():
    """Where no event tells what a message is about: those of this version, as it spells them."""
    words = [*display.KEPT, *display.DROPPED, *display.BEFORE_A_RUN, *display.BESIDE_A_PLAN]
    packages = [Path(importlib.util.find_spec("snakemake").origin).parent]
    try:
        packages.append(
            Path(importlib.util.find_spec("snakemake_executor_plugin_slurm").origin).parent
        )
    except AttributeError:  # studies on one machine
        words.remove("SLURM account")
    code = "".join(path.read_text() for home in packages for path in home.rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code)  # texts over several lines
    # Snakemake passes on what Python says of a script that ended badly.
    code += "".join(str(subprocess.CalledProcessError(status, "job")) for status in (1, -9))
    assert [text for text in (*words, display.END_OF_A_PLAN) if text not in code] == []
