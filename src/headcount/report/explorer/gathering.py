"""What the explorer shows, from the artifacts of one model.

What a file is about (task, shots, component, ranking) is read from its provenance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from headcount.artifacts import storage
from headcount.report.explorer import document_panel
from headcount.report.explorer.packing import columns
from headcount.scores import rankings
from headcount.scores.correlation import AGGREGATE
from headcount.scores.curves import MEAN, TOLERANCE

CURVES = [  # of the tables of the pruning figures
    *("shots", "task", "order", "ranking", "heads_level", "ffns_level"),
    *("heads_removed", "ffns_removed", "heads_count", "ffns_count"),
    *("metric", "value", "low", "high", "drop", "drop_low", "drop_high", "chance"),
]
PAIRS = [  # of the tables `cross_task` and `cross_shot`
    *("a", "b", "shots_a", "shots_b", "rho", "rho_low", "rho_high"),
    *("overlap", "overlap_low", "overlap_high", "overlap_chance"),
    *("permuted_low", "permuted_high", "within_layers_low", "within_layers_high"),
]
SUMMARY = [
    *("shots", "component", "order", "heads_removed", "ffns_removed", "unpruned"),
    *("drop", "drop_low", "drop_high", "paper_heads", "paper_ffns"),
]

Scored = tuple[str, str, int]  # estimator, task, shots


@dataclass(frozen=True)
class Files:
    """The artifacts of a study, of which all but `importance`, of heads and FFNs, may be missing.

    `controls` are the rankings that know nothing of importance, `tables` those of the figures by
    their names.
    """

    importance: Sequence[str]
    estimators: Sequence[str] = ()
    controls: Sequence[str] = ()
    induction: Sequence[str] = ()
    pruning: Sequence[str] = ()
    prompts: Sequence[str] = ()
    tables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """What the page holds: `study` is read when it opens, a part of `documents` on demand."""

    study: dict[str, Any]
    documents: list[dict[str, Any]]


def gather(files: Files, names: Mapping[str, str] | None = None) -> Gathered:
    """Everything that the page shows, as `headcount.report.explorer.packing.pack` takes it.

    `names` are how tasks and models are written, where that is not their own name.

    Raises `DamagedError` for a file that cannot be believed, `ValueError` when there is no
    importance of heads, or none of FFNs.
    """
    made = [storage.provenance(path) for path in files.importance]
    tasks = list(dict.fromkeys(one["task"] for one in made))
    components = {name: _component(files, name, tasks) for name in ("heads", "ffns")}
    parts = document_panel.gather(files.prompts, files.pruning)
    pruned = dict.fromkeys(part["task"] for part in parts)
    study = {
        "model": _model(made[0]["model"]),
        "names": dict(names or {}),
        "tasks": tasks,
        "heldout": [task for task in pruned if task not in tasks],
        "shots": sorted({one["shots"] for one in made}),
        "mean": MEAN,
        "tolerance": TOLERANCE,
        "components": components,
        "induction": _induction(files.induction),
        "combined": _curves(files, ["combined_pruning"]),
        "summary": columns(_table(files, "summary", SUMMARY)),
        "remarks": _remarks(files.prompts, parts),
        "documents": [{key: part[key] for key in ("task", "shots")} for part in parts],
    }
    return Gathered(study, parts)


def _model(facts: dict[str, Any]) -> dict[str, Any]:
    about = {key: facts[key] for key in ("name", "architecture", "layers")}
    return {**about, "heads": sum(facts["heads"]), "ffns": len(facts["ffns"])}


def _component(files: Files, name: str, tasks: list[str]) -> dict[str, Any]:
    """Heads or FFNs, in the order (layer, head): scores, ranks, pruning curves, correlations."""
    scores = _scores(files, name)
    if not scores:
        raise ValueError(f"the explorer needs the importance of {name}; no file has it")
    first = next(iter(scores.values())).sort(rankings.COMPONENT)
    drawn = {"heads": ["head_pruning", "transfer"], "ffns": ["ffn_pruning"]}[name]
    pairs = [_table(files, table, ["component", *PAIRS]) for table in ("cross_task", "cross_shot")]
    return {
        "layer": _integers(first["layer"]),
        "head": _integers(first["head"].fill_null(-1)),
        "estimators": list(dict.fromkeys(estimator for estimator, _, _ in scores)),
        "scores": _vectors(scores, tasks),
        "controls": [
            {"name": made["ranking"], "shots": made["shots"], "rank": _ranks(ranking)}
            for made, ranking in _read(files.controls)
            if made["component"] == name
        ],
        "curves": _curves(files, drawn),
        "pairs": columns(pl.concat(pairs).filter(component=name).drop("component")),
    }


def _scores(files: Files, component: str) -> dict[Scored, pl.DataFrame]:
    """Layer, head, score, standard_error; those by the study's own estimator come first."""
    scores = {}
    for made, frame in _read(files.importance):
        if made["component"] == component:
            scores[made["estimator"], made["task"], made["shots"]] = frame
    for made, frame in _read(files.estimators):
        if made["component"] == component:
            for (name,), rows in frame.group_by("estimator", maintain_order=True):
                scores.setdefault((name, made["task"], made["shots"]), rows)
    return scores


