"""The figures, drawn by Altair from their tables in `headcount.tables`.

A function each, by the figure's name, of the table and the style.
"""

from headcount.figures.across import importance_by_depth, pruning_by_model, removable_by_size
from headcount.figures.agreement import cross_shot, cross_task, estimator_agreement
from headcount.figures.components import ffn_importance, head_importance, head_importance_tasks
from headcount.figures.heads import induction, retention
from headcount.figures.pruning import (
    combined_pruning,
    ffn_pruning,
    ffn_pruning_tasks,
    head_pruning,
    head_pruning_tasks,
    transfer,
    transfer_tasks,
)
from headcount.figures.style import Style, save
from headcount.figures.summary import summary

__all__ = [
    "Style",
    "combined_pruning",
    "cross_shot",
    "cross_task",
    "estimator_agreement",
    "ffn_importance",
    "ffn_pruning",
    "ffn_pruning_tasks",
    "head_importance",
    "head_importance_tasks",
    "head_pruning",
    "head_pruning_tasks",
    "importance_by_depth",
    "induction",
    "pruning_by_model",
    "removable_by_size",
    "retention",
    "save",
    "summary",
    "transfer",
    "transfer_tasks",
]
