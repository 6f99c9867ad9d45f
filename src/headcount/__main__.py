"""The command `headcount`."""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="headcount", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    summary = commands.add_parser("summary", help="how much can go, in the terminal")
    summary.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    summary.set_defaults(run=_summary)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _summary(arguments: argparse.Namespace) -> None:
    from headcount import summary

    try:
        summary.show(arguments.artifacts)
    except summary.NoSummaryError as error:
        sys.exit(f"headcount: {error}")


if __name__ == "__main__":
    main()
