# A model's source -> a directory that loads fast and offline, what is in it, and whether headcount
# computes what that model computes: it stops the study where not.


rule resolve_model:
    output:
        "artifacts/{model}/model.json",
    log:
        "artifacts/logs/{model}/model.log",
    group:
        together("model")
    conda:
        CONDA
    resources:
        mem_mb=of_model("mem_mb"),
    params:
        source=of_model("source"),
        revision=of_model("revision"),
        gguf_file=of_model("gguf_file"),
        trust_remote_code=of_model("trust_remote_code"),
        layout=of_model("layout"),
        content=lambda wildcards: model_source(wildcards.model),
        code=code("resolve_model.py"),
    message:
        "Resolve {wildcards.model}"
    script:
        "../../scripts/resolve_model.py"


rule verify_model:
    input:
        model="artifacts/{model}/model.json",
    output:
        "artifacts/{model}/verified.parquet",
    log:
        "artifacts/logs/{model}/verified.log",
    group:
        together("model")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=of_model("mem_mb"),
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        computes=lambda wildcards: computes(wildcards.model),
        seed=config["seed"],
        code=proven_code(),
    message:
        "Verify {wildcards.model}: headcount beside the unmodified model"
    script:
        "../../scripts/verify_model.py"
