# Artifacts -> the tables and figures that people look at: a rule for each figure, a function for its
# table (headcount.report.tables) and one for the drawing (headcount.report.figures), all by the figure's name.

# The aggregate of a single task is its own ranking, which is drawn once.
AGGREGATES = ["aggregate"] if len(STUDIED) > 1 else []
COMPARED = ["own", *AGGREGATES, *CONTROLS]
RESAMPLED = {"resamples": config["bootstrap"]["resamples"], "seed": config["seed"]}


def both(pattern):
    """The files of heads and of FFNs."""
    return collect(f"<artifacts>/{{{{model}}}}/{pattern}", component=["heads", "ffns"])


INDUCTION = {
    kind: f"<artifacts>/{{model}}/induction/{kind}.parquet"
    for kind in ("prefix_matching", "copying")
}
# Figure -> the files that it shows, by the argument of its table's function.
SHOWN = {
    "head_importance": {
        "importance": importance_of("heads"),
        "rankings": rankings_at("heads", AGGREGATES),
    },
    "ffn_importance": {
        "importance": importance_of("ffns"),
        "rankings": rankings_at("ffns", AGGREGATES),
    },
    "head_pruning": {"pruning": pruned_by("heads", STUDIED, COMPARED)},
    "ffn_pruning": {"pruning": pruned_by("ffns", STUDIED, COMPARED)},
    "combined_pruning": {"pruning": pruned_by("combined", STUDIED, COMPARED)},
    "cross_task": {
        "correlation": both("correlation/cross_task/{component}.parquet"),
        "reliability": both("correlation/reliability/{component}.parquet"),
    },
    "transfer": {
        "pruning": pruned_by("heads", STUDIED, [*COMPARED, *TRANSFERS])
        + pruned_by("heads", HELDOUT, SHARED)
    },
    "cross_shot": {"correlation": both("correlation/cross_shot/{component}.parquet")},
    "induction": {**INDUCTION, "rankings": rankings_at("heads", ["aggregate"])},
    "retention": {
        **INDUCTION,
        "rankings": rankings_at("heads", [*STUDIED, *AGGREGATES, *CONTROLS]),
    },
    "summary": {
        name: f"<artifacts>/{{model}}/tables/{name}.parquet"
        for name in ("head_pruning", "ffn_pruning", "combined_pruning")
    },
    "estimator_agreement": {
        "estimators": collect(
            "<artifacts>/{{model}}/estimators/{task}/{shots}-shot/{component}.parquet",
            task=config["estimator_agreement"]["tasks"] or STUDIED,
            shots=config["estimator_agreement"]["shots"] or config["shots"],
            component=["heads", "ffns"],
        )
    },
}
FIGURES = [
    page
    for name in SHOWN
    if not catalogue.FIGURES[name].on_request
    for page in catalogue.FIGURES[name].pages
]
# What else the functions of the tables take.
OPTIONS = {
    **dict.fromkeys(["head_pruning", "ffn_pruning", "combined_pruning"], RESAMPLED),
    **dict.fromkeys(["transfer", "estimator_agreement"], RESAMPLED),
    "retention": {"levels": config["levels"]["heads"]},
}


for figure, files in SHOWN.items():

    rule:
        name:
            f"draw_{figure}"
        input:
            **current(**files),
        output:
            **drawn(figure),
        log:
            f"<artifacts>/logs/{{model}}/figures/{figure}.log",
        localrule: True
        conda:
            CONDA
        params:
            figure=figure,
            options=OPTIONS.get(figure, {}),
            style=config["figures"],
            code=code("draw.py"),
        message:
            "Draw {params.figure} of {wildcards.model}"
        script:
            "../../scripts/draw.py"


# --- several models side by side; no model may be called "across" ---


def of_models(pattern):
    """The file of every model."""
    return collect(f"<artifacts>/{{model}}/{pattern}", model=config["models"])


ACROSS = {
    "importance_by_depth": {
        name: of_models(f"tables/{name}.parquet")
        for name in ("head_importance", "ffn_importance")
    },
    "pruning_by_model": {
        name: of_models(f"tables/{name}.parquet")
        for name in ("head_pruning", "ffn_pruning")
    },
    "removable_by_size": {
        "summary": of_models("tables/summary.parquet"),
        "models": of_models("model.json"),
    },
}
if len(config["models"]) == 1:
    ACROSS = {}


for figure, files in ACROSS.items():

    rule:
        name:
            f"draw_{figure}"
        input:
            **current(**files),
        output:
            **drawn(figure, "across"),
        log:
            f"<artifacts>/logs/across/{figure}.log",
        localrule: True
        conda:
            CONDA
        params:
            figure=figure,
            options={},
            style=config["figures"],
            code=code("draw.py"),
        message:
            "Draw {params.figure} of all models"
        script:
            "../../scripts/draw.py"
