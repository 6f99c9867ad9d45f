# What a job asks for, by the model that it loads, and with whom it travels on a cluster.

# The jobs of a model that takes less memory than this take seconds or minutes.
SMALL_MB = 8000


def of_model(key):
    """An input function for the `key` of the model's entry in the configuration."""
    return lambda wildcards: config["models"][wildcards.model][key]


def growing(amount):
    """An input function: what `amount`, an input function, says; each retry gets twice as much."""
    return lambda wildcards, attempt: amount(wildcards) * 2 ** (attempt - 1)


def together(stage):
    """An input function: the group that jobs of a small model travel in; others go alone."""
    return lambda wildcards: (
        stage if of_model("mem_mb")(wildcards) <= SMALL_MB else None
    )
