"""The engine: log-likelihoods of many prompts under many masks, each piece of work once.

1. `trie`: prompts share their prefixes.
2. `sharing`: masks share the layers below the first one where they differ.
3. `layers`: everything goes through a layer before the next begins; `states` holds what waits,
   `memory` says how much fits.
4. `removal`: what is removed is not computed.
5. `gradients`: without those of the weights, layer by layer.

`attention` computes transformers' attention over packed prompts.
"""

from headcount.sweep.likelihoods import log_likelihoods
from headcount.sweep.sharing import Masks

__all__ = ["Masks", "log_likelihoods"]
