"""Commands about a single model: verified, pruned, evaluated."""

import argparse
import sys
from pathlib import Path
from typing import Any

from headcount.cli import exits_on, needs_cache


def add_to(commands: Any) -> None:
    verify = commands.add_parser(
        "verify", help="compare headcount with the unmodified model, property by property"
    )
    verify.add_argument("source", metavar="MODEL_OR_PATH", help="of the hub, or a directory")
    verify.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    verify.add_argument("--device-map", default="cpu", help="cpu, cuda, auto, disk...")
    verify.set_defaults(run=_verify)

    export = commands.add_parser(
        "export", help="a pruned model as a checkpoint that plain transformers loads"
    )
    export.add_argument("--model", required=True, metavar="NAME", help="by its name in artifacts/")
    for component in ("heads", "ffns"):
        export.add_argument(
            f"--{component}",
            metavar="RANKING@LEVEL",
            help="a name below artifacts/NAME/rankings/, or a Parquet file, and the percentage "
            "that is removed: aggregate/5-shot@70",
        )
    export.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    export.add_argument("out", metavar="OUT", type=Path, help="a directory that does not exist yet")
    export.set_defaults(run=_export)

    lm_eval = commands.add_parser(
        "lm-eval",
        help="lm-eval's own command, with all its arguments, which also knows --model headcount",
        add_help=False,  # --help is lm-eval's
    )
    lm_eval.set_defaults(run=_lm_eval, takes_more=True)


def _verify(arguments: argparse.Namespace) -> None:
    needs_cache()
    from headcount.models.language_model import ModelError
    from headcount.verification import verdict

    with exits_on(ModelError, verdict.VerificationError):
        holds = verdict.show(arguments.source, arguments.dtype, arguments.device_map)
    if not holds:
        sys.exit("headcount: it does not agree with the model")


def _export(arguments: argparse.Namespace) -> None:
    from headcount.interop import export
    from headcount.models.language_model import ModelError
    from headcount.scores.rankings import Cut, RankingError

    given = {name: getattr(arguments, name) for name in ("heads", "ffns")}
    if not any(given.values()):
        sys.exit("headcount: say what to remove: --heads RANKING@LEVEL, --ffns RANKING@LEVEL")
    with exits_on(export.ExportError, RankingError, ModelError):
        cuts = {name: Cut.parse(text) for name, text in given.items() if text}
        report = export.export(arguments.model, cuts, arguments.out, arguments.artifacts)
    print(f"{arguments.out}:\n\n{export.card(report)}")


def _lm_eval(arguments: argparse.Namespace) -> None:
    from lm_eval.__main__ import cli_evaluate

    from headcount.interop.lm_eval_model import ArgumentError
    from headcount.models.families import ModelError
    from headcount.scores.rankings import RankingError
    from headcount.tasks import squad

    squad.supply()
    sys.argv = ["headcount lm-eval", *arguments.rest]
    with exits_on(ArgumentError, RankingError, ModelError):
        cli_evaluate()
