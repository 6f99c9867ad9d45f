# What all stages share: checks of the configuration, names, content hashes, resources.
from difflib import get_close_matches
from functools import cache

import jsonschema
import yaml
from headcount import checkpoint_files, lineage, source_code, task_files, task_kinds
from headcount import tasks as lm_eval_tasks
from snakemake.exceptions import WorkflowError

SCHEMA = f"{workflow.basedir}/workflow/schemas/config.schema.yaml"
SCRIPTS = Path(workflow.basedir, "scripts")
CONDA = f"{workflow.basedir}/envs/headcount.yaml"
# The input of rules that have no other: Snakemake compares the times of inputs and outputs.
STUDY = workflow.configfiles[0]


def check_config():
    """One line for each mistake, with the key it is at; then the defaults are filled in."""
    schema = yaml.safe_load(Path(SCHEMA).read_text(encoding="utf-8"))
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    lines = [
        f"  {error.json_path.removeprefix('$.')}: {error.message}" for error in errors
    ]
    if not lines:
        validate(config, SCHEMA)
    if lines:
        study = ", ".join(map(str, workflow.configfiles)) or "the configuration"
        raise WorkflowError(f"In {study} (keys are described in {SCHEMA}):", *lines)
    # Sets, whatever their order in the file.
    for holder, key in (
        (config, "shots"),
        (config["levels"], "heads"),
        (config["levels"], "ffns"),
        (config["levels"]["combined"], "heads"),
        (config["levels"]["combined"], "ffns"),
    ):
        holder[key] = sorted(holder[key])


check_config()


pathvars:
    artifacts=config["artifacts"],


@cache
def task_yaml(task):
    """The file that defines a task."""
    return str(lm_eval_tasks.find(task, config["task_path"]))


def check_tasks():
    """The tasks studied and held out; an unknown one stops the study before anything runs."""
    try:
        studied, heldout = (
            lm_eval_tasks.expand(config[key], config["task_path"])
            for key in ("tasks", "heldout_tasks")
        )
    except lm_eval_tasks.TaskError as error:
        raise WorkflowError(f"tasks, heldout_tasks, task_path: {error}")
    if twice := sorted({*studied} & {*heldout}):
        raise WorkflowError(
            f"heldout_tasks: {', '.join(twice)} cannot be among tasks as well"
        )
    if others := sorted({*config["metrics"]} - {*studied, *heldout}):
        raise WorkflowError(
            f"metrics: {', '.join(others)} not among tasks, heldout_tasks"
        )
    for key, known in (("tasks", studied), ("shots", config["shots"])):
        chosen = config["estimator_agreement"][key] or []
        if others := [name for name in chosen if name not in known]:
            raise WorkflowError(f"estimator_agreement.{key}: {others} not among {key}")
    return sorted(studied), sorted(heldout)


STUDIED, HELDOUT = check_tasks()


def calibrates(task):
    """Whether a task needs calibration documents: to be ranked, or for stand-ins of what goes."""
    return task in STUDIED or config["ablation"] != "zero"


def check_kinds():
    """What the study can do with each task: all that speaks against it, a line each.

    Returns what the results have to be read with, a line each as well.
    """
    warnings, problems = [], []
    for task in [*STUDIED, *HELDOUT]:
        wanted = task_kinds.Wanted(
            shots=config["shots"],
            limits=task_kinds.Limits(**config["limits"]),
            datasets=config["datasets"],
            calibrate=calibrates(task),
            metric=config["metrics"].get(task),
        )
        try:
            kind = task_kinds.examine(task_yaml(task), wanted)
        except task_files.TaskError as error:
            problems += str(error).splitlines()
        else:
            warnings += [f"{task}: {warning}" for warning in kind.warnings]
    if problems:
        raise WorkflowError(
            "These tasks cannot be studied as asked (tasks, heldout_tasks, shots, limits, datasets, "
            "metrics):",
            *(f"  {problem}" for problem in problems),
        )
    return warnings


TASK_WARNINGS = check_kinds()
CONTROLS = ["depth", *[f"random-{i}" for i in range(config["random_rankings"])]]
# Rankings that studied and held-out tasks are pruned by.
SHARED = ["aggregate", *CONTROLS]


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    task="|".join(map(re.escape, [*STUDIED, *HELDOUT])),
    shots=r"\d+",
    component="heads|ffns|combined",


# --- what makes a job stale: what its rule's params hold, other than `place`, and the contents of
# its inputs (headcount.lineage) ---


@cache
def code(script):
    """What a script and all that it imports mean, and the packages that decide its numbers."""
    path = SCRIPTS / script
    return {
        "meaning": source_code.code_hash(path),
        "packages": source_code.packages(path),
    }


def proven_code():
    """What the code means that `verify_model` proves, and that which proves it."""
    names = ["verify", "examination", "proof", "reference", "importance"]
    library = Path(workflow.basedir, "src", "headcount")
    sources = {library / f"{name}.py": Path(name) for name in names}
    return {
        "meaning": [
            source_code.code_hash(library / "sweep" / "__init__.py"),
            source_code.Sources(sources, set()).hash(),
        ],
        "packages": source_code.packages(SCRIPTS / "verify_model.py"),
    }


