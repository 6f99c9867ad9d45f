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
    plan = commands.add_parser("plan", help="what a study will cost, before it runs")
    plan.add_argument("--configfile", type=Path, default=Path("config.yaml"))
    plan.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    plan.set_defaults(run=_plan)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _summary(arguments: argparse.Namespace) -> None:
    from headcount import summary

    try:
        summary.show(arguments.artifacts)
    except summary.NoSummaryError as error:
        sys.exit(f"headcount: {error}")


def _plan(arguments: argparse.Namespace) -> None:
    from headcount import plan
    from headcount.tasks import TaskError

    try:
        plan.show(plan.read_config(arguments.configfile), arguments.artifacts)
    except (OSError, TaskError) as error:
        sys.exit(f"headcount: {arguments.configfile}: {error}")


if __name__ == "__main__":
    main()
