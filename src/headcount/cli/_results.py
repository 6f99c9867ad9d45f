"""Commands that read what a study has found."""

import argparse
import sys
from pathlib import Path
from typing import Any

from headcount.cli import exits_on


def add_to(commands: Any) -> None:
    for name, run, what in (
        ("summary", _summary, "how much can be removed"),
        ("compare-paper", _compare_paper, "which of the paper's findings hold here"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
        command.set_defaults(run=run)

    why = commands.add_parser(
        "why", help="what an artifact was made from and, if it is stale, what has changed"
    )
    why.add_argument("path", metavar="PATH", type=Path, help="an artifact or a figure")
    why.add_argument("--configfile", help="the study that it belongs to, if not config.yaml")
    why.set_defaults(run=_why)

    cache = commands.add_parser("cache", help="what is kept of earlier computations, and its size")
    cache.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    cache.add_argument(
        "--remove",
        choices=["unused", "all"],
        help="what no study uses any longer; or all evaluations and earlier versions as well",
    )
    cache.set_defaults(run=_cache)

    parity = commands.add_parser("parity", help="how headcount compares with lm-eval, as Markdown")
    parity.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    parity.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write it there, unless what is there has a model that was not compared",
    )
    parity.set_defaults(run=_parity)


def _summary(arguments: argparse.Namespace) -> None:
    from headcount.report import summary

    with exits_on(summary.NoSummaryError):
        summary.show(arguments.artifacts)


def _compare_paper(arguments: argparse.Namespace) -> None:
    from headcount.report import comparison, summary

    with exits_on(summary.NoSummaryError):
        comparison.show(arguments.artifacts)


def _why(arguments: argparse.Namespace) -> None:
    from headcount.cli import _why as reasons

    with exits_on(reasons.NoReasonError):
        reasons.show(arguments.path, arguments.configfile)


def _cache(arguments: argparse.Namespace) -> None:
    from headcount.study import cache

    with exits_on(cache.NoCacheError):
        cache.show(arguments.artifacts, arguments.remove)


def _parity(arguments: argparse.Namespace) -> None:
    from headcount.interop import parity

    with exits_on(parity.NoParityError):
        page, equal = parity.show(arguments.artifacts)
    print(page)
    if arguments.page:
        there = arguments.page.read_text() if arguments.page.exists() else ""
        if missing := sorted(parity.models(there) - parity.models(page)):
            note = f"it has {', '.join(missing)} too, which was not compared here"
            print(f"headcount: {arguments.page} stays as it is: {note}", file=sys.stderr)
        else:
            arguments.page.write_text(page + "\n")
    if not equal:
        sys.exit("headcount: not all rows are equal")
