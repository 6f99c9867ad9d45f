"""Other tools: lm-eval, and checkpoints for transformers.

- `export`: a pruned model as a checkpoint
- `lm_eval_model`: a pruned model for lm-eval's command line
- `parity`: every number beside lm-eval's
"""

__all__ = [
    "export",
    "lm_eval_model",
    "parity",
]
