"""The documents of a study at every point of its pruning curves, as many as a page can hold.

Of each task and number of shots the first documents of the evaluation are kept, with the ends of
their contexts; how many of all documents a point lost and gained is counted over all.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from headcount.artifacts import storage
from headcount.report.explorer.packing import rounded

DOCUMENTS = 100  # of a task at a number of shots
CHARACTERS = 1500  # of a context, its last ones
CHOICE_CHARACTERS = 400  # of a choice, its first ones
VALUES = 2_000_000  # log-likelihoods of all documents at all points: about 7 MB of the page
Made = dict[str, Any]  # the provenance of an artifact
LEVELS = ["heads_level", "ffns_level"]


def gather(prompts: Sequence[str], pruning: Sequence[str]) -> list[dict[str, Any]]:
    """For every task and number of shots: its documents, unpruned, and at every pruning level.

    `documents` have their texts; `starts` says at which log-likelihood each begins; `whole` and
    each of `points` name their row of `log_likelihoods` and of `metrics`, where equal rows stand
    once.
    """
    pruned = defaultdict(list)
    for path in pruning:
        made = storage.provenance(path)
        pruned[made["task"], made["shots"]].append((made, path))
    made_of = {path: storage.provenance(path) for path in prompts}
    evaluated = [path for path in prompts if made_of[path]["split"] == "evaluation"]
    parts = []
    for path in evaluated:
        about = (made_of[path]["task"], made_of[path]["shots"])
        if about in pruned:
            budget = VALUES // len(evaluated)
            parts.append(_part(about, storage.frame(path), pruned[about], budget))
    return parts


def _part(
    about: tuple[str, int],
    prompts: pl.DataFrame,
    pruned: list[tuple[Made, str]],
    budget: int,
) -> dict[str, Any]:
    prompts = prompts.sort("doc_id", "choice")
    by_document = prompts.group_by("doc_id", maintain_order=True)
    choices = by_document.len()["len"].cast(pl.Int64).to_numpy()
    starts = np.concatenate([[0], np.cumsum(choices)])
    most = starts[min(DOCUMENTS, len(choices))]
    points = [point for made, path in pruned for point in _points(made, path, most)]
    fitting = np.searchsorted(starts, budget // len(points), side="right") - 1
    kept = min(max(int(fitting), 1), DOCUMENTS, len(choices))
    log_likelihoods, metrics = _Rows(), _Rows()

    def rows(point: _Point) -> dict[str, Any]:
        return {
            "row": log_likelihoods.add(point.log_likelihoods[: starts[kept]]),
            "metric": metrics.add(point.metric[:kept]),
        }

    whole = next(point for point in points if point.level == (0, 0))
    return {
        "task": about[0],
        "shots": about[1],
        "kept": kept,
        "total": len(choices),
        "name": pruned[0][0]["metric"],
        "truncated": pruned[0][0]["truncated"],
        "documents": _texts(prompts, kept),
        "starts": starts[: kept + 1].astype(np.int32),
        "whole": rows(whole),
        "points": [
            {
                "component": point.made["component"],
                "ranking": point.made["ranking"],
                "heads_level": point.level[0],
                "ffns_level": point.level[1],
                "lost": int((point.metric < whole.metric).sum()),
                "gained": int((point.metric > whole.metric).sum()),
                **rows(point),
            }
            for point in points
        ],
        "log_likelihoods": log_likelihoods.rows,
        "metrics": metrics.rows,
    }


class _Point(NamedTuple):
    """The D documents, in the order of their numbers, under one ranking at one level."""

    made: Made  # the provenance of its file
    level: tuple[float, float]  # of heads, of FFNs
    log_likelihoods: np.ndarray  # of the first documents' choices, float32
    metric: np.ndarray  # [D]


def _points(made: Made, path: str, most: int) -> list[_Point]:
    """The levels of a file, each with its first `most` log-likelihoods."""
    columns = [*LEVELS, "doc_id", "log_likelihoods", "metric"]
    frame = storage.frame(path, columns=columns).sort(*LEVELS, "doc_id")
    levels = frame.select(LEVELS).unique(maintain_order=True).rows()
    log_likelihoods = frame["log_likelihoods"].explode().to_numpy().reshape(len(levels), -1)
    kept = log_likelihoods[:, :most].astype(np.float32)  # a copy: the others can go
    metrics = frame["metric"].to_numpy().reshape(len(levels), -1)
    return [_Point(made, *point) for point in zip(levels, kept, metrics, strict=True)]


class _Rows:
    """Arrays, equal ones once."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self._index: dict[bytes, int] = {}

    def add(self, values: np.ndarray) -> int:
        """The index of the values among `rows`."""
        row = rounded(values)
        index = self._index.setdefault(row.tobytes(), len(self.rows))
        if index == len(self.rows):
            self.rows.append(row)
        return index


def _texts(evaluated: pl.DataFrame, kept: int) -> list[dict[str, Any]]:
    """Of each document: contexts (one, where its choices share it), choices, which are right."""
    texts: list[dict[str, Any]] = []
    for (doc_id,), rows in evaluated.group_by("doc_id", maintain_order=True):
        if len(texts) == kept:
            break
        contexts = rows["context"].unique(maintain_order=True).to_list()
        contexts = rows["context"].to_list() if len(contexts) > 1 else contexts
        texts.append(
            {
                "id": doc_id,
                "contexts": [context[-CHARACTERS:] for context in contexts],
                "cut": [max(len(context) - CHARACTERS, 0) for context in contexts],
                "choices": [text[:CHOICE_CHARACTERS] for text in rows["continuation"]],
                "gold": [int(gold) for gold in rows["gold"]],
            }
        )
    return texts
