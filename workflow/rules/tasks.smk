# lm-eval task -> the prompts of its calibration and of its evaluation documents, each a file: a study
# that evaluates more documents scores nothing anew.


rule prepare_task:
    input:
        ancient(STUDY),
    output:
        update("<artifacts>/tasks/{task}/{shots}-shot/{split}.parquet"),
    log:
        "<artifacts>/logs/tasks/{task}/{shots}-shot/{split}.log",
    wildcard_constraints:
        split="|".join(spec.SPLITS),
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
        limits=limits,
        # Documents to calibrate on are drawn, those to evaluate are the first.
        seed=lambda wildcards: (
            config["seed"] if wildcards.split == "calibration" else None
        ),
        code=code("prepare_task.py"),
    message:
        "Prompts of {wildcards.task}, {wildcards.shots} shots: {wildcards.split}"
    script:
        "../../scripts/prepare_task.py"
