"""Comparison of the engine with the unmodified model, by a reference of independent definitions.

- `properties`: the properties that are compared
- `reference`: the unmodified model, with gates
- `tolerance`: bounds of rounding errors, and the proof on a study's own prompts
- `verdict`: all properties of one model, and the choice of its backend
"""

__all__ = [
    "properties",
    "reference",
    "tolerance",
    "verdict",
]
