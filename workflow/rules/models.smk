# A model's source -> a directory that loads fast and offline, and what is in it.


rule resolve_model:
    output:
        "artifacts/{model}/model.json",
    log:
        "artifacts/logs/{model}/model.log",
    conda:
        CONDA
    resources:
        mem_mb=of_model("mem_mb"),
    params:
        source=of_model("source"),
        revision=of_model("revision"),
        gguf_file=of_model("gguf_file"),
        trust_remote_code=of_model("trust_remote_code"),
        content=lambda wildcards: model_source(wildcards.model),
        code=code("resolve_model.py"),
    message:
        "Resolve {wildcards.model}"
    script:
        "../../scripts/resolve_model.py"
