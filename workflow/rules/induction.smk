# Model -> how much of an induction head each head is.


rule score_induction:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
        ),
    output:
        update("<artifacts>/{model}/induction/{kind}.parquet"),
    log:
        "<artifacts>/logs/{model}/induction/{kind}.log",
    wildcard_constraints:
        kind="prefix_matching|copying",
    group:
        together("induction")
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
        induction=config["induction"],
        seed=config["seed"],
        code=code("score_induction.py"),
    message:
        "Score {wildcards.kind} of {wildcards.model}'s heads"
    script:
        "../../scripts/score_induction.py"
