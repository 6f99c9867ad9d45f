# What a job asks for, by the model that it loads, and with whom it travels on a cluster.
from headcount import artifacts, plan

# The jobs of a model that takes less memory than this take seconds or minutes.
SMALL_MB = 8000
GROWTH = 2  # of time and memory, from one try of a job to the next
# Of a job that loads no model, or whose model and prompts are not there yet.
MINUTES = 30


def of_model(key):
    """An input function for the `key` of the model's entry in the configuration."""
    return lambda wildcards: config["models"][wildcards.model][key]


def memory(wildcards, attempt):
    """MB of a job of a model, more with each retry."""
    return of_model("mem_mb")(wildcards) * GROWTH ** (attempt - 1)


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
    model = config["models"][wildcards.model]
    try:
        size = plan.Size.resolved(artifacts.read_json(input.model), model["dtype"])
        prompts = artifacts.read(*input.prompts) if stages else None
    except (FileNotFoundError, artifacts.DamagedError):
        return None
    names = [name.format(plan.NAMES.get(wildcards.get("component"))) for name in stages]
    found = []
    if stages:
        task, shots = wildcards.task, int(wildcards.shots)
        found = plan.stages(size, prompts, task, shots, config)
    return plan.minutes(size, model, [stage for stage in found if stage.name in names])


def together(stage):
    """An input function: the group that jobs of a small model travel in; others go alone."""
    return lambda wildcards: (
        stage if of_model("mem_mb")(wildcards) <= SMALL_MB else None
    )
