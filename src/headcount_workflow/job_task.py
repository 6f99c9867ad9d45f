"""The task of a job, for the scripts that read one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headcount.artifacts import temporaries
from headcount.tasks import code as task_code, loading
from headcount.tasks.files import TaskError
from headcount_workflow import job

logger = logging.getLogger("headcount.tasks.code")
CHANGED = "the task was changed while the study ran: run it again"


def task(snakemake: Any) -> str:
    """The file of the job's task, which is what it was when the job's key was made of it.

    Raises `TaskError` where it is not, now or when the job writes.
    """
    job.hold(_check, snakemake)
    return snakemake.params.place["yaml"]


def _check(snakemake: Any) -> None:
    parameters, place = snakemake.params, snakemake.params.place
    if task_code.state(place["files"]) == place["files"]:
        return
    same = loading.meaning(place["yaml"]) == parameters.task
    if "documents" in dict(parameters.items()):
        same &= loading.data_content(place["yaml"], place["datasets"]) == parameters.documents
    if not same:
        raise TaskError(f"{place['yaml']}: {CHANGED}")


@contextmanager
def documents(snakemake: Any) -> Iterator[list[str]]:
    """A while in which the task's documents are read; filled with what its code reads unhashed.

    Raises `TaskError` if a file of the task was changed meanwhile, also if it was put back.
    """
    place = snakemake.params.place
    unhashed: list[str] = []
    code, before = task_code.code_of(place["yaml"]), task_code.state(place["files"])
    with _own_temporaries(), task_code.watched(code) as opened:
        yield unhashed
    if task_code.state(before) != before:
        raise TaskError(f"{place['yaml']}: {CHANGED}")
    known = task_code.files(place["yaml"], place["datasets"])
    unhashed += task_code.unfollowed(opened, code, known)
    for line in unhashed:
        logger.warning("%s: %s", snakemake.wildcards.task, line)


@contextmanager
def _own_temporaries() -> Iterator[None]:
    """Have the `datasets` library leave what it maps in a directory that goes at the end."""
    before = os.environ.get("TMPDIR")
    with temporaries.Directory() as directory:
        os.environ["TMPDIR"] = directory
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
