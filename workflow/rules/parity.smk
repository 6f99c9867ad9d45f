# Model + prompts -> does headcount agree with lm-eval? Not part of `all`: `snakemake parity`.


rule check_parity:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=[PROMPTS.replace("{split}", "evaluation")],
        ),
    output:
        update("<artifacts>/{model}/parity/{task}/{shots}-shot.parquet"),
    log:
        "<artifacts>/logs/{model}/parity/{task}/{shots}-shot.log",
    group:
        together("parity")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes("pruning of heads", "pruning of FFNs"),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        dtype=of_model("dtype"),
        code=code("check_parity.py"),
    message:
        "Compare {wildcards.model} with lm-eval: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/check_parity.py"


use rule check_parity as check_edge_cases with:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=collect(
                PROMPTS,
                split="evaluation",
                task=STUDIED[0],
                shots=min(config["shots"]),
            ),
        ),
    output:
        update("<artifacts>/{model}/parity/edge_cases.parquet"),
    log:
        "<artifacts>/logs/{model}/parity/edge_cases.log",
    params:
        place=model_place,
        task=None,
        dtype=of_model("dtype"),
        code=code("check_parity.py"),
    message:
        "Compare {wildcards.model} with lm-eval: edge cases"


rule tabulate_parity:
    input:
        **current(
            tasks=collect(
                "<artifacts>/{{model}}/parity/{task}/{shots}-shot.parquet",
                task=[*STUDIED, *HELDOUT],
                shots=config["shots"],
            ),
            edge_cases="<artifacts>/{model}/parity/edge_cases.parquet",
        ),
    output:
        update("<artifacts>/{model}/tables/parity.parquet"),
    log:
        "<artifacts>/logs/{model}/tables/parity.log",
    localrule: True
    conda:
        CONDA
    params:
        dtype=of_model("dtype"),
        code=code("tabulate_parity.py"),
    message:
        "Tabulate how {wildcards.model} compares with lm-eval"
    script:
        "../../scripts/tabulate_parity.py"


rule parity:
    input:
        collect("<artifacts>/{model}/tables/parity.parquet", model=config["models"]),
