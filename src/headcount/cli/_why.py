"""The command `headcount why`: what an artifact was made of, and what is different now."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from headcount.artifacts import lineage, temporaries


class NoReasonError(RuntimeError):
    """There is no such artifact, or no study that asks for it."""


def show(path: Path, configfile: str | None = None, console: Console | None = None) -> None:
    """Print what the artifact at `path` was made of and, if it is stale, old and new values.

    The study, that of the directory in which this is called, is asked by a dry run.

    Raises `NoReasonError` when there is no artifact, or when the study cannot be read.
    """
    console = console or Console()
    if not path.is_file():
        raise NoReasonError(f"{path} is not there: run the study: `headcount run`")
    study = ["--configfile", configfile] if configfile else []
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all", "--dry-run", "--quiet"]
    with temporaries.Directory() as directory:
        file = Path(directory, "asked.json")
        environment = {**os.environ, lineage.ASKED: str(file)}
        asked = subprocess.run([*command, *study], capture_output=True, text=True, env=environment)
        if asked.returncode:
            raise NoReasonError(f"the study cannot be read:\n{asked.stdout}{asked.stderr}")
        try:
            made, state, changed = lineage.why(path, file)
        except ValueError as error:
            raise NoReasonError(f"{path} is not among the artifacts of the study") from error
    console.print(f"{path}\n{state}", highlight=False, soft_wrap=True)
    if changed:
        table = Table("what", "in the artifact", "asked for now")
        for name, values in changed.items():
            table.add_row(name, *map(_value, values))
        console.print(table)
    elif made:
        table = Table("made of", "value")
        for name, value in lineage.flat(made).items():
            table.add_row(name, _value(value))
        console.print(table)


def _value(value: Any) -> str:
    """A value as a person reads it: hashes are cut short."""
    text = value if isinstance(value, str) else json.dumps(value)
    is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"{text[:12]}..." if is_hash else text
