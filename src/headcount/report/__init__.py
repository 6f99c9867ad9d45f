"""What people look at.

- `across`: tables of several models
- `catalogue`: which figures there are
- `comparison`: whether the paper's findings hold in a study
- `explorer`: the interactive page
- `figures`: drawings
- `paper`: the numbers of the paper
- `summary`: a study in a few lines
- `tables`: what figures show
- `vocabulary`: names, colours and marks that figures and explorer share
"""

__all__ = [
    "across",
    "catalogue",
    "comparison",
    "explorer",
    "figures",
    "paper",
    "summary",
    "tables",
    "vocabulary",
]