@cache
def task_meaning(task):
    """What decides prompts and metrics: the task's configuration and code."""
    return lm_eval_tasks.meaning(task_yaml(task))


@cache
def task_documents(task):
    """What decides a task's documents."""
    return lm_eval_tasks.documents(task_yaml(task), config["datasets"])


def check_models():
    """A directory that is away is not taken for a model of the hub."""
    for model, entry in config["models"].items():
        source, path = entry["source"], Path(entry["source"])
        if path.exists():
            continue
        made = Path(config["artifacts"], model, "model.json")
        # A hub model's name has one slash at most; a directory's can look the same.
        if path.is_absolute() or source[0] in ".~" or len(path.parts) > 2:
            known = ""
        elif lineage.from_directory(made, source):
            known = f", as it was when {made} was made"
        else:
            continue
        raise WorkflowError(
            f"models.{model}.source: {source} is not there{known}. Put it back, or correct the "
            "name, and start again: what was computed with it is kept."
        )


check_models()


@cache
def model_source(model):
    """Content hash of a local checkpoint; a hub model is known by its name and revision."""
    source = config["models"][model]["source"]
    if not Path(source).is_dir():
        return [source, config["models"][model]["revision"]]
    return checkpoint_files.fingerprint(source, config["models"][model]["gguf_file"])


def ablation(component=None):
    """What removed components leave: of a `component`, while its importance is scored.

    A gradient removes none. The seed decides nothing but what is drawn.
    """
    kind = config["ablation"]
    if component and config["importance"][component]["estimator"] != "oracle":
        kind = "zero"
    return {"kind": kind, "seed": config["seed"] if kind == "resample" else None}


def splits(documents, ablation):
    """The splits of the prompts that a job reads, with those that stand-ins are made from."""
    return (
        [documents]
        if ablation["kind"] == "zero"
        else sorted({documents, "calibration"})
    )


def metric(wildcards):
    """The metric that the study judges a task by, if it overrides lm-eval's."""
    return config["metrics"].get(wildcards.task)


# --- where things lie, which decides no number ---


def model_place(wildcards):
    model = config["models"][wildcards.model]
    return {"source": model["source"], "device_map": model["device_map"]}


def task_place(wildcards):
    return {"yaml": task_yaml(wildcards.task), "datasets": config["datasets"]}


def place(wildcards):
    return {**model_place(wildcards), **task_place(wildcards)}


def estimator(component):
    """The estimator of a component's importance, with what it varies in, by the library's name."""
    chosen = config["importance"][component]
    varies = {"gradient": "reduction", "oracle": "metric"}[chosen["estimator"]]
    return f"{chosen['estimator']}-{chosen[varies]}"


# --- artifacts, by what they are about ---


# A model is verified before anything is computed with it.
VERIFIED = "<artifacts>/{model}/verified.parquet"


def rankings_of(names):
    """Input function: the ranking files of `names` for each component that the job prunes."""

    def files(wildcards):
        both = wildcards.component == "combined"
        return collect(
            "<artifacts>/{model}/rankings/{ranking}/{shots}-shot/{component}.parquet",
            model=wildcards.model,
            shots=wildcards.shots,
            ranking=names(wildcards),
            component=["heads", "ffns"] if both else wildcards.component,
        )

    return files


def pruned(ranking):
    """The file of a task pruned by `ranking`."""
    directory = "<artifacts>/{model}/pruning/{task}/{shots}-shot/{component}"
    return update(f"{directory}/by-{ranking}.parquet")


def drawn(name):
    """The files of a figure: its table, and itself in three formats."""
    figure = f"<artifacts>/{{model}}/figures/{name}"
    png = report(f"{figure}.png", caption=f"../report/{name}.rst", category="{model}")
    return {
        "table": update(f"<artifacts>/{{model}}/tables/{name}.parquet"),
        "png": update(png),
        "svg": update(f"{figure}.svg"),
        "html": update(f"{figure}.html"),
    }


def importance_of(component):
    """The importance of a component, for every task and number of shots."""
    return collect(
        f"<artifacts>/{{{{model}}}}/importance/{{task}}/{{shots}}-shot/{component}.parquet",
        task=STUDIED,
        shots=config["shots"],
    )


def rankings_at(component, names):
    """Rankings of a component at every number of shots."""
    return collect(
        f"<artifacts>/{{{{model}}}}/rankings/{{ranking}}/{{shots}}-shot/{component}.parquet",
        ranking=names,
        shots=config["shots"],
    )


def pruned_by(component, tasks, names):
    """Tasks pruned by rankings; "own" stands for a task's own."""
    return [
        f"<artifacts>/{{model}}/pruning/{task}/{shots}-shot/{component}/by-{ranking}.parquet"
        for task in tasks
        for shots in config["shots"]
        for ranking in [task if name == "own" else name for name in names]
    ]
