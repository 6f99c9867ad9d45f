"""How many attention heads and feed-forward networks does in-context learning need?

The library behind the Snakemake workflow, importable in a notebook. One noun of the field a module:

- `tasks`: lm-evaluation-harness tasks rendered to prompts, and their metrics
- `checkpoints`, `conversion`: where a model is, whether it is whole, and what is converted first
- `model`: a causal language model whose heads and FFNs can be removed
- `sweep`: log-likelihoods of many prompts under many masks
- `importance`, `rankings`, `pruning`, `correlation`, `induction`: the definitions of the numbers
- `resampling`: scores under resamples and halves of the documents
- `tables`, `figures`, `summary`: what people look at
- `artifacts`: Parquet schemas, atomic writes, provenance
"""
