# What is stale, decided by content (headcount.artifacts.lineage), and how Snakemake is told.
#
# Inputs are `ancient`, their times decide nothing, but for those that this run is going to make
# (`current` in common.smk). Each rule has one more input, a marker, a file that is newer than any
# output: `ancient` too for a job whose outputs are what the study asks for, and not for one that has to
# run. So nothing is written to tell Snakemake, neither contents nor times of artifacts, and what is
# only looked at (`-n`, `--summary`, `--report`, `--lint`) stays as it was.
import time
import uuid
from difflib import get_close_matches
from functools import cache
from itertools import product
from tempfile import gettempdir

from headcount.artifacts import gpus, lineage, locks, present, temporaries
from headcount.messages import did_you_mean
from snakemake.io import apply_wildcards
from snakemake.iocontainers import Wildcards

MARKER = job.MARKER

# Wildcard -> the values that it has in this study, where the rule allows them.
VALUES = {
    "model": list(config["models"]),
    "task": [*STUDIED, *HELDOUT],
    "shots": [str(shots) for shots in config["shots"]],
    "split": list(spec.SPLITS),
    "component": ["heads", "ffns", "combined"],
    "across": ["cross_task", "cross_shot", "reliability"],
    "kind": ["prefix_matching", "copying"],
    "page": PAGES,
}


def jobs_of(step):
    """The jobs that a rule, `step`, has in this study."""
    names = sorted(step.wildcard_names)
    allowed = {
        name: re.compile(step.wildcard_constraints.get(name, ".+")) for name in names
    }
    for values in product(*(VALUES[name] for name in names)):
        named = dict(zip(names, values))
        if all(allowed[name].fullmatch(value) for name, value in named.items()):
            yield described(step, named)


def described(step, named):
    """One job as the library knows it."""
    wildcards = Wildcards(fromdict=named)

    def of_job(item):
        return item(wildcards) if callable(item) else item

    # Not by `expand_input` and its like, which take ten times as long.
    inputs = [of_job(item) for item in step.input]
    inputs = [[item] if isinstance(item, str) else item for item in inputs]
    return lineage.Job(
        step.name,
        named,
        parameters={
            key: of_job(item) for key, item in step.params.items() if key != "place"
        },
        inputs=[str(path) for several in inputs for path in several],
        outputs=[apply_wildcards(str(path), named) for path in step.output],
        directory=config["artifacts"],
        places=PLACES,
    )


def is_wanted(task, split, shots):
    """Whether the study needs a task's prompts of a split, which its rule could always make."""
    return split == "evaluation" or CHECKED.request(task).calibrate


PLACES = {}
# Where this is a module, the other rules are none of ours.
MADE = [
    step
    for step in workflow.rules
    if step.script and Path(step.snakefile).is_relative_to(HOME)
]


def not_made(targets):
    """What to say of targets that nothing makes, most likely names mistyped; None if there are none."""
    names = {step.name for step in workflow.rules}
    unknown = [
        target
        for target in map(str, targets)
        if target not in names
        and not any(step.is_producer(target) for step in workflow.rules)
    ]
    if not unknown:
        return None
    made = [file for job in JOBS.values() for file in job.outputs]
    lines = [f"  {target}{closest(target, [*names, *made])}" for target in unknown]
    return "\n".join(["This study does not make:", *lines])


def explained(exception):
    """What an exception of Snakemake comes from, by its name; None where Snakemake says it well."""
    if exception == "MissingRuleException":
        return not_made(workflow.dag_settings.targets)
    if exception == "ProtectedOutputException":
        return REFUSED or protected(remade())
    return None


def protected(paths):
    """What to say of those that are there and this user may not write; None if there are none."""
    found = sorted(
        path for path in paths if os.path.exists(path) and not os.access(path, os.W_OK)
    )
    if not found:
        return None
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")
    return (
        f"Write-protected, most likely by another user: {shown}. "
        f"Let that user run `chmod -R g+rwX {config['artifacts']}`, and `umask 002` before the next "
        "study, or let `artifacts` name another folder"
    )


def folders(jobs):
    """The folders, as far as they are there, that jobs of Snakemake write in."""
    parents = {Path(file).parent for one in jobs for file in (*one.output, *one.log)}
    while missing := {folder for folder in parents if not folder.exists()}:
        parents = parents - missing | {folder.parent for folder in missing}
    return map(str, parents)


