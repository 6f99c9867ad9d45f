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

    parity = commands.add_parser("parity", help="how headcount compares with lm-eval, as Markdown")
    parity.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    parity.set_defaults(run=_parity)

    lm_eval = commands.add_parser(
        "lm-eval",
        help="lm-eval's own command, with all its arguments, which also knows --model headcount",
        add_help=False,  # --help is lm-eval's
    )
    lm_eval.set_defaults(run=_lm_eval)

    arguments, rest = parser.parse_known_args()
    if rest and arguments.run is not _lm_eval:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    arguments.rest = rest
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


def _parity(arguments: argparse.Namespace) -> None:
    from headcount import parity

    try:
        page, equal = parity.show(arguments.artifacts)
    except parity.NoParityError as error:
        sys.exit(f"headcount: {error}")
    print(page)
    if not equal:
        sys.exit("headcount: not all rows are equal")


def _lm_eval(arguments: argparse.Namespace) -> None:
    from lm_eval.__main__ import cli_evaluate

    import headcount.lm_eval_model  # noqa: F401, registers --model headcount
    from headcount.rankings import RankingError
    from headcount.tasks import supply_squad_metrics

    supply_squad_metrics()
    sys.argv = ["headcount lm-eval", *arguments.rest]
    try:
        cli_evaluate()
    except RankingError as error:
        sys.exit(f"headcount: {error}")


if __name__ == "__main__":
    main()
