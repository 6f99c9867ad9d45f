"""How many attention heads and feed-forward networks does in-context learning need?

The library behind the Snakemake workflow. In a notebook, each name is loaded when it is first used:

    import headcount as hc

    study = hc.load("artifacts/opt-mini")  # what a study has made, as frames and figures
    scores = hc.score("gpt2", [("The capital of France is", " Paris")])

`load` is of `study.results`; `score`, `prune`, `verify`, `task`, `language_model` are of
`notebook`. A package offers what its `__all__` names, and imports only packages that stand above it
here:

- `artifacts`: files and their identity
- `tasks`: lm-evaluation-harness tasks, rendered to prompts
- `models`: a checkpoint, and where it keeps its heads and FFNs
- `engine`: log-likelihoods and gradients of many prompts under many masks (of `models` alone)
- `scores`: the definitions of the numbers, and the store of evaluations
- `verification`: the engine beside the unmodified model
- `report`: tables, figures, summary, and the page that explores a study
- `interop`: lm-eval and transformers
- `study`: configure, check, plan, begin and read a study
- `cli`: the command `headcount`

Beside them stand `notebook`, `progress`, `messages` and `yaml_files`.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headcount.notebook import language_model, prune, score, task, verify
    from headcount.study.results import load

__all__ = ["language_model", "load", "prune", "score", "task", "verify"]

_PLACES = {name: "study.results" if name == "load" else "notebook" for name in __all__}


def __getattr__(name: str) -> object:
    """One of the functions above, or a package or module of the library."""
    if name in _PLACES:
        return getattr(import_module(f"headcount.{_PLACES[name]}"), name)
    if any(module.name == name for module in iter_modules(__path__)):
        return import_module(f"headcount.{name}")
    raise AttributeError(f"module 'headcount' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_PLACES, *(module.name for module in iter_modules(__path__))])
