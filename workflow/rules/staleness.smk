# What is stale, decided by content. Snakemake goes by times alone; `settle` gives the artifacts times
# by what they are made of, before Snakemake looks at them. See headcount.lineage.
from difflib import get_close_matches
from itertools import product
from tempfile import gettempdir

from headcount import gpus, lineage, locks, present, temporaries
from headcount.suggestions import did_you_mean
from snakemake.iocontainers import Wildcards
from snakemake.settings.types import RerunTrigger

# Wildcard -> the values that it has in this study, where the rule allows them.
VALUES = {
    "model": list(config["models"]),
    "task": [*STUDIED, *HELDOUT],
    "shots": [str(shots) for shots in config["shots"]],
    "split": list(task_kinds.SPLITS),
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
    inputs, *_ = step.expand_input(wildcards)
    outputs, _ = step.expand_output(wildcards)
    params, _ = step.expand_params(wildcards, inputs, outputs, None)
    return lineage.Job(
        step.name,
        named,
        parameters={key: value for key, value in params.items() if key != "place"},
        inputs=[str(path) for path in inputs],
        outputs=[str(path) for path in outputs],
        directory=config["artifacts"],
        places=PLACES,
    )


PLACES = {}
# Where this is a module, the other rules are none of ours.
MADE = [
    step
    for step in workflow.rules
    if step.script and Path(step.snakefile).is_relative_to(HOME)
]


def check_targets(targets):
    """A target that nothing makes is a name mistyped, most likely: the closest is told."""
    names = {step.name for step in workflow.rules}
    unknown = [
        target
        for target in map(str, targets)
        if target not in names
        and not Path(target).exists()
        and not any(step.is_producer(target) for step in workflow.rules)
    ]
    if unknown:
        made = [file for step in MADE for one in jobs_of(step) for file in one.outputs]
        raise WorkflowError(
            "This study does not make:",
            *(f"  {target}{closest(target, [*names, *made])}" for target in unknown),
        )


def closest(target, known):
    """A suggestion: the file of a name without directories, or else what is spelt alike."""
    if Path(target).name == target:
        pictures_last = sorted(known, key=lambda file: file.endswith(".png"))
        files = {Path(file).stem: file for file in pictures_last}
        if names := get_close_matches(target, files, n=1):
            return f": did you mean {files[names[0]]}?"
    return did_you_mean(target, known)


class ByTimes(type(workflow)):
    """A workflow with the settings that the study needs, whatever profile was found."""

    @property
    def dag_settings(self):
        return self.__dict__["dag_settings"]

    @dag_settings.setter
    def dag_settings(self, settings):
        if settings:
            check_targets(settings.targets)
            settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
            settings.max_checksum_file_size = 0  # equal bytes do not make it current
            settings.force_incomplete = True
        self.__dict__["dag_settings"] = settings

    @property
    def execution_settings(self):
        return self.__dict__["execution_settings"]

    @execution_settings.setter
    def execution_settings(self, settings):
        if settings:
            settings.keep_going = True  # a task that fails stops none of the others
            # Artifacts are written whole: what a group has finished before one of its jobs fails
            # is as good as any other.
            settings.keep_incomplete = True
            settings.lock = False  # headcount.locks are given back however a run ends
        self.__dict__["execution_settings"] = settings

    @property
    def _executor_plugin(self):
        return self.__dict__["_executor_plugin"]

    @_executor_plugin.setter
    def _executor_plugin(self, plugin):
        self.__dict__["_executor_plugin"] = plugin
        asked = any(model["gpus"] for model in config["models"].values())
        if asked and self.local_exec and "gpu" not in self.global_resources:
            # Snakemake does not limit what it was not told of: jobs would share a GPU.
            self.global_resources["gpu"] = len(gpus.visible()) or 1
        if plugin and not (self.dryrun or self.touch or OTHER):
            # Before it is known whether there is anything to do: earlier versions may be back.
            present.note(JOBS, config["artifacts"])
            if self.local_exec:
                preloaded.start()  # beside the work of finding out what there is to do


if workflow.is_main_process:
    workflow.__class__ = ByTimes
    OTHER = locks.take(config["artifacts"])  # another run on the same artifacts
    # Half-written files of jobs that were killed; those of jobs that still run stay.
    temporaries.sweep(config["artifacts"], below=True)
    temporaries.sweep(gettempdir())
    try:
        JOBS = [one for step in MADE for one in jobs_of(step)]
        stale = lineage.settle(JOBS, take_back=not OTHER)
        lineage.ask(stale, config["artifacts"])
    except OSError as error:
        raise WorkflowError(str(error))
    for damage in filter(None, (one.damage for one in stale)):
        logger.warning(f"Note: {damage}; it is made again.")
