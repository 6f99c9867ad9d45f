"""How many attention heads and feed-forward networks does in-context learning need?

The library behind the Snakemake workflow, importable in a notebook. One noun of the field a module:

- `tasks`: lm-evaluation-harness tasks rendered to prompts
- `task_files`, `task_data`, `task_kinds`: what a task is and can do, told from its files
- `metrics`: what a task is judged by, in lm-eval's own numbers
- `checkpoint_files`: what a checkpoint is, told from its files
- `checkpoints`, `conversion`: where a model is, whether it is whole, and what is converted first
- `families`, `projections`: where a model keeps its heads and FFNs
- `model`: a causal language model whose heads and FFNs can be removed
- `sweep`: log-likelihoods of many prompts under many masks
- `verify`, `examination`, `proof`, `reference`: the engine beside the unmodified model
- `importance`, `rankings`, `pruning`, `correlation`, `induction`: the definitions of the numbers
- `resampling`: scores under resamples and halves of the documents
- `tables`, `figures`, `summary`: what people look at
- `paper`, `comparison`: the numbers of the paper, and whether they hold in a study
- `evaluations`, `parts`: what was ever swept, by content, and the files that it lies in
- `progress`: how far a long computation is
- `source_code`: what the code that a job runs means, and the packages that it uses
- `artifacts`: Parquet schemas, atomic writes, provenance
"""
