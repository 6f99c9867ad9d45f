"""The figures, drawn by Altair from their tables in `headcount.report.tables`.

A function each, by the figure's name, of the table and the style.
"""

from headcount.report.figures.across import importance_by_depth, pruning_by_model, removable_by_size
from headcount.report.figures.agreement import cross_shot, cross_task, estimator_agreement
from headcount.report.figures.components import (
    ffn_importance,
    head_importance,
    head_importance_tasks,
)
from headcount.report.figures.heads import induction, retention
from headcount.report.figures.pruning import (
    combined_pruning,
    ffn_pruning,
    ffn_pruning_tasks,
    head_pruning,
    head_pruning_tasks,
    transfer,
    transfer_tasks,
)
from headcount.report.figures.style import Style, save
from headcount.report.figures.summary import summary

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
