"""The engine: log-likelihoods of many prompts under many masks, each piece of work once.

1. `trie`: prompts share their prefixes.
2. `sharing`: masks share the layers below the first one where they differ.
3. `layers`: everything goes through a layer before the next begins, a `wave` at a time; `states`
   holds what waits, `memory` says how much fits.
4. `removal`: what is removed is not computed.
5. `gradients`: without those of the weights, layer by layer.

There are two ways through a layer, which `_backend` chooses between: `_packed`, whose `attention`
takes the place of transformers' own, and `padded`, the model's own attention on `_rows` of padded
prompts. `fitness` refuses the models that neither can compute, and
`headcount.verification.reference` is what both are tested against.

One letter, one axis, in all of the engine:

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
