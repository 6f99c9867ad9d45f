"""Commands that begin a study: write it, check it, plan it, run it."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from headcount.cli import exits_on, needs_cache


def add_to(commands: Any) -> None:
    init = commands.add_parser("init", help="write the configuration of a study of your own")
    init.add_argument("--model", required=True, help="of the hub, a directory, or a GGUF file")
    init.add_argument("--tasks", default="", help="lm-eval tasks, separated by commas")
    init.add_argument("--shots", default="0,1,5", help="numbers of solved examples (0,1,5)")
    init.add_argument("--task-path", help="a directory with lm-eval task files of your own")
    init.add_argument("--datasets", help="a mirror of the hub's datasets")
    init.add_argument(
        "--new-task", metavar="NAME", help="write a task as well, with data files to fill in"
    )
    init.add_argument("--out", type=Path, default=Path("mine.yaml"), help="mine.yaml")
    init.set_defaults(run=_init)

    check = commands.add_parser("check", help="report every mistake that can be found before a run")
    _takes_config(check)
    check.set_defaults(run=_check)

    plan = commands.add_parser("plan", help="estimate what a study will cost")
    _takes_config(plan)
    plan.add_argument("--stages", action="store_true", help="each stage of each task as well")
    plan.set_defaults(run=_plan)

    run = commands.add_parser(
        "run",
        help="run a study, or what of it the named files need, then its summary",
        epilog="Other arguments are Snakemake's: --dry-run, --cores 4, --profile PROFILE...",
    )
    _takes_config(run)
    run.add_argument(
        "targets", metavar="TARGET", nargs="*", help="files to make; default: all figures"
    )
    run.set_defaults(run=_run, takes_more=True)


def _takes_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config",
        metavar="CONFIG",
        type=Path,
        nargs="?",
        default=Path("config.yaml"),
        help="the study's file; default: config.yaml",
    )


def _quiet() -> None:
    """No progress bars of what renders the prompts, which take a moment."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _init(arguments: argparse.Namespace) -> None:
    _quiet()
    needs_cache()
    from headcount.models.families import ModelError
    from headcount.study import new
    from headcount.tasks.files import TaskError

    with exits_on(new.NewStudyError, ModelError, TaskError):
        new.begin(
            arguments.out,
            model=arguments.model,
            tasks=[name for name in arguments.tasks.split(",") if name],
            shots=new.numbers(arguments.shots),
            task_path=arguments.task_path,
            datasets=arguments.datasets,
            new_task=arguments.new_task,
        )


def _checked(path: Path) -> tuple:
    """A study that nothing speaks against, and its tasks and notes; else the command ends."""
    from headcount.study import checks, configuration

    with exits_on(configuration.ConfigurationError):
        config = configuration.read(path)
    found = checks.check(config)
    if found.problems:
        sys.exit("\n".join(f"{path}: {problem}" for problem in found.problems))
    return config, found


def _check(arguments: argparse.Namespace) -> None:
    config, found = _checked(arguments.config)
    for note in found.notes:
        print(f"{arguments.config}: note: {note}")
    held = f" and {len(found.heldout)} held out" if found.heldout else ""
    print(
        f"{arguments.config}: no problems found. Models: {len(config['models'])}; tasks: "
        f"{len(found.studied)}{held}; shots: {', '.join(map(str, config['shots']))}\n"
        f"Next: headcount plan {arguments.config}; headcount run {arguments.config}"
    )


def _plan(arguments: argparse.Namespace) -> None:
    _quiet()
    needs_cache()
    from headcount.models.families import ModelError
    from headcount.study import plan
    from headcount.tasks.prompts import TaskError

    config, _ = _checked(arguments.config)
    with exits_on(OSError, TaskError, ModelError):
        plan.show(config, arguments.stages)


def _run(arguments: argparse.Namespace) -> None:
    """Snakemake by its default profile; a study that is finished ends with its summary."""
    from headcount.study import configuration

    needs_cache()
    home = Path(__file__).parents[3]
    if not (home / "Snakefile").is_file():
        sys.exit(
            "headcount: the workflow is not installed with the package: clone the repository, and "
            "`pip install -e .` there; or `snakemake -s CLONE/Snakefile --configfile STUDY`"
        )
    with exits_on(configuration.ConfigurationError):
        configuration.read(arguments.config)
    given = arguments.rest
    cores = [] if _given(given, "--cores", "-c", "--profile") else ["--cores", "all"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(home / "Snakefile"), *cores]
    study = ["--configfile", str(arguments.config)]
    sys.exit(subprocess.run([*command, *arguments.targets, *study, *given]).returncode)


def _given(arguments: list[str], *names: str) -> bool:
    return any(one == name or one.startswith(f"{name}=") for one in arguments for name in names)
