# lm-eval task -> the prompts of its calibration and evaluation documents.


rule prepare_task:
    input:
        STUDY,
    output:
        update("<artifacts>/tasks/{task}/{shots}-shot.parquet"),
    log:
        "<artifacts>/logs/tasks/{task}/{shots}-shot.log",
    group:
        "tasks"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * GROWTH ** (attempt - 1),
        runtime=lambda wildcards, attempt: MINUTES * GROWTH ** (attempt - 1),
        turn=1,
    params:
        place=task_place,
        task=lambda wildcards: task_meaning(wildcards.task),
        documents=lambda wildcards: task_documents(wildcards.task),
        metric=metric,
        calibrate=lambda wildcards: calibrates(wildcards.task),
        limits=config["limits"],
        seed=config["seed"],
        code=code("prepare_task.py"),
    message:
        "Prompts of {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/prepare_task.py"
