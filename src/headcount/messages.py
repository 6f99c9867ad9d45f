"""Parts of messages: the name that was meant; numbers and times as people read them."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to end a message with: the name in `known` that is closest, if one is close."""
    close = get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def unit(number: float, name: str) -> str:
    """A number with the prefix that suits it: 1.2 TFLOP, 540 MB."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{name}"
    return f"{number / 1e3:.3g} k{name}"


def duration(hours: float) -> str:
    """A time in the unit that suits it: 12 s, 3.4 min, 7 h, 12 days."""
    for factor, name in ((1 / 24, "days"), (1, "h"), (60, "min"), (3600, "s")):
        number = hours * factor
        if number >= 1.5:
            return f"{number:.0f} {name}" if number >= 10 else f"{number:.1f} {name}"
    return "< 2 s"
