# A model's source -> a directory that loads fast and offline, what is in it, and whether headcount
# computes what that model computes: it stops the study where not.


rule resolve_model:
    input:
        ancient(STUDY),
    output:
        update("<artifacts>/{model}/model.json"),
    log:
        "<artifacts>/logs/{model}/model.log",
    group:
        together("model")
    conda:
        CONDA
    resources:
        mem_mb=memory,
        runtime=lambda wildcards, attempt: MINUTES * GROWTH ** (attempt - 1),
        turn=1,
    params:
        place=lambda wildcards: {
            key: config["models"][wildcards.model][key]
            for key in ("source", "revision", "gguf_file")
        },
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
        **current(model="<artifacts>/{model}/model.json"),
    output:
        update(VERIFIED),
    log:
        "<artifacts>/logs/{model}/verified.log",
    group:
        together("model")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes(),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=model_place,
        dtype=of_model("dtype"),
        seed=config["seed"],
        code=code("verify_model.py"),
    message:
        "Verify {wildcards.model}: headcount beside the unmodified model"
    script:
        "../../scripts/verify_model.py"
