"""Writes the model card of opt-mini from the artifacts of the embedded study.

snakemake --cores all all && python workflow/resources/opt-mini/make_card.py
"""

from pathlib import Path
from string import Template

import polars as pl

HERE = Path(__file__).parent
ARTIFACTS = Path("artifacts/opt-mini")
MEAN = "mean over tasks"
# Tasks that the examples alone define.
IN_CONTEXT = ["mini_relabel", "mini_mapping", "mini_select", "mini_gerund", "mini_reverse"]


def table(name: str) -> pl.DataFrame:
    return pl.read_parquet(ARTIFACTS / "tables" / f"{name}.parquet")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracies(whole: pl.DataFrame, documents: int) -> str:
    """Unpruned accuracy of every task with its 95 % interval, and whether it beats chance."""
    rows = []
    for (task,), group in whole.group_by("task", maintain_order=True):
        points = list(group.sort("shots").iter_rows(named=True))
        best = max(points, key=lambda point: point["value"])
        error = (best["value"] * (1 - best["value"]) / documents) ** 0.5
        cells = [f"{p['value']:.2f} ({p['low']:.2f}-{p['high']:.2f})" for p in points]
        above = "yes" if best["value"] - 2 * error > best["chance"] else "no"
        rows.append([task, f"{best['chance']:.2f}", *cells, above])
    return markdown(["task", "chance", "0 shots", "1 shot", "5 shots", "> chance + 2 SE"], rows)


def pruning(name: str, removed: str) -> str:
    """Mean accuracy at every level under every order."""
    rows = []
    curves = table(name).filter(task=MEAN)
    for (shots, order), group in curves.group_by("shots", "order", maintain_order=True):
        values = group.unique(removed).sort(removed)
        rows.append([str(shots), order, *(f"{value:.2f}" for value in values["value"])])
    shares = curves[removed].unique().sort()
    return markdown(["shots", "order", *(f"{share:.0f} %" for share in shares)], sorted(rows))


def lead_over_depth() -> str:
    """Where the aggregate order is farthest ahead of depth, at each number of shots."""
    curves = table("head_pruning").filter(task=MEAN)
    keys = ["shots", "heads_removed"]
    wide = curves.pivot(on="order", index=keys, values="value", aggregate_function="first")
    lines = []
    for (shots,), group in wide.group_by("shots", maintain_order=True):
        best = (
            group.with_columns(lead=pl.col("aggregate") - pl.col("depth"))
            .sort("lead")
            .row(-1, named=True)
        )
        lines.append(
            f"- With {shots} examples, {best['heads_removed']:.0f} % of the heads gone: aggregate "
            f"{best['aggregate']:.2f}, own {best['own']:.2f}, depth {best['depth']:.2f}, random "
            f"{best['random']:.2f}"
        )
    return "\n".join(lines)


def induction() -> str:
    """The highest prefix-matching scores, beside the median."""
    heads = pl.read_parquet(ARTIFACTS / "induction" / "prefix_matching.parquet")
    top = heads.sort("score", descending=True).head(6)
    named = ", ".join(f"a{r['layer']}.h{r['head']} {r['score']:.2f}" for r in top.to_dicts())
    return f"{named}; median of the {heads.height} heads {heads['score'].median():.3f}"


def ffn_oracle() -> str:
    """Mean metric lost when the FFN of each layer is removed, in points."""
    scores = table("ffn_importance").filter(task="aggregate").sort("shots", "layer")
    rows = [
        [str(shots), *(f"{100 * score:.1f}" for score in group["score"])]
        for (shots,), group in scores.group_by("shots", maintain_order=True)
    ]
    layers = scores["layer"].n_unique()
    return markdown(["shots", *(f"layer {layer}" for layer in range(layers))], rows)


def main() -> None:
    transfer = table("transfer").filter(order="aggregate", heads_level=0.0)
    whole = transfer.select("shots", "task", "value", "low", "high", "chance")
    means = (
        whole.filter(pl.col("task").is_in(IN_CONTEXT))
        .group_by("shots")
        .agg(pl.col("value").mean())
        .sort("shots")
    )
    sample = next(ARTIFACTS.glob("pruning/*/0-shot/heads/by-aggregate.parquet"))
    documents = pl.read_parquet(sample)["doc_id"].n_unique()
    card = Template((HERE / "card.md").read_text()).substitute(
        documents=documents,
        accuracies=accuracies(whole, documents),
        in_context=", ".join(f"{value:.2f} at {shots} shots" for shots, value in means.rows()),
        heads=pruning("head_pruning", "heads_removed"),
        ffns=pruning("ffn_pruning", "ffns_removed"),
        lead=lead_over_depth(),
        induction=induction(),
        ffn_oracle=ffn_oracle(),
    )
    (HERE / "model" / "README.md").write_text(card)


if __name__ == "__main__":
    main()
