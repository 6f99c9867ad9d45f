"""A pruned model as a checkpoint that plain transformers loads.

What removed components write to the residual stream is zeroed in the weights: the columns of the
attention output projection that read a removed head, and weight and bias of a removed FFN's last
projection. Where the architecture's configuration can say so, tensors also become smaller
(`headcount.narrow`). `from_pretrained` then gives the pruned model's logits without headcount.
"""

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import torch

from headcount import (
    artifacts,
    checkpoints,
    narrow,
    projections,
    rankings,
    source_code,
    temporaries,
)
from headcount.hashes import file_hashes
from headcount.model import LanguageModel, load
from headcount.pruning import Removal, removal
from headcount.suggestions import did_you_mean


class ExportError(ValueError):
    """What cannot be exported; the message says what to change."""


def export(
    model: str, cuts: dict[str, rankings.Cut], out: str | Path, directory: str | Path = "artifacts"
) -> dict:
    """Write the model called `model` in the artifacts `directory`, pruned, to the directory `out`.

    `cuts` has "heads", "ffns" or both. The weights keep the dtype that they are stored in. `out`
    appears when it is complete. Returns what `out/headcount.json` says.

    Raises `ExportError` or `rankings.RankingError`, before the model is loaded, when a model,
    ranking or level is not to be had or `out` holds something; `ModelError` when it does not load.
    """
    out, directory = Path(out), Path(directory)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty directory: choose another, or move it")
    facts = _model(model, directory)
    home = directory / model / "rankings"
    files = {name: rankings.locate(cut.ranking, name, home) for name, cut in cuts.items()}
    tables = {name: rankings.read(path, name, cuts[name].level) for name, path in files.items()}
    for table in tables.values():
        rankings.check(table, facts["heads"], facts["ffns"], model)
    levels = {name: cuts[name].level if name in cuts else 0 for name in ("heads", "ffns")}
    removed = removal(tables, levels["heads"], levels["ffns"])
    pruned = load(
        facts["path"],
        dtype="auto",
        trust_remote_code=facts["trust_remote_code"],
        layout=facts["layout"],
    )
    zero(pruned, removed)
    hf, changed = narrow.narrow(pruned, removed)
    report = {
        "model": {key: value for key, value in facts.items() if key not in HERE},
        "rankings": {name: asdict(cuts[name]) | _made(path) for name, path in files.items()},
        "removed": {"heads": removed[0], "ffns": removed[1]},
        "configuration": changed,
        "parameters": {"before": pruned.hf.num_parameters(), "after": hf.num_parameters()},
        "packages": source_code.packages(__file__),
    }
    with temporaries.appearing(out) as temporary:
        hf.save_pretrained(temporary)
        pruned.tokenizer.save_pretrained(temporary)
        (temporary / "headcount.json").write_text(
            json.dumps(report, indent=2) + "\n", encoding="utf-8"
        )
        (temporary / "README.md").write_text(card(report), encoding="utf-8")
    return report


@torch.no_grad()
def zero(model: LanguageModel, removed: Removal) -> None:
    """Zero, in place, the weights that removed components write to the residual stream with."""
    heads, ffns = removed
    for layer, head in heads:
        part = model.parts[layer]
        columns = slice(head * part.head_dim, (head + 1) * part.head_dim)
        projections.matrix(part.attention_output)[:, columns] = 0
    for layer in ffns:
        for parameter in model.parts[layer].ffn_output.parameters():
            parameter.zero_()


# --- what is asked for ---


def _model(name: str, directory: Path) -> dict:
    path = directory / name / "model.json"
    if not path.is_file():
        known = sorted(found.parent.name for found in directory.glob("*/model.json"))
        there = f"there: {', '.join(known) or 'none'}"
        raise ExportError(f"no model {name!r} in {directory}/ ({there}){did_you_mean(name, known)}")
    facts = artifacts.read_json(path)
    # A study names local models from the directory that it runs in, which its artifacts are below.
    places = [parent / facts["source"] for parent in (Path(), *directory.resolve().parents)]
    source = next((str(place) for place in places if place.is_dir()), facts["source"])
    return facts | {"path": str(checkpoints.place(facts | {"source": source}, path.parent))}


def _made(path: Path) -> dict:
    """What a ranking says of itself, and its content's hash."""
    metadata = pl.read_parquet_metadata(path).get("headcount", "{}")
    return {"made": json.loads(metadata), "sha256": file_hashes([path])[0]}


# --- what is written ---


def card(report: dict) -> str:
    """The model card, in Markdown."""
    model, removed, parameters = report["model"], report["removed"], report["parameters"]
    totals = {"heads": sum(model["heads"]), "ffns": len(model["ffns"])}
    names = {"heads": "attention heads", "ffns": "FFNs"}
    lines = [
        f"# {model['name']}, pruned",
        "",
        f"`{model['source']}` ({model['architecture']}, revision {model['revision'] or 'unknown'}) "
        "without",
        "",
    ]
    for name, ranking in report["rankings"].items():
        lines.append(
            f"- {len(removed[name])} of its {totals[name]} {names[name]}: the least important "
            f"{ranking['level']:g} % by the ranking `{ranking['ranking']}`"
        )
    lines += ["", ZEROED]
    if changed := report["configuration"]:
        settings = ", ".join(f"`{key}` {old} to {new}" for key, (old, new) in changed.items())
        lines += [
            f"Tensors are smaller, too: {settings}.",
            "Heads and layers no longer have the numbers that they have in the original.",
            "",
        ]
    lines += [
        f"Parameters: {parameters['after']:,} (before: {parameters['before']:,}).",
        "Every removed head and FFN, and how the rankings were made: `headcount.json`.",
    ]
    return "\n".join(lines) + "\n"


# Of a model's facts, what concerns these artifacts alone.
HERE = ("path", "key", "made_of", "content", "format")
ZEROED = """\
It loads with `transformers.AutoModelForCausalLM.from_pretrained` like any other. What the removed
components add to the residual stream is zero in the weights: the columns of the attention output
projections that read a removed head, weight and bias of the last projection of a removed FFN.
"""
