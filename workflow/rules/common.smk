# What all stages share: checks of the configuration, names, content hashes, resources.
from dataclasses import asdict
from functools import cache

from headcount.models import fingerprint
from headcount.study import checks, configuration
from headcount.tasks import code as task_code, spec
from headcount.tasks import loading as task_loading
from headcount.report import catalogue
from headcount_workflow import display, job, job_server
from snakemake.exceptions import WorkflowError

job.note_code()
CONDA = f"{HOME}/envs/headcount.yaml"
# The input of rules that have no other: Snakemake compares the times of inputs and outputs. It is not
# the study's own file, of which only the meaning counts.
STUDY = f"{HOME}/Snakefile"


def checked():
    """What `headcount check` finds but for the documents of tasks; a study with problems stops here."""
    if lines := configuration.problems(config):
        raise WorkflowError(
            f"In {study()} (keys are described in {configuration.SCHEMA}):",
            *(f"  {line}" for line in lines),
        )
    completed = configuration.completed(config)
    # From another directory: beside the file of the study, or the workflow's own.
    homes = [Path(file).resolve().parent for file in workflow.configfiles]
    config.update(configuration.with_resolved_paths(completed, *homes, HOME))
    found = checks.check(config, documents=False)
    if found.problems:
        refuse(checks.check(config))
    return found


def study():
    return ", ".join(map(str, workflow.configfiles)) or "the configuration"


def refuse(found):
    if found.problems:
        raise WorkflowError(
            f"{study()} cannot be run as it stands:",
            *(f"  {line}" for line in found.problems),
        )


CHECKED = checked()
STUDIED, HELDOUT = CHECKED.studied, CHECKED.heldout


pathvars:
    artifacts=config["artifacts"],


@cache
def task_yaml(task):
    """The file that defines a task."""
    return str(task_loading.find(task, config["task_path"]))


CONTROLS = ["depth", *[f"random-{i}" for i in range(config["random_rankings"])]]
# Rankings that studied and held-out tasks are pruned by.
SHARED = ["aggregate", *CONTROLS]


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    task="|".join(map(re.escape, [*STUDIED, *HELDOUT])),
    shots=r"\d+",
    component="heads|ffns|combined",


# --- what makes a job stale: what its rule's params hold, other than `place`, and the contents of
# its inputs (headcount.artifacts.lineage) ---


code = cache(job.code)


@cache
def task_state(task):
    """The state of a task's files before they are hashed, by which jobs see that they changed."""
    return task_code.state(task_code.files(task_yaml(task), config["datasets"]))


@cache
def task_meaning(task):
    """What decides prompts and metrics: the task's configuration and code."""
    task_state(task)
    return task_loading.meaning(task_yaml(task))


@cache
def task_documents(task):
    """What decides a task's documents."""
    task_state(task)
    return task_loading.data_content(task_yaml(task), config["datasets"])


@cache
def model_source(model):
    """Content hash of a local checkpoint; a hub model is known by its name and revision."""
    source = config["models"][model]["source"]
    if not Path(source).is_dir():
        return [source, config["models"][model]["revision"]]
    return fingerprint.fingerprint(source, config["models"][model]["gguf_file"])


def ablation(component=None):
    """What removed components leave: of a `component`, while its importance is scored.

    A gradient removes none. The seed decides nothing but what is drawn.
    """
    kind = config["ablation"]
    if component and config["importance"][component]["estimator"] != "oracle":
        kind = "zero"
    return {"kind": kind, "seed": config["seed"] if kind == "resample" else None}


def limits(wildcards):
    """Of the study's limits those that decide the prompts of a split."""
    chosen = spec.Limits(**config["limits"])
    return asdict(spec.deciding(task_yaml(wildcards.task), wildcards.split, chosen))


@cache
def judged_by(task):
    """The metric that the study judges a task by, whether it names one or leaves it to the rule."""
    return task_loading.headline(task_yaml(task), config["metrics"].get(task))


def metric(wildcards):
    return judged_by(wildcards.task)


STATE = None  # what is there, as lineage.examine finds it, once all rules are known


def current(**inputs):
    """The inputs of a rule, by name, as input functions: `ancient`, unless this run makes them.

    Each of `inputs` is a pattern, a list of patterns, or an input function.
    """
    return {name: _told(files) for name, files in inputs.items()}


def _told(files):
    def told(wildcards):
        patterns = files(wildcards) if callable(files) else files
        alone = isinstance(patterns, str)
        text = "\n".join([patterns] if alone else patterns)
        text = text.replace("<artifacts>", config["artifacts"])
        paths = text.format(**dict(wildcards.items())).splitlines()
        if not workflow.is_main_process:
            paths = [*map(ancient, paths)]
        elif STATE:
            made_now = remade()
            paths = [path if path in made_now else ancient(path) for path in paths]
        return paths[0] if alone else paths

    return told


# --- where things lie, which decides no number ---


def model_place(wildcards):
    model = config["models"][wildcards.model]
    return {"source": model["source"], "device_map": model["device_map"]}


def task_place(wildcards):
    return {
        "yaml": task_yaml(wildcards.task),
        "datasets": config["datasets"],
        "files": task_state(wildcards.task),
    }


def place(wildcards):
    return {**model_place(wildcards), **task_place(wildcards)}


def estimator(component):
    """The estimator of a component's importance, with what it varies in, by the library's name."""
    chosen = config["importance"][component]
    varies = {"gradient": "reduction", "oracle": "metric"}[chosen["estimator"]]
    return f"{chosen['estimator']}-{chosen[varies]}"


# --- artifacts, by what they are about ---


PROMPTS = "<artifacts>/tasks/{task}/{shots}-shot/{split}.parquet"


def prompts(documents, ablation):
    """The prompts that a job reads: those of `documents`, and those that stand-ins are made from."""
    made_from = [] if ablation["kind"] == "zero" else ["calibration"]
    splits = sorted({documents, *made_from})
    return [PROMPTS.replace("{split}", split) for split in splits]


SCORED = prompts(config["importance"]["documents"], ablation())
EVALUATED = prompts("evaluation", ablation())


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


FORMATS = ["png", "svg", "pdf", "html"]


def drawn(name, directory="{model}"):
    """The files of a figure: its table, and its pages in every format."""
    figure = catalogue.FIGURES[name]
    files = {"table": update(f"<artifacts>/{directory}/tables/{name}.parquet")}
    for page in figure.pages:
        label = figure.question if page == name else f"{figure.question} Task by task"
        file = f"<artifacts>/{directory}/figures/{page}"
        shown = report(
            f"{file}.png",
            caption=f"../report/{name}.rst",
            category=figure.part,
            subcategory=directory,
            labels={
                "figure": label,
                "model": directory,
            },
        )
        files |= {
            f"{page}_{kind}": update(shown if kind == "png" else f"{file}.{kind}")
            for kind in FORMATS
        }
    return files


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


def show_summary():
    from headcount.report import summary

    summary.show(Path(config["artifacts"]))
