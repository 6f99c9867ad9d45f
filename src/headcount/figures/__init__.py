"""The figures, one function each, drawn by Altair from their tables in `headcount.tables`."""

from headcount.figures.agreement import cross_shot, cross_task, estimator_agreement
from headcount.figures.components import ffn_importance, head_importance, induction
from headcount.figures.pruning import (
    combined_pruning,
    ffn_pruning,
    head_pruning,
    retention,
    summary,
    transfer,
)
from headcount.figures.style import save

__all__ = [
    "combined_pruning",
    "cross_shot",
    "cross_task",
    "estimator_agreement",
    "ffn_importance",
    "ffn_pruning",
    "head_importance",
    "head_pruning",
    "induction",
    "retention",
    "save",
    "summary",
    "transfer",
]
