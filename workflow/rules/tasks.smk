# lm-eval task -> the prompts of its calibration and evaluation documents.


rule prepare_task:
    output:
        "artifacts/tasks/{task}/{shots}-shot.parquet",
    log:
        "artifacts/logs/tasks/{task}/{shots}-shot.log",
    group:
        "tasks"
    conda:
        CONDA
    resources:
        mem_mb=2000,
    params:
        yaml=lambda wildcards: task_yaml(wildcards.task),
        source=lambda wildcards: task_source(wildcards.task),
        metric=lambda wildcards: config["metrics"].get(wildcards.task),
        calibrate=lambda wildcards: calibrates(wildcards.task),
        limits=config["limits"],
        datasets=config["datasets"],
        seed=config["seed"],
        code=code("prepare_task.py"),
    message:
        "Prompts of {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/prepare_task.py"
