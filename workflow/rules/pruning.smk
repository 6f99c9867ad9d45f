# Model + prompts + rankings -> every document's log-likelihoods and metric at every level.
# One job loads the model once and evaluates all levels of all rankings.

# A task alone has no closest and no farthest other task.
TRANSFERRED = STUDIED if len(STUDIED) > 1 else []
TRANSFERS = ["closest", "farthest"] if TRANSFERRED else []


rule prune:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=EVALUATED,
            rankings=rankings_of(lambda wildcards: [wildcards.task, *SHARED]),
        ),
    output:
        [pruned("{task}"), *map(pruned, SHARED)],
    log:
        "<artifacts>/logs/{model}/pruning/{task}/{shots}-shot/{component}.log",
    wildcard_constraints:
        task="|".join(map(re.escape, STUDIED)),
    group:
        together("pruning")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes("pruning of {}"),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        metric=metric,
        dtype=of_model("dtype"),
        levels=lambda wildcards: config["levels"][wildcards.component],
        rankings=lambda wildcards: [wildcards.task, *SHARED],
        heldout=False,
        transfer=False,
        ablation=ablation(),
        code=code("prune.py"),
    message:
        "Prune {wildcards.model}'s {wildcards.component}: {wildcards.task}, {wildcards.shots} shots"
    script:
        "../../scripts/prune.py"


use rule prune as prune_heldout with:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=EVALUATED,
            rankings=rankings_of(lambda wildcards: SHARED),
        ),
    output:
        [*map(pruned, SHARED)],
    log:
        "<artifacts>/logs/{model}/pruning/{task}/{shots}-shot/{component}-heldout.log",
    wildcard_constraints:
        task="|".join(map(re.escape, HELDOUT)) or "(?!)",
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        metric=metric,
        dtype=of_model("dtype"),
        levels=lambda wildcards: config["levels"][wildcards.component],
        rankings=SHARED,
        heldout=True,
        transfer=False,
        ablation=ablation(),
        code=code("prune.py"),


# A task pruned by the rankings of the tasks whose scores correlate most and least with its own.
rule prune_transfer:
    input:
        **current(
            model="<artifacts>/{model}/model.json",
            verified=VERIFIED,
            prompts=EVALUATED,
            rankings=rankings_of(lambda wildcards: STUDIED),
            importance=collect(
                "<artifacts>/{{model}}/importance/{task}/{{shots}}-shot/{{component}}.parquet",
                task=STUDIED,
            ),
        ),
    output:
        [*map(pruned, ["closest", "farthest"])],
    log:
        "<artifacts>/logs/{model}/pruning/{task}/{shots}-shot/{component}-transfer.log",
    wildcard_constraints:
        task="|".join(map(re.escape, TRANSFERRED)) or "(?!)",
        component="heads|ffns",
    group:
        together("pruning")
    conda:
        CONDA
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=minutes("pruning of {}"),
        turn=1,
        gpu=of_model("gpus"),
        engine_mb=of_model("memory"),
    params:
        place=place,
        task=lambda wildcards: task_meaning(wildcards.task),
        metric=metric,
        dtype=of_model("dtype"),
        levels=lambda wildcards: config["levels"][wildcards.component],
        rankings=["closest", "farthest"],
        heldout=False,
        transfer=True,
        ablation=ablation(),
        code=code("prune.py"),
    message:
        "Transfer to {wildcards.task}, {wildcards.shots} shots: {wildcards.model}'s {wildcards.component}"
    script:
        "../../scripts/prune.py"
