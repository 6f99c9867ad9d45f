# Artifacts and tables of the figures -> a page of each model, to look through without a network.
from headcount.artifacts.hashes import file_hashes

# All estimators are computed only when asked for, so their page has a name of its own.
PAGES = ["index", "estimators"]
# They decide what the page is, as the code does.
ASSETS = sorted(Path(HOME, "src/headcount/report/explorer/assets").iterdir())
EXPLORED = [
    "head_pruning",
    "ffn_pruning",
    "combined_pruning",
    "transfer",
    "cross_task",
    "cross_shot",
    "summary",
]


rule explore:
    input:
        **current(
            **{
                name: f"<artifacts>/{{model}}/tables/{name}.parquet"
                for name in EXPLORED
            },
            importance=importance_of("heads") + importance_of("ffns"),
            estimators=lambda wildcards: [
                path.format(model=wildcards.model)
                for path in SHOWN["estimator_agreement"]["estimators"]
                if wildcards.page == "estimators"
            ],
            controls=rankings_at("heads", CONTROLS) + rankings_at("ffns", CONTROLS),
            induction=list(INDUCTION.values()),
            pruning=[
                *pruned_by("heads", STUDIED, [*COMPARED, *TRANSFERS]),
                *pruned_by("ffns", STUDIED, COMPARED),
                *pruned_by("combined", STUDIED, COMPARED),
                *pruned_by("heads", HELDOUT, SHARED),
            ],
            prompts=sorted(
                {
                    *collect(SCORED, task=STUDIED, shots=config["shots"]),
                    *collect(
                        EVALUATED, task=[*STUDIED, *HELDOUT], shots=config["shots"]
                    ),
                }
            ),
        ),
    output:
        page=update("<artifacts>/{model}/report/{page}.html"),
        made=update("<artifacts>/{model}/report/{page}.json"),
    log:
        "<artifacts>/logs/{model}/report/{page}.log",
    wildcard_constraints:
        page="|".join(PAGES),
    localrule: True
    conda:
        CONDA
    params:
        tables=EXPLORED,
        names=config["figures"]["names"],
        assets=dict(zip([path.name for path in ASSETS], file_hashes(ASSETS))),
        code=code("explore.py"),
    message:
        "The explorer of {wildcards.model}"
    script:
        "../../scripts/explore.py"
