"""Cumulative pruning: the least important components are removed first, level by level."""

import itertools
import json
from typing import Any

import polars as pl

from headcount.engine import Masks
from headcount.engine.removal import Ablation, Removal
from headcount.models.language_model import LanguageModel
from headcount.scores.documents import Documents, DocumentScores
from headcount.scores.evaluation_store import Store
from headcount.scores.rankings import COMPONENT, least_important


def prune(
    model: LanguageModel,
    evaluation: Documents,
    rankings: dict[str, dict[str, pl.DataFrame]],
    levels: list[tuple[float, float]],
    ablation: Ablation | None = None,
    store: Store | None = None,
) -> dict[str, list[dict]]:
    """Return rows of the artifact `pruning` for each ranking, at every level.

    `rankings` maps a name to the ranking table of each pruned component ("heads", "ffns"). `levels`
    are (heads level, FFNs level), in percent. Equal sets of components are evaluated once, for all
    levels and rankings. Removed components leave the stand-ins of `ablation`, zero by
    default. Evaluations in `store` are reused.
    """
    wanted = {
        (name, level): removal(ranking, *level)
        for name, ranking in rankings.items()
        for level in levels
    }
    distinct = list(dict.fromkeys(wanted.values()))
    scores = evaluation.run(model, Masks.removing(model, distinct, ablation), store)
    rows: dict[str, list[dict]] = {name: [] for name in rankings}
    for (name, level), gone in wanted.items():
        rows[name] += _rows(name, level, gone, evaluation, scores, distinct.index(gone))
    return rows


def grid(component: str, levels: Any) -> list[tuple[float, float]]:
    """Return the (heads level, FFNs level) at which a component is pruned.

    `levels` is a list, or a list for each component if `component` is "combined".
    """
    if component != "combined":
        levels = {"heads": [0.0], "ffns": [0.0], component: levels}
    return list(itertools.product(levels["heads"], levels["ffns"]))


def removal(ranking: dict[str, pl.DataFrame], heads_level: float, ffns_level: float) -> Removal:
    """Return the components removed at the levels, in percent; one without a ranking stays whole.

    Raises `ValueError` when a level is not between 0 and 100.
    """
    levels = {"heads": heads_level, "ffns": ffns_level}
    gone = {
        component: least_important(of_component, levels[component])
        .select(COMPONENT)
        .sort(COMPONENT)
        for component, of_component in ranking.items()
    }
    return (
        tuple(gone["heads"].rows()) if "heads" in gone else (),
        tuple(gone["ffns"]["layer"]) if "ffns" in gone else (),
    )


def order(ranking: str, task: str) -> str:
    """Return the order that a ranking is to a task: "own", "aggregate", "closest", "depth"..."""
    return "own" if ranking == task else ranking.split("-")[0]


def _rows(
    name: str,
    level: tuple[float, float],
    gone: Removal,
    evaluation: Documents,
    scores: DocumentScores,
    mask: int,
) -> list[dict]:
    return [
        {
            "ranking": name,
            "heads_level": level[0],
            "ffns_level": level[1],
            "heads_removed": len(gone[0]),
            "ffns_removed": len(gone[1]),
            "doc_id": doc_id,
            "log_likelihoods": scores.log_likelihoods[mask][document],
            "is_greedy": scores.is_greedy[mask][document],
            "metric": scores.metric[mask, document],
            "results": json.dumps(scores.results[mask][document], default=_plain),
        }
        for document, doc_id in enumerate(evaluation.doc_ids)
    ]


def _plain(value: Any) -> Any:
    """Return numpy's and torch's numbers and arrays as Python's, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a metric's result {value!r} ({type(value).__name__}) has no form in JSON")
