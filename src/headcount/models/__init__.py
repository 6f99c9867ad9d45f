"""A checkpoint, and where it keeps its attention heads and FFNs.

- `checkpoints`: finding a checkpoint, and reading it whole
- `conversion`: checkpoints that have to be converted before they are read
- `families`: where model families keep their heads and FFNs
- `fingerprint`: the identity of a checkpoint, by its files
- `language_model`: a causal language model whose heads and FFNs can be removed
- `loading`: a model from its checkpoint
- `projections`: the weights that read and write heads
"""

__all__ = [
    "checkpoints",
    "conversion",
    "families",
    "fingerprint",
    "language_model",
    "loading",
    "projections",
]
