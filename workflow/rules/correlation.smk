# Importance -> how far tasks, numbers of shots, and halves of the documents agree on what matters.


rule correlate:
    input:
        **current(
            importance=collect(
                "<artifacts>/{{model}}/importance/{task}/{shots}-shot/{{component}}.parquet",
                task=STUDIED,
                shots=config["shots"],
            ),
        ),
    output:
        update("<artifacts>/{model}/correlation/{across}/{component}.parquet"),
    log:
        "<artifacts>/logs/{model}/correlation/{across}/{component}.log",
    wildcard_constraints:
        across="cross_task|cross_shot|reliability",
    localrule: True
    conda:
        CONDA
    params:
        resamples=config["bootstrap"]["resamples"],
        seed=config["seed"],
        code=code("correlate.py"),
    message:
        "Correlate the importance of {wildcards.model}'s {wildcards.component}: {wildcards.across}"
    script:
        "../../scripts/correlate.py"