def _vectors(scores: dict[Scored, pl.DataFrame], tasks: list[str]) -> list[dict[str, Any]]:
    """A score, its error and its rank (0 is removed first) for each component, and of the mean."""
    vectors = [
        {
            "estimator": estimator,
            "task": task,
            "shots": shots,
            "score": _floats(frame, "score"),
            "error": _floats(frame, "standard_error"),
            "rank": _ranks(rankings.rank(frame)),
        }
        for (estimator, task, shots), frame in scores.items()
    ]
    for estimator, shots in dict.fromkeys((name, at) for name, _, at in scores):
        of_tasks = [scores.get((estimator, task, shots)) for task in tasks]
        if len(tasks) == 1 or any(frame is None for frame in of_tasks):
            continue
        mean = rankings.aggregate(of_tasks)
        about = {"estimator": estimator, "task": AGGREGATE, "shots": shots, "error": None}
        ranks = _ranks(rankings.rank(mean))
        vectors.append({**about, "score": _floats(mean, "score"), "rank": ranks})
    return vectors


def _curves(files: Files, names: list[str]) -> dict[str, Any]:
    """Points of pruning curves; those that two tables have in common once."""
    table = pl.concat([_table(files, name, CURVES) for name in names])
    about = ["shots", "task", "order", "heads_level", "ffns_level"]
    return columns(table.unique(about, keep="first", maintain_order=True))


def _induction(paths: Sequence[str]) -> dict[str, Any]:
    """Kind -> score and error of each head."""
    return {
        made["kind"]: {
            "score": _floats(frame, "score"),
            "error": _floats(frame, "standard_error"),
        }
        for made, frame in _read(paths)
    }


def _remarks(prompts: Sequence[str], parts: list[dict[str, Any]]) -> list[str]:
    """What the results have to be read with."""
    remarks = [
        (made, remark)
        for made in map(storage.provenance, prompts)
        for remark in made.get("remarks", [])
    ]
    remarks += [
        (part, f"{part['truncated']} prompts are cut to the model's window")
        for part in parts
        if part["truncated"]
    ]
    return [f"{about['task']}, {about['shots']}-shot: {remark}" for about, remark in remarks]


def _read(paths: Sequence[str]) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    return [(storage.provenance(path), _frame(path)) for path in paths]


def _frame(path: str) -> pl.DataFrame:
    """The artifact without every document's contributions, which the page does not show."""
    table = storage.frame(path)
    return table.drop("contributions", "weights", strict=False)


def _table(files: Files, name: str, wanted: list[str]) -> pl.DataFrame:
    """Columns of a figure's table, without rows where the study has no such table."""
    if name not in files.tables:
        return pl.DataFrame(schema=dict.fromkeys(wanted, pl.Null))
    return storage.frame(files.tables[name], columns=wanted)


def _ranks(ranking: pl.DataFrame) -> np.ndarray:
    return _integers(ranking.sort(rankings.COMPONENT)["rank"])


def _floats(frame: pl.DataFrame, column: str) -> np.ndarray:
    return frame.sort(rankings.COMPONENT)[column].to_numpy().astype(np.float32)


def _integers(column: pl.Series) -> np.ndarray:
    return column.to_numpy().astype(np.int32)
