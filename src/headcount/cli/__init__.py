"""The command `headcount`: how many heads and FFNs does in-context learning need?

A module here holds the commands of one kind: of a study, of its results, of single models.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

DESCRIPTION = "How many attention heads and FFNs does in-context learning need, and which ones?"
EPILOG = "A study of your own: headcount init --model MODEL --tasks TASK,TASK"


def main() -> None:
    from headcount.cli import _models, _results, _study

    if (
        os.environ.get("COLUMNS") == "0"
    ):  # of a terminal that does not know; rich would print nothing
        del os.environ["COLUMNS"]
    parser = argparse.ArgumentParser(prog="headcount", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"headcount {version('headcount')}")
    parser.set_defaults(run=None, takes_more=False)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in (_study, _results, _models):
        module.add_to(commands)
    arguments, rest = parser.parse_known_args()
    if arguments.run is None:
        parser.print_help()
        return
    if rest and not arguments.takes_more:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    arguments.rest = rest
    arguments.run(arguments)


def needs_cache() -> None:
    """End the command where nothing can be cached: other libraries take for granted that it can."""
    from headcount.artifacts import hashes, temporaries

    place = hashes.memory()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with temporaries.file(place / "try"):
            return
    except OSError as error:
        sys.exit(
            f"headcount: nothing can be cached in {place.parent}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a directory that you may write in"
        )


@contextmanager
def exits_on(*errors: type[Exception]) -> Iterator[None]:
    """Inside, what goes wrong in one of these ways ends the command with one sentence."""
    try:
        yield
    except errors as error:
        lines = str(error).splitlines() or [type(error).__name__]
        sys.exit("\n".join(f"headcount: {line}" for line in lines))
