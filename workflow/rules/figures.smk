# Artifacts -> the tables and figures that people look at: one rule a figure, one function a table
# (headcount.tables) and one a figure (headcount.figures), all by the figure's name.

FIGURES = [
    "head_importance",
    "ffn_importance",
    "head_pruning",
    "ffn_pruning",
    "combined_pruning",
    "cross_task",
    "transfer",
    "cross_shot",
    "induction",
    "retention",
    "summary",
]
# Drawn only when asked for by name: `estimator_agreement`.
# The aggregate of a single task is its own ranking, which is drawn once.
AGGREGATES = ["aggregate"] if len(STUDIED) > 1 else []
COMPARED = ["own", *AGGREGATES, *CONTROLS]


rule draw_head_importance:
    input:
        importance=importance_of("heads"),
        rankings=rankings_at("heads", AGGREGATES),
    output:
        **drawn("head_importance"),
    log:
        "artifacts/logs/{model}/figures/head_importance.log",
    localrule: True
    conda:
        CONDA
    params:
        figure="head_importance",
        options={},
        code=code("draw.py"),
    message:
        "Draw {params.figure} of {wildcards.model}"
    script:
        "../../scripts/draw.py"


use rule draw_head_importance as draw_ffn_importance with:
    input:
        importance=importance_of("ffns"),
        rankings=rankings_at("ffns", AGGREGATES),
    output:
        **drawn("ffn_importance"),
    log:
        "artifacts/logs/{model}/figures/ffn_importance.log",
    params:
        figure="ffn_importance",
        options={},
        code=code("draw.py"),


use rule draw_head_importance as draw_head_pruning with:
    input:
        pruning=pruned_by("heads", STUDIED, COMPARED),
    output:
        **drawn("head_pruning"),
    log:
        "artifacts/logs/{model}/figures/head_pruning.log",
    params:
        figure="head_pruning",
        options={"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]},
        code=code("draw.py"),


use rule draw_head_importance as draw_ffn_pruning with:
    input:
        pruning=pruned_by("ffns", STUDIED, COMPARED),
    output:
        **drawn("ffn_pruning"),
    log:
        "artifacts/logs/{model}/figures/ffn_pruning.log",
    params:
        figure="ffn_pruning",
        options={"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]},
        code=code("draw.py"),


use rule draw_head_importance as draw_combined_pruning with:
    input:
        pruning=pruned_by("combined", STUDIED, COMPARED),
    output:
        **drawn("combined_pruning"),
    log:
        "artifacts/logs/{model}/figures/combined_pruning.log",
    params:
        figure="combined_pruning",
        options={"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]},
        code=code("draw.py"),


use rule draw_head_importance as draw_cross_task with:
    input:
        correlation=collect(
            "artifacts/{{model}}/correlation/cross_task/{component}.parquet",
            component=["heads", "ffns"],
        ),
        reliability=collect(
            "artifacts/{{model}}/correlation/reliability/{component}.parquet",
            component=["heads", "ffns"],
        ),
    output:
        **drawn("cross_task"),
    log:
        "artifacts/logs/{model}/figures/cross_task.log",
    params:
        figure="cross_task",
        options={},
        code=code("draw.py"),


use rule draw_head_importance as draw_transfer with:
    input:
        pruning=pruned_by("heads", STUDIED, [*COMPARED, *TRANSFERS])
        + pruned_by("heads", HELDOUT, SHARED),
    output:
        **drawn("transfer"),
    log:
        "artifacts/logs/{model}/figures/transfer.log",
    params:
        figure="transfer",
        options={"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]},
        code=code("draw.py"),


use rule draw_head_importance as draw_cross_shot with:
    input:
        correlation=collect(
            "artifacts/{{model}}/correlation/cross_shot/{component}.parquet",
            component=["heads", "ffns"],
        ),
    output:
        **drawn("cross_shot"),
    log:
        "artifacts/logs/{model}/figures/cross_shot.log",
    params:
        figure="cross_shot",
        options={},
        code=code("draw.py"),


use rule draw_head_importance as draw_induction with:
    input:
        prefix_matching="artifacts/{model}/induction/prefix_matching.parquet",
        copying="artifacts/{model}/induction/copying.parquet",
        rankings=rankings_at("heads", ["aggregate"]),
    output:
        **drawn("induction"),
    log:
        "artifacts/logs/{model}/figures/induction.log",
    params:
        figure="induction",
        options={},
        code=code("draw.py"),


use rule draw_head_importance as draw_retention with:
    input:
        prefix_matching="artifacts/{model}/induction/prefix_matching.parquet",
        copying="artifacts/{model}/induction/copying.parquet",
        rankings=rankings_at("heads", [*STUDIED, *AGGREGATES, *CONTROLS]),
    output:
        **drawn("retention"),
    log:
        "artifacts/logs/{model}/figures/retention.log",
    params:
        figure="retention",
        options={"levels": config["levels"]["heads"]},
        code=code("draw.py"),


use rule draw_head_importance as draw_summary with:
    input:
        head_pruning="artifacts/{model}/tables/head_pruning.parquet",
        ffn_pruning="artifacts/{model}/tables/ffn_pruning.parquet",
        combined_pruning="artifacts/{model}/tables/combined_pruning.parquet",
    output:
        **drawn("summary"),
    log:
        "artifacts/logs/{model}/figures/summary.log",
    params:
        figure="summary",
        options={},
        code=code("draw.py"),


use rule draw_head_importance as draw_estimator_agreement with:
    input:
        estimators=collect(
            "artifacts/{{model}}/estimators/{task}/{shots}-shot/{component}.parquet",
            task=config["estimator_agreement"]["tasks"] or STUDIED,
            shots=config["estimator_agreement"]["shots"] or config["shots"],
            component=["heads", "ffns"],
        ),
    output:
        **drawn("estimator_agreement"),
    log:
        "artifacts/logs/{model}/figures/estimator_agreement.log",
    params:
        figure="estimator_agreement",
        options={"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]},
        code=code("draw.py"),