def closest(target, known):
    """A suggestion: the file of a name without directories, or else what is spelt alike."""
    if (relative := os.path.relpath(target)) in known:
        return f": did you mean {relative}?"  # Snakemake knows files by the names in the rules
    if Path(target).name == target:
        pictures_last = sorted(known, key=lambda file: file.endswith(".png"))
        files = {Path(file).stem: file for file in pictures_last}
        if names := get_close_matches(target, files, n=1):
            return f": did you mean {files[names[0]]}?"
    return did_you_mean(target, known)


JOBS = {}  # rule and wildcards -> job
if workflow.is_main_process:
    for step in MADE:
        for one in jobs_of(step):
            JOBS[step.name, *sorted(one.wildcards.items())] = one
    try:
        STATE = lineage.examine(JOBS.values(), job.MEMORY / "artifacts.json")
    except IsADirectoryError as error:
        raise WorkflowError(
            f"{error.filename} is a directory, where a file of the study belongs: move it away"
        )
    except OSError as error:
        raise WorkflowError(str(error))
    # Tasks whose prompts are there were examined as these were rendered.
    CHECKED.check_tasks(
        sorted(
            {
                one.wildcards["task"]
                for one in (*(one.job for one in STATE.stale), *STATE.missing)
                if one.rule == "prepare_task" and is_wanted(**one.wildcards)
            }
        )
    )
    refuse(CHECKED)
    for damage in filter(None, (one.damage for one in STATE.stale)):
        logger.warning(f"Note: {damage}; it is made again.")
    if file := os.environ.get(lineage.ASKED):
        lineage.tell(STATE.stale, config["artifacts"], file)


def marker(step):
    """An input function: the marker, which is `ancient` unless the job of a rule, `step`, has to run."""

    def file(wildcards):
        if not workflow.is_main_process:
            return [ancient(MARKER)] if os.path.exists(MARKER) else []
        one = JOBS.get((step.name, *sorted(wildcards.items())))
        return MARKER if one and one.outputs[0] in remade() else ancient(MARKER)

    return file


@cache
def remade():
    """The outputs of jobs that have to run; Snakemake asks as it looks for what there is to do."""
    settings, first = workflow.dag_settings, [one.job for one in STATE.stale]
    is_run = workflow.execution_settings and not (workflow.dryrun or workflow.touch)
    if is_run:
        begin_run()
    # A host workflow's lock is not ours: there a job takes back its own outputs.
    if not MAIN or (is_run and REFUSED):
        first += STATE.replaced
    forced = job.note_forced(settings, workflow.default_target)
    first += [
        one
        for one in JOBS.values()
        if one.rule in forced or not forced.isdisjoint(one.outputs)
    ]
    mark(first)
    having_to_run = lineage.following(JOBS.values(), first)
    return {path for one in having_to_run for path in one.outputs}


def mark(first):
    """Write the marker anew: newer than what jobs remake, and of a content that Snakemake never saw."""
    paths = [path for one in first for path in one.outputs if os.path.exists(path)]
    newest = max([time.time(), *(os.stat(path).st_mtime + 1 for path in paths)])
    try:
        os.makedirs(os.path.dirname(MARKER), exist_ok=True)
        Path(MARKER).write_text(uuid.uuid4().hex)
        os.utime(MARKER, (newest, newest))
    except OSError as error:
        raise WorkflowError(f"Snakemake cannot be told what is stale: {error}")


REFUSED = None  # why this run may not write, which `onstart` says


def begin_run():
    """Prepare what jobs need, before Snakemake looks at what there is."""
    global REFUSED
    # Half-written files of jobs that were killed; those of jobs that still run stay.
    temporaries.sweep(config["artifacts"], below=True)
    temporaries.sweep(gettempdir())
    try:
        REFUSED = claim()
    except OSError as error:  # no room, or no right to write there
        REFUSED = str(error)
    if MAIN and any(model["gpus"] for model in config["models"].values()):
        # Snakemake does not limit what it was not told of: jobs would share a GPU.
        if workflow.local_exec and "gpu" not in workflow.global_resources:
            workflow.global_resources["gpu"] = len(gpus.visible()) or 1
    if workflow.local_exec and not REFUSED:
        job_server.start()  # beside the work of finding out what there is to do


def claim():
    """Become the run that writes the artifacts, as the study asks for them; else why not, in words."""
    if MAIN and (other := locks.take(config["artifacts"])):
        return f"{config['artifacts']} is being written by another run of headcount: {other}"
    present.note(JOBS.values(), config["artifacts"])
    if MAIN:
        for one in STATE.replaced:
            one.take_back()
        lineage.forget(config["artifacts"])
    return None


for step in MADE:
    step.set_input(marker(step))
