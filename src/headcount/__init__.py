"""How many attention heads and feed-forward networks does in-context learning need?

The library behind the Snakemake workflow. In a notebook, each name is loaded when it is first used:

    import headcount as hc

    study = hc.load("artifacts/opt-mini")  # what a study has made, as frames and figures
    scores = hc.score("gpt2", [("The capital of France is", " Paris")])

`load` is of `study`; `score`, `prune`, `verify`, `task` and `language_model` are of `notebook`. The
modules, each a noun of the field:

- `study`: the artifacts of one model as labelled frames, and its figures
- `present`: which artifacts in a directory are those of the study that ran last
- `notebook`: importance, pruning and verification in a line each

- `configuration`, `checks`: a study's configuration, and all that speaks against it beforehand
- `beginning`, `plan`: a study written for this machine, and what it will cost
- `tasks`: lm-evaluation-harness tasks rendered to prompts
- `task_files`, `task_data`, `task_streams`: where a task and its documents are, and what is in them
- `task_fields`, `task_functions`, `task_kinds`: what a task can do, told from its files
- `task_documents`: documents kept with their types, and compared by what a model sees of them
- `metrics`: what a task is judged by, in lm-eval's own numbers
- `checkpoint_files`, `weight_files`, `model_files`: what a checkpoint is, and lacks, by its files
- `checkpoints`, `conversion`: where a model is, whether it is whole, and what is converted first
- `families`, `projections`: where a model keeps its heads and FFNs
- `model`: a causal language model whose heads and FFNs can be removed
- `sweep`: log-likelihoods of many prompts under many masks
- `verification`, `examination`, `proof`, `reference`, `stand_ins`: the engine beside the unmodified
  model; `emptied`: what is left of a layer without heads and FFN; `upcast`: halves as float32
- `importance`, `rankings`, `pruning`, `correlation`, `induction`: the definitions of the numbers
- `resampling`: scores under resamples and halves of the documents
- `tables`, `figures`, `summary`: what people look at
- `export`, `narrow`, `stored`, `exported`: a pruned model as a checkpoint that is the studied one
- `paper`, `comparison`: the numbers of the paper, and whether they hold in a study
- `evaluations`, `parts`: what was ever swept, by content, and the files that it lies in
- `progress`: how far a long computation is
- `source_code`, `syntax`: what the code that a job runs means, and the packages that it uses
- `yaml_files`, `suggestions`: slips told with their place, and what a name was meant to be
- `cli`: the command `headcount`
- `artifacts`: Parquet schemas, atomic writes, provenance
"""

from importlib import import_module
from pkgutil import iter_modules

_PLACES = {
    "load": "study",
    **dict.fromkeys(("language_model", "prune", "score", "task", "verify"), "notebook"),
}


def __getattr__(name: str) -> object:
    """One of the functions above, or a module of the package."""
    if name in _PLACES:
        return getattr(import_module(f"headcount.{_PLACES[name]}"), name)
    if any(module.name == name for module in iter_modules(__path__)):
        return import_module(f"headcount.{name}")
    raise AttributeError(f"module 'headcount' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_PLACES, *(module.name for module in iter_modules(__path__))])
