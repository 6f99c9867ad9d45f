"""The command `headcount`."""

import argparse
import sys
from functools import partial
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="headcount", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    summary = commands.add_parser("summary", help="how much can go, in the terminal")
    summary.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    summary.set_defaults(run=_summary)

    compare = commands.add_parser("compare-paper", help="which of the paper's findings hold")
    compare.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    compare.set_defaults(run=_compare_paper)

    plan = commands.add_parser("plan", help="what a study will cost, before it runs")
    plan.add_argument("--configfile", type=Path, default=Path("config.yaml"))
    plan.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    plan.set_defaults(run=_plan)

    why = commands.add_parser(
        "why", help="what an artifact was made of and, if it is stale, what is different now"
    )
    why.add_argument("path", metavar="PATH", type=Path, help="an artifact or a figure")
    why.add_argument("--configfile", help="the study that asks for it, if not config.yaml")
    why.set_defaults(run=_why)

    cache = commands.add_parser("cache", help="what is kept of earlier computations, and its size")
    cache.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    cache.add_argument(
        "--remove",
        choices=["unused", "all"],
        help="evaluations that no study takes any more, or everything, earlier versions included",
    )
    cache.set_defaults(run=_cache)

    verify = commands.add_parser(
        "verify", help="whether headcount computes what a model computes, property by property"
    )
    verify.add_argument("source", metavar="MODEL_OR_PATH", help="of the hub, or a directory")
    verify.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    verify.add_argument("--device-map", default="cpu", help="cpu, cuda, auto, disk...")
    verify.set_defaults(run=_verify)

    export = commands.add_parser(
        "export",
        help="a pruned model as a checkpoint that plain transformers loads",
        usage="headcount export --model NAME [--heads RANKING --level PERCENT] "
        "[--ffns RANKING --level PERCENT] OUT",
    )
    export.add_argument("--model", required=True, metavar="NAME", help="by its name in artifacts/")
    for component in ("heads", "ffns"):
        export.add_argument(
            f"--{component}",
            dest="cuts",
            metavar="RANKING",
            action="append",
            type=partial(_named, component),
            help="a name below artifacts/NAME/rankings/, as aggregate/5-shot, or a Parquet file",
        )
    export.add_argument(
        "--level",
        dest="cuts",
        metavar="PERCENT",
        action="append",
        type=_level,
        help="how much of the component named just before is removed",
    )
    export.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    export.add_argument("out", metavar="OUT", type=Path, help="a directory that is not there yet")
    export.set_defaults(run=_export)

    parity = commands.add_parser("parity", help="how headcount compares with lm-eval, as Markdown")
    parity.add_argument("artifacts", type=Path, nargs="?", default=Path("artifacts"))
    parity.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write it there, unless what is there has a model that was not compared",
    )
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


def _compare_paper(arguments: argparse.Namespace) -> None:
    from headcount import comparison, summary

    try:
        comparison.show(arguments.artifacts)
    except summary.NoSummaryError as error:
        sys.exit(f"headcount: {error}")


def _plan(arguments: argparse.Namespace) -> None:
    from headcount import plan
    from headcount.families import ModelError
    from headcount.tasks import TaskError

    try:
        plan.show(plan.read_config(arguments.configfile), arguments.artifacts)
    except (OSError, TaskError, ModelError) as error:
        sys.exit(f"headcount: {arguments.configfile}: {error}")


def _why(arguments: argparse.Namespace) -> None:
    from headcount import reasons

    try:
        reasons.show(arguments.path, arguments.configfile)
    except reasons.NoReasonError as error:
        sys.exit(f"headcount: {error}")


def _cache(arguments: argparse.Namespace) -> None:
    from headcount import cache

    try:
        cache.show(arguments.artifacts, arguments.remove)
    except cache.NoCacheError as error:
        sys.exit(f"headcount: {error}")


def _verify(arguments: argparse.Namespace) -> None:
    from headcount import verify
    from headcount.model import ModelError

    try:
        holds = verify.show(arguments.source, arguments.dtype, arguments.device_map)
    except (ModelError, verify.VerificationError) as error:
        sys.exit(f"headcount: {error}")
    if not holds:
        sys.exit("headcount: it does not compute what the model computes")


def _named(component: str, ranking: str) -> tuple[str, str]:
    return component, ranking


def _level(percent: str) -> tuple[str, float]:
    return "level", float(percent)


def _export(arguments: argparse.Namespace) -> None:
    from headcount import export
    from headcount.model import ModelError
    from headcount.rankings import RankingError

    given = arguments.cuts or []  # in the order of the command line
    components, levels = given[::2], given[1::2]
    names = [name for name, _ in components]
    if not given or len(given) % 2 or "level" in names or {n for n, _ in levels} != {"level"}:
        sys.exit("headcount: --level PERCENT follows each of --heads RANKING and --ffns RANKING")
    cuts = {
        component: export.Cut(ranking, level)
        for (component, ranking), (_, level) in zip(components, levels, strict=True)
    }
    try:
        report = export.export(arguments.model, cuts, arguments.out, arguments.artifacts)
    except (export.ExportError, RankingError, ModelError) as error:
        sys.exit(f"headcount: {error}")
    print(f"{arguments.out}:\n\n{export.card(report)}")


def _parity(arguments: argparse.Namespace) -> None:
    from headcount import parity

    try:
        page, equal = parity.show(arguments.artifacts)
    except parity.NoParityError as error:
        sys.exit(f"headcount: {error}")
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


def _lm_eval(arguments: argparse.Namespace) -> None:
    from lm_eval.__main__ import cli_evaluate

    import headcount.lm_eval_model  # noqa: F401, registers --model headcount
    from headcount.families import ModelError
    from headcount.rankings import RankingError
    from headcount.tasks import supply_squad_metrics

    supply_squad_metrics()
    sys.argv = ["headcount lm-eval", *arguments.rest]
    try:
        cli_evaluate()
    except (RankingError, ModelError) as error:
        sys.exit(f"headcount: {error}")


if __name__ == "__main__":
    main()
