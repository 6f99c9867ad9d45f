"""What a mistyped name was meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to end a message with: the name in `known` that is closest, if one is close."""
    close = get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""
