"""The engine: log-likelihoods of many prompts under many masks, each piece of work once.

1. `trie`: prompts share their prefixes.
2. `sharing`: masks share the layers below the first one where they differ.
3. `layers`: everything passes a layer before the next begins, a `wave` at a time; `states` holds
   the hidden states in between, `memory` calculates how much fits.
4. `removal`: removed components are not computed.
5. `gradients`: layer by layer, without gradients of the weights.

There are two backends, between which `_backend` chooses: `_packed`, whose `attention` replaces that
of transformers, and `padded`, the model's own attention on `_rows` of padded prompts. `fitness`
refuses the models that neither can compute. Both are tested against
`headcount.verification.reference`.

Each letter is one axis in all of the engine:

| letter | axis |
| --- | --- |
| L | layers |
| H, K, e | query heads of a layer, its key-value heads, size of a head |
| d | the residual stream |
| R, T, N | rows of a block, positions of a row, tokens of a block: N = R T, and R = 1 if packed |
| S | scored tokens of a block: those that predict a target |
| Q | queries that attend together |
| P | states that pass a layer together |
| B | the batch that a layer is called with: P if packed, else R |
| M | masks |
| C | classes of positions, of an ablation |
"""

from headcount.engine.likelihoods import log_likelihoods
from headcount.engine.sharing import Masks

__all__ = [
    "Masks",
    "ablation",
    "attention",
    "fitness",
    "gradients",
    "layers",
    "likelihoods",
    "log_likelihoods",
    "memory",
    "padded",
    "removal",
    "sharing",
    "states",
    "trie",
]
