"""The command `headcount`: how many heads and FFNs does in-context learning need?

A module here holds the commands of one kind: of a study, of its results, of single models.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

DESCRIPTION = "How many attention heads and FFNs does in-context learning need, and which ones?"
EPILOG = "A study of your own: headcount init --model MODEL --tasks TASK,TASK"


def main() -> None:
    from headcount.cli import models, results, study

    parser = argparse.ArgumentParser(prog="headcount", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"headcount {version('headcount')}")
    parser.set_defaults(run=None, takes_more=False)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in (study, results, models):
        module.add_to(commands)
    arguments, rest = parser.parse_known_args()
    if arguments.run is None:
        parser.print_help()
        return
    if rest and not arguments.takes_more:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    arguments.rest = rest
    arguments.run(arguments)


@contextmanager
def told(*errors: type[Exception]) -> Iterator[None]:
    """Inside, what goes wrong in one of these ways ends the command with one sentence."""
    try:
        yield
    except errors as error:
        lines = str(error).splitlines() or [type(error).__name__]
        sys.exit("\n".join(f"headcount: {line}" for line in lines))
