"""A checkpoint, and where it keeps its attention heads and FFNs.

- `checkpoints`: where a model is, and whether it is whole
- `conversion`: what is converted before a model is read
- `families`: where a model keeps its heads and FFNs
- `fingerprint`: what a checkpoint is, by its files
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
