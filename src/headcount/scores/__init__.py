"""The definitions of the numbers, a module for each score, and the store of evaluations.

- `correlation`: agreement of scores between tasks and between shots
- `curves`: pruning curves, their areas and what can be removed
- `documents`: the documents of a task, and its metric under masks
- `evaluation_store`: every evaluation ever computed, by content
- `importance`: gradient and oracle scores
- `induction`: prefix matching and copying
- `pruning`: cumulative removal
- `rankings`: orders of components
"""

__all__ = [
    "correlation",
    "curves",
    "documents",
    "evaluation_store",
    "importance",
    "induction",
    "pruning",
    "rankings",
]
