"""The engine beside the unmodified model, by a reference that shares no definition with it.

- `properties`: what is asked of the engine
- `reference`: the unmodified model, gated
- `tolerance`: how far rounding can lead
- `verdict`: every property of one model
"""

__all__ = [
    "properties",
    "reference",
    "tolerance",
    "verdict",
]
