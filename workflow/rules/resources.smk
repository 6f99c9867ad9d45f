# What a job asks for, by the model that it loads, and with whom it travels on a cluster.
from headcount.artifacts import storage
from headcount.study import model_checks, plan, resources

# The jobs of a model that takes less memory than this take seconds or minutes.
SMALL_MB = 8000
GROWTH = 2  # of time and memory, from one try of a job to the next
# Of a job that loads no model, or whose model and prompts are not there yet.
MINUTES = 30


def of_model(key):
    """An input function for the `key` of the model's entry in the configuration."""
    return lambda wildcards: config["models"][wildcards.model][key]


def size_of(name):
    """The size of a model; None before it is resolved."""
    try:
        facts = storage.read_json(Path(config["artifacts"], name, "model.json"))
    except (FileNotFoundError, storage.DamagedError):
        return None
    return plan.Size.resolved(facts, config["models"][name]["dtype"])


def megabytes(wildcards):
    """MB of a job of a model; until it is resolved by its files, None where there are none."""
    model, size = config["models"][wildcards.model], size_of(wildcards.model)
    weights = size.bytes if size else model_checks.stored(model["source"])
    if weights is None and model["mem_mb"] is None:
        return None
    return resources.megabytes(weights or 0, model)


def memory(wildcards, attempt):
    """MB of a job of a model, more with each retry."""
    return (megabytes(wildcards) or SMALL_MB) * GROWTH ** (attempt - 1)


def minutes(*stages):
    """An input function: the time of a job that computes `stages` of a study, as planned."""

    def runtime(wildcards, input, attempt):
        planned = of_model("runtime")(wildcards)
        if planned is None and not workflow.local_exec:
            planned = estimated(stages, wildcards, input)
        return (planned or MINUTES) * GROWTH ** (attempt - 1)

    return runtime


def estimated(stages, wildcards, input):
    """Minutes of a job that computes `stages`; None where what it reads is not there yet."""
    model, size = config["models"][wildcards.model], size_of(wildcards.model)
    try:
        prompts = storage.read(*input.prompts) if stages else None
    except (FileNotFoundError, storage.DamagedError):
        return None
    if size is None:
        return None
    names = [name.format(plan.NAMES.get(wildcards.get("component"))) for name in stages]
    found = []
    if stages:
        task, shots = wildcards.task, int(wildcards.shots)
        found = plan.stages(size, prompts, task, shots, config)
    return resources.minutes(
        size, model, [stage for stage in found if stage.name in names]
    )


def together(stage):
    """An input function: the group that jobs of a small model travel in; others go alone."""

    def group(wildcards):
        found = megabytes(wildcards)
        return stage if found is not None and found <= SMALL_MB else None

    return group
