# Model + prompts -> how much each head and each FFN matters; on request by every estimator.


rule score_importance:
    input:
        model="artifacts/{model}/model.json",
        verified=VERIFIED,
        prompts="artifacts/tasks/{task}/{shots}-shot.parquet",
    output:
        "artifacts/{model}/importance/{task}/{shots}-shot/{component}.parquet",
    log:
        "artifacts/logs/{model}/importance/{task}/{shots}-shot/{component}.log",
    wildcard_constraints:
        task="|".join(map(re.escape, STUDIED)),
        component="heads|ffns",
    group:
        together("importance")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=of_model("mem_mb"),
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        yaml=lambda wildcards: task_yaml(wildcards.task),
        metric=lambda wildcards: config["metrics"].get(wildcards.task),
        computes=lambda wildcards: computes(wildcards.model),
        estimator=lambda wildcards: estimator(wildcards.component),
        documents=config["importance"]["documents"],
        ablation=lambda wildcards: oracle_ablation(wildcards.component),
        seed=config["seed"],
        code=code("score_importance.py"),
    message:
        "Importance of {wildcards.model}'s {wildcards.component}: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/score_importance.py"


rule score_estimators:
    input:
        model="artifacts/{model}/model.json",
        verified=VERIFIED,
        prompts="artifacts/tasks/{task}/{shots}-shot.parquet",
    output:
        "artifacts/{model}/estimators/{task}/{shots}-shot/{component}.parquet",
    log:
        "artifacts/logs/{model}/estimators/{task}/{shots}-shot/{component}.log",
    wildcard_constraints:
        task="|".join(map(re.escape, STUDIED)),
        component="heads|ffns",
    group:
        together("importance")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=of_model("mem_mb"),
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        yaml=lambda wildcards: task_yaml(wildcards.task),
        metric=lambda wildcards: config["metrics"].get(wildcards.task),
        computes=lambda wildcards: computes(wildcards.model),
        documents=config["importance"]["documents"],
        ablation=config["ablation"],
        seed=config["seed"],
        code=code("score_estimators.py"),
    message:
        "All estimators of {wildcards.model}'s {wildcards.component}: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/score_estimators.py"
