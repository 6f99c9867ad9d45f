"""What every script of a rule does around its library call."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headcount_workflow import job_log, job_server

if TYPE_CHECKING:  # nothing is imported before the job is handed over
    import pyarrow as pa

    from headcount.artifacts.lineage import Job
    from headcount.artifacts.source_code import Code

SCRIPTS = Path(__file__).parents[2] / "scripts"
LIBRARY = Path(__file__).parents[1] / "headcount"
MEMORY = Path(".snakemake/headcount")  # among Snakemake's own files, which a cluster's nodes see
MARKER = f"{MEMORY}/stale"  # newer than what has to be made again
SLOW = {"lm-eval", "torch"}  # packages that take seconds to import
task: "Job"  # what this job is, once it has begun
FORCED = "HEADCOUNT_FORCED"  # environment variable: rules and files to make whatever is there
# Of a model's facts, those that stand in what was made with it.
MODEL = {"name", "source", "revision", "fingerprint", "architecture", "layers", "heads", "ffns"}
MODEL |= {"converted", "trust_remote_code", "layout", "window"}


def begin(snakemake: Any) -> None:
    """Go on in a process with everything imported, if there is one; then set up the job's log.

    What the job prints and logs goes to its log file, from which Snakemake's side tells on the
    terminal what it warns of, how far it is, and why it failed. The job reads nothing from the
    terminal.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # who waits has nothing to say
    try:
        # Before anything is imported that takes long.
        job_server.hand_over(waits=not SLOW.isdisjoint(snakemake.params.code["packages"]))
    except job_server.KilledError as error:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{job_log.FAILED}{_killed(snakemake, error)}\n")
        sys.exit(1)
    signal.signal(signal.SIGINT, on_interrupt)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what asks a question gets no answer
    again = job_server.KILLED in os.environ  # what the first try has said stays
    with log.open("a" if again else "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    def report(kind: type, error: BaseException, trace: Any) -> None:
        sys.__excepthook__(kind, error, trace)
        if issubclass(kind, Exception):  # else it was interrupted
            print(f"{job_log.FAILED}{job_log.reason(error)}", file=sys.stderr, flush=True)

    sys.excepthook = report
    hold(check_code, snakemake)
    date_marker()
    from headcount.artifacts import gpus, locks

    global task
    task = described(snakemake)
    locks.take_output(task.directory, task.outputs[0])
    task.own()
    if not is_forced(snakemake):
        if task.problem() is None:
            sys.exit(0)  # an input was made again, and is what it was
        if task.earlier():
            task.take_back()
            sys.exit(0)
    task.keep()
    gpus.take(int(snakemake.resources.get("gpu", 0)))


def _killed(snakemake: Any, error: job_server.KilledError) -> str:
    """What to say of a job that was killed; twice, the second time with half of the memory."""
    if error.by not in (None, "SIGKILL"):
        return f"the job crashed twice, by {error.by}, in a library or the system below Python"
    if error.for_memory:
        why = f"memory ran out, and the kernel has ended {error.for_memory} processes for it"
    elif error.for_memory is None:
        why = "most often because memory ran out"
    else:
        why = "though not for want of memory, as far as the kernel tells: it crashed, or was ended"
    resources, fewer = snakemake.resources, "run fewer jobs at once (`--cores`)"
    if "engine_mb" not in dict(resources.items()):
        return f"the job was killed, and killed again; {why}. If memory is short, {fewer}"
    return (
        f"the job was killed, with {resources.engine_mb} MB for the computation and again with "
        f"{resources.engine_mb // 2} MB; {why}. It was planned to take {resources.mem_mb} MB: "
        f"lower `memory` of its model in the configuration, or {fewer}"
    )


def engine_memory(snakemake: Any) -> float:
    """MB that the computation may hold: half of `memory` once the job was killed."""
    return snakemake.resources.engine_mb / (2 if job_server.KILLED in os.environ else 1)


def date_marker() -> None:
    """See that the marker is no newer than what the job is going to write, which Snakemake checks.

    It is where files that are stale are dated in the future, as by a clock that was wrong.
    """
    with suppress(OSError):  # there is none, or it is another user's
        if os.stat(MARKER).st_mtime > time.time():
            os.utime(MARKER)


# --- what is computed again whatever is there ---


def note_forced(settings: Any, default_target: str) -> set[str]:
    """Note for the jobs of a run what `--forcerun`, `-f` or `-F` names: rules and files.

    `settings` are Snakemake's `DAGSettings`. Returns what is named; `-F` names no job but all.
    """
    named = {*settings.forcerun}
    if settings.forcetargets:
        named |= {*(settings.targets or [default_target])}
    named = {os.path.relpath(name) for name in named}
    os.environ[FORCED] = json.dumps("all" if settings.forceall else sorted(named))
    return named


def is_forced(snakemake: Any) -> bool:
    named = json.loads(os.environ.get(FORCED, "[]"))
    return named == "all" or not {snakemake.rule, *snakemake.output}.isdisjoint(named)


# --- what is read is what the key was made of ---


checks: list[Callable] = []


def hold(check: Callable, *arguments: Any) -> None:
    """Call `check` now, and again before anything is written: it raises where something changed."""
    check(*arguments)
    checks.append(partial(check, *arguments))


def code(script: str) -> dict:
    """What a script and all that it imports mean, and the packages that decide its numbers.

    What was found is remembered for the next start, unless it rests on what lies elsewhere.
    """
    from headcount.artifacts import hashes, source_code

    memory, of_code = hashes.Memory(MEMORY / "code.json"), job_server.state()
    of_path, changed = _path_state()
    place = f"{SCRIPTS / script} {':'.join(sys.path)}"
    if found := memory.get(place, f"{of_code} {of_path}"):
        return found
    sources = source_code.reached([(SCRIPTS, Path(script).stem)], _code_in(of_code))
    found = {"script": script, "meaning": sources.hash(), "packages": sources.packages()}
    own = {file: file.stat().st_ctime for file in job_server.files()}
    is_settled = max(changed, *own.values()) < time.time() - hashes.SETTLED
    is_elsewhere = any(name.endswith(source_code.CHECKOUT) for name in found["packages"])
    if is_settled and not is_elsewhere and sources.files.keys() <= own.keys():
        memory.put(place, f"{of_code} {of_path}", found)
        memory.save()
    return found


_MODULE = re.compile(r"\w+(\.py)?")  # a file or directory that can be imported


def _path_state() -> tuple[str, float]:
    """What changes with what Python finds below `sys.path`; when packages last changed there."""
    from headcount.artifacts import source_code, storage

    places = [*filter(os.path.isdir, sys.path)]
    times = {
        place: os.stat(place).st_mtime for place in places if source_code.is_installed(Path(place))
    }
    names = {
        place: sorted(name for name in os.listdir(place) if _MODULE.fullmatch(name))
        for place in places
        if place not in times
    }
    found = storage.hash_json([sys.version, times, names])
    return found, max(times.values(), default=0.0)


@cache
def _code_in(_state: str) -> "Code":
    """The project's code in one state, of which each file is read once for all scripts."""
    from headcount.artifacts import source_code

    return source_code.Code([SCRIPTS])


def note_code() -> None:
    """Note for the jobs the state of the code, before their keys are computed from it.

    Python would run compiled code that has the size and the second of its file, whatever is in it.
    """
    from headcount.artifacts import source_code

    source_code.forget_compiled(job_server.files())
    os.environ[job_server.CODE] = job_server.state()


def check_code(snakemake: Any) -> None:
    """Raise `RuntimeError` unless the code of the job is that which its key was computed from."""
    wanted = snakemake.params.code
    is_as_noted = os.environ.get(job_server.CODE) == job_server.state()
    if not is_as_noted and code(wanted["script"]) != wanted:
        raise RuntimeError("headcount's code was changed while it ran: run it again")


# --- what the job is ---


def described(snakemake: Any) -> "Job":
    """The job as `lineage` knows it; where things lie (`place`) decides no number."""
    from headcount.artifacts import lineage

    parameters = {key: value for key, value in snakemake.params.items() if key != "place"}
    return lineage.Job(
        rule=snakemake.rule,
        wildcards=dict(snakemake.wildcards.items()),
        parameters=parameters,
        inputs=list(snakemake.input),
        outputs=list(snakemake.output),
        directory=snakemake.config["artifacts"],
    )


def prompts(snakemake: Any) -> "pa.Table":
    """The rows of the job's prompts."""
    from headcount.artifacts import storage

    return storage.read(*snakemake.input.prompts)


def provenance(snakemake: Any, **facts: Any) -> dict:
    """What made an artifact: the job's key, what it is the hash of, wildcards and `facts`."""
    for check in checks:
        check()
    wildcards = dict(snakemake.wildcards.items())
    if "shots" in wildcards:
        wildcards["shots"] = int(wildcards["shots"])
    if "model" in facts:  # where it lies on this machine made no difference
        facts["model"] = {k: v for k, v in facts["model"].items() if k in MODEL}
    return {**wildcards, "key": task.key, "made_of": task.made_of, **facts}
