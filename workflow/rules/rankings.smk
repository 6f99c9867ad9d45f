# Importance -> the order in which components are removed: a task's own, the aggregate, controls.


rule rank_by_task:
    input:
        **current(
            importance=[
                "<artifacts>/{model}/importance/{task}/{shots}-shot/{component}.parquet"
            ],
        ),
    output:
        update("<artifacts>/{model}/rankings/{task}/{shots}-shot/{component}.parquet"),
    log:
        "<artifacts>/logs/{model}/rankings/{task}/{shots}-shot/{component}.log",
    localrule: True
    conda:
        CONDA
    params:
        ranking=lambda wildcards: wildcards.task,
        code=code("rank.py"),
    message:
        "Rank {wildcards.model}'s {wildcards.component} by {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/rank.py"


rule rank_by_aggregate:
    input:
        **current(
            importance=collect(
                "<artifacts>/{{model}}/importance/{task}/{{shots}}-shot/{{component}}.parquet",
                task=STUDIED,
            ),
        ),
    output:
        update(
            "<artifacts>/{model}/rankings/aggregate/{shots}-shot/{component}.parquet"
        ),
    log:
        "<artifacts>/logs/{model}/rankings/aggregate/{shots}-shot/{component}.log",
    localrule: True
    conda:
        CONDA
    params:
        ranking="aggregate",
        code=code("rank.py"),
    message:
        "Rank {wildcards.model}'s {wildcards.component} by the mean over tasks, {wildcards.shots} shots"
    script:
        "../../scripts/rank.py"


rule rank_controls:
    input:
        **current(model="<artifacts>/{model}/model.json"),
    output:
        [
            update(
                f"<artifacts>/{{model}}/rankings/{ranking}/{{shots}}-shot/{{component}}.parquet"
            )
            for ranking in CONTROLS
        ],
    log:
        "<artifacts>/logs/{model}/rankings/controls/{shots}-shot/{component}.log",
    localrule: True
    conda:
        CONDA
    params:
        rankings=CONTROLS,
        seed=config["seed"],
        code=code("rank_controls.py"),
    message:
        "Depth and random orders of {wildcards.model}'s {wildcards.component}"
    script:
        "../../scripts/rank_controls.py"
