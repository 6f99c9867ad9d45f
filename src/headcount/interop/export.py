"""Export of a pruned model as a checkpoint that plain transformers loads.

Weights by which removed components write to the residual stream become zero: the columns of the
attention output projection that read a removed head, and weight and bias of a removed FFN's last
projection. If the configuration can express it, tensors also become smaller
(`headcount.interop._narrow`). Before the checkpoint appears, transformers loads it, and it is
compared with the study's masks (`headcount.interop._exported`): `from_pretrained` gives the pruned
model's logits without headcount.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from headcount.artifacts import source_code, storage, temporaries
from headcount.artifacts.hashes import file_hashes
from headcount.engine.removal import Removal
from headcount.interop import _exported, _narrow, _stored
from headcount.interop._narrow import Narrowed
from headcount.messages import did_you_mean
from headcount.models import checkpoints, loading as model_loading, projections
from headcount.models.fingerprint import fingerprint
from headcount.models.language_model import LanguageModel
from headcount.scores import rankings
from headcount.scores.pruning import removal

logger = logging.getLogger(__name__)


class ExportError(ValueError):
    """An export that is not possible; the message says what to change."""


def export(
    model: str, cuts: dict[str, rankings.Cut], out: str | Path, directory: str | Path = "artifacts"
) -> dict:
    """Write `model`, a name in the artifacts `directory`, pruned, to `out`; return its report.

    `cuts` has "heads", "ffns" or both. The weights keep the dtype that they are stored in. `out`
    appears after it was compared with the study. The report is the content of `out/headcount.json`.

    Raises `ExportError` or `rankings.RankingError`, before the model is loaded, when a model,
    ranking or level does not exist, `out` is not empty, the model is no longer the one that was
    studied, or the study replaces removed components by stand-ins; `ModelError` when the model does
    not load; and `ExportError`, writing nothing, when no checkpoint agrees with the study's masks.
    """
    out, directory = Path(out), Path(directory)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty directory: choose another, or move it")
    facts = _model(model, directory)
    _refuse_stand_ins(directory / model)
    home = directory / model / "rankings"
    files = {name: rankings.locate(cut.ranking, name, home) for name, cut in cuts.items()}
    tables = {name: rankings.read(path, name, cuts[name].level) for name, path in files.items()}
    for table in tables.values():
        rankings.check(table, facts["heads"], facts["ffns"], model)
    levels = {name: cuts[name].level if name in cuts else 0 for name in ("heads", "ffns")}
    removed = removal(tables, levels["heads"], levels["ffns"])
    report = {
        "model": {key: value for key, value in facts.items() if key not in HERE},
        "rankings": {name: asdict(cuts[name]) | _made(path) for name, path in files.items()},
        "removed": {"heads": removed[0], "ffns": removed[1]},
        "packages": source_code.packages(__file__),
    }
    _refuse_another(facts)
    weights = _stored.weights(Path(facts["path"]))
    expected = _exported.expected(
        model_loading.load(facts["path"], **_exactly(facts, weights)), removed
    )
    try:
        return _write(facts, weights, expected, report | {"note": ""}, out, smaller=True)
    except _exported.Differs as difference:
        note = f"with smaller tensors it is not the model that was studied: {difference}"
        logger.warning("%s; zeros in weights of full size are tried instead", note)
    try:
        return _write(facts, weights, expected, report | {"note": note}, out, smaller=False)
    except _exported.Differs as difference:
        raise ExportError(
            f"{model} ({facts['architecture']}): with zero weights for what is removed, it is not "
            f"the model that was studied: {difference}. Nothing is written. `headcount verify` "
            "shows whether the study computes this model correctly: report the architecture and "
            "this line"
        ) from difference


def _exactly(facts: dict, weights: dict[str, Tensor]) -> dict:
    """Return arguments to load a model with these weights for a comparison in float32."""
    dtype = {"dtype": "float32", "device_map": _exported.place(weights)}
    return _loading(facts) | dtype


def _loading(facts: dict) -> dict:
    return {key: facts[key] for key in ("trust_remote_code", "layout")}


def _write(
    facts: dict,
    weights: dict[str, Tensor],
    expected: _exported.Expected,
    report: dict,
    out: Path,
    smaller: bool,
) -> dict:
    """Write the directory `out`, with smaller tensors if asked and possible; return its report.

    Raises `_exported.Differs`, and writes nothing, when it is not the model that was studied.
    """
    with temporaries.atomic_directory(out) as beside:
        report = report | _save(facts, weights, expected.removed, beside, smaller)
        compared = _exported.check(beside, _exactly(facts, weights), expected)
        report["compared"] = {"difference": compared.difference, "bound": compared.bound}
        text = json.dumps(report, indent=2) + "\n"
        (beside / "headcount.json").write_text(text, encoding="utf-8")
        (beside / "README.md").write_text(card(report), encoding="utf-8")
    return report


def _save(
    facts: dict, weights: dict[str, Tensor], removed: Removal, beside: Path, smaller: bool
) -> dict:
    """Save the pruned model in the directory `beside`; return its part of the report."""
    pruned = model_loading.load(facts["path"], dtype="auto", **_loading(facts))
    if _stored.rounds(pruned.hf, weights):
        widest = str(_stored.widest(weights)).removeprefix("torch.")
        pruned = model_loading.load(facts["path"], dtype=widest, **_loading(facts))
    dtype = pruned.hf.config.dtype
    _stored.restore(pruned.hf, weights)
    zero(pruned, removed)
    form = _narrow.narrow(pruned, removed) if smaller else Narrowed(pruned.hf, {}, "")
    form.hf.save_pretrained(beside)
    # transformers writes the type of the first weight, but others may need a wider one.
    config = json.loads((beside / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    (beside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    pruned.tokenizer.save_pretrained(beside)
    counts = {"before": pruned.hf.num_parameters(), "after": form.hf.num_parameters()}
    said = {"configuration": form.changed, "parameters": counts}
    return said | ({"note": form.note} if form.note else {})


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


# --- the study ---


def _model(name: str, directory: Path) -> dict:
    path = directory / name / "model.json"
    if not path.is_file():
        known = sorted(found.parent.name for found in directory.glob("*/model.json"))
        there = f"there: {', '.join(known) or 'none'}"
        raise ExportError(f"no model {name!r} in {directory}/ ({there}){did_you_mean(name, known)}")
    facts = storage.read_json(path)
    # A study names local models relative to its directory, which is above its artifacts.
    places = [parent / facts["source"] for parent in (Path(), *directory.resolve().parents)]
    source = next((str(place) for place in places if place.is_dir()), facts["source"])
    return facts | {"path": str(checkpoints.place(facts | {"source": source}, path.parent))}


def _refuse_stand_ins(home: Path) -> None:
    """Raise `ExportError` when the study of a model used stand-ins for removed components."""
    for path in sorted(home.glob("pruning/**/*.parquet")):
        parameters = storage.provenance(path).get("made_of", {}).get("parameters", {})
        kind = parameters.get("ablation", {}).get("kind", "zero")
        if kind != "zero":
            raise ExportError(
                f"{path} was computed with `ablation: {kind}`, which puts activations in place of "
                "removed components; weights cannot express that: export from a study with "
                "`ablation: zero`"
            )


def _refuse_another(facts: dict) -> None:
    """Raise `ExportError` when the model at its path is not the one of the study."""
    studied = facts.get("fingerprint")
    if studied and studied != fingerprint(facts["path"]):
        raise ExportError(
            f"{facts['path']} does not have the fingerprint of the model that was studied as "
            f"{facts['name']}: put that one back, or run the study again (also if an earlier "
            "version of headcount made it)"
        )


def _made(path: Path) -> dict:
    """Return the provenance of a ranking, and the hash of its file."""
    metadata = pl.read_parquet_metadata(path).get("headcount", "{}")
    return {"made": json.loads(metadata), "sha256": file_hashes([path])[0]}


# --- the model card ---


def card(report: dict) -> str:
    """Return the model card, in Markdown."""
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
    if report["note"]:
        lines += [f"Weights have their full size: {report['note']}.", ""]
    compared = report["compared"]
    lines += [
        "As transformers loads it, log-likelihoods of random prompts differ from the study's by "
        f"{compared['difference']:.2g} at most; rounding explains {compared['bound']:.2g}.",
        f"Parameters: {parameters['after']:,} (before: {parameters['before']:,}).",
        "Every removed head and FFN, and how the rankings were made: `headcount.json`.",
    ]
    return "\n".join(lines) + "\n"


# Facts of a model that concern only the study's artifacts.
HERE = ("path", "key", "made_of", "content", "format")
ZEROED = """\
It loads with `transformers.AutoModelForCausalLM.from_pretrained` like any other. The weights by
which removed components write to the residual stream are zero: the columns of the attention output
projections that read a removed head, weight and bias of the last projection of a removed FFN.
"""
