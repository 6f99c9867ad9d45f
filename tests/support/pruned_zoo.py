"""Every kind of removal, exported from a tiny model of a type, and judged beside the model.

The judge is the unmodified model with gates of zero (`headcount.verification.reference`), which
knows neither the engine nor what an export does to weights: all logits of a prompt are compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import tiny
import torch
import zoo
from transformers import AutoModelForCausalLM

from headcount.artifacts import schemas, storage
from headcount.engine.removal import Removal
from headcount.interop import export
from headcount.models import loading as model_loading
from headcount.models.language_model import LanguageModel
from headcount.scores import rankings
from headcount.scores.importance import components
from headcount.scores.rankings import Cut
from headcount.verification import tolerance
from headcount.verification.reference import Reference

TOKENS = [[2, *range(8, 24)], [2, *range(40, 24, -1)]]


def removals(model: LanguageModel) -> dict[str, Removal]:
    """What is removed, by a name for it."""
    attentive = [layer for layer, heads in enumerate(model.heads) if heads]
    middle, last = attentive[len(attentive) // 2], model.num_layers - 1

    def heads(layer):
        return [(layer, head) for head in range(model.heads[layer])]

    def everything(*layers):
        return [head for layer in layers for head in heads(layer)], [
            layer for layer in layers if layer in model.ffns
        ]

    but_one = [head for layer in attentive for head in heads(layer)[1:]]
    return {
        "some heads": (but_one, []),
        "all heads of a layer": (heads(middle), []),
        "the first FFN": ([], model.ffns[:1]),
        "heads and FFN of a layer": everything(middle),
        "all of the first layer": everything(0),
        "all of the last layer": everything(last),
        "all of two layers, some heads, an FFN": (
            sorted({*everything(0, last)[0], *but_one[::2]}),
            sorted({*everything(0, last)[1], *model.ffns[1:2]}),
        ),
    }


def save(model_type: str, directory: Path, **settings) -> Path:
    """A checkpoint of a tiny random model of a type, whose configuration `settings` change."""
    zoo.build(model_type, **settings).save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    return directory


def study(model: LanguageModel, removed: Removal, home: Path) -> dict[str, Cut]:
    """Artifacts in `home` of a model called m with rankings whose cuts remove what is to go."""
    facts = {"name": "m", "source": model.hf.name_or_path, "revision": None, "architecture": "X"}
    facts |= {"converted": None, "trust_remote_code": False, "layout": None}
    facts |= {"layers": model.num_layers, "heads": model.heads, "ffns": model.ffns}
    storage.write_json(home / "m" / "model.json", facts)
    cuts = {}
    gone_of = {*removed[0]}, {(layer, None) for layer in removed[1]}
    for kind, gone in zip(("heads", "ffns"), gone_of, strict=True):
        parts = sorted(components(model, kind), key=lambda part: part not in gone)
        schema = {"layer": pl.Int32, "head": pl.Int32}
        table = pl.DataFrame(parts, schema=schema, orient="row").with_row_index("score")
        table = rankings.rank(table).select(schemas.ROWS["rankings"].names)
        path = home / "m" / "rankings" / "mine" / "0-shot" / f"{kind}.parquet"
        storage.write(path, table.to_arrow(), schemas.ROWS["rankings"], {})
        if gone:
            cuts[kind] = Cut("mine", min(100.0, 100 * (len(gone) + 0.5) / len(parts)))
    return cuts


@dataclass
class Exported:
    """What an export says of itself, and how its logits differ from the gated model's."""

    report: dict
    logits: tolerance.Deviation

    @property
    def form(self) -> str:
        return "smaller" if self.report["configuration"] else "zeros"


def exported(source: Path, home: Path) -> Iterator[tuple[str, Exported]]:
    """Every kind of removal, by its name, exported from the model in `source` to below `home`."""
    model = model_loading.load(source)
    kinds = removals(model)
    last = len(TOKENS[0])
    judge = Reference(model, tolerance.COPIES, seed=1)
    gated = judge.logits(TOKENS, last, list(kinds.values()), model.heads)  # [1 + C, M, P, last, V]
    for number, (name, removed) in enumerate(kinds.items()):
        artifacts_, out = home / f"{number}-artifacts", home / f"{number}-out"
        report = export.export("m", study(model, removed, artifacts_), out, artifacts_)
        assert report["removed"] == {"heads": tuple(removed[0]), "ffns": tuple(removed[1])}
        loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        with torch.no_grad():
            found = loaded(input_ids=torch.tensor(TOKENS), use_cache=False).logits
        yield (
            name,
            Exported(report, tolerance.deviation(("logits", name), gated[:, number], found, None)),
        )
