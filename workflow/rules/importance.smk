# Model + prompts -> how much each head and each FFN matters; on request by every estimator.


rule score_importance:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=lambda wildcards: collect(
                prompts(
                    config["importance"]["documents"], ablation(wildcards.component)
                ),
                task=wildcards.task,
                shots=wildcards.shots,
            ),
        ),
    output:
        update("<artifacts>/{model}/importance/{task}/{shots}-shot/{component}.parquet"),
    log:
        "<artifacts>/logs/{model}/importance/{task}/{shots}-shot/{component}.log",
    wildcard_constraints:
        task="|".join(map(re.escape, STUDIED)),
        component="heads|ffns",
    group:
        together("importance")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes("importance of {}"),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        metric=metric,
        dtype=of_model("dtype"),
        estimator=lambda wildcards: estimator(wildcards.component),
        documents=config["importance"]["documents"],
        ablation=lambda wildcards: ablation(wildcards.component),
        code=code("score_importance.py"),
    message:
        "Importance of {wildcards.model}'s {wildcards.component}: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/score_importance.py"


rule score_estimators:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=SCORED,
        ),
    output:
        update("<artifacts>/{model}/estimators/{task}/{shots}-shot/{component}.parquet"),
    log:
        "<artifacts>/logs/{model}/estimators/{task}/{shots}-shot/{component}.log",
    wildcard_constraints:
        task="|".join(map(re.escape, STUDIED)),
        component="heads|ffns",
    group:
        together("importance")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes("importance of {}"),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        metric=metric,
        dtype=of_model("dtype"),
        documents=config["importance"]["documents"],
        ablation=ablation(),
        code=code("score_estimators.py"),
    message:
        "All estimators of {wildcards.model}'s {wildcards.component}: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/score_estimators.py"
