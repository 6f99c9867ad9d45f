"""The verdict on a checkpoint: whether the engine computes what the model computes.

In the study's dtype and device placement, and in float32 too, the engine (`engine`, `importance`,
`induction`) is compared with the unmodified Hugging Face model (`reference`) on random prompts:
very short ones, some of a few words and a long one, packed together, many with a common context.
Under one of the masks every layer loses some of its heads. On a study's own prompts, the longest
among them, each job compares log-likelihoods before it computes anything (`tolerance.prove_on`).
The properties are in `headcount.verification.properties`, their bounds in
`headcount.verification.tolerance`.
"""

import logging
import time
from tempfile import TemporaryDirectory

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from headcount.engine.fitness import refuse_unfit
from headcount.models import loading as model_loading
from headcount.models.language_model import LanguageModel
from headcount.verification import _upcast
from headcount.verification.properties import OF_EVERY_BACKEND, Properties
from headcount.verification.tolerance import (
    Deviation,
    VerificationError,
    ceiling,
    deviation,
    failure,
    family,
    table,
)

logger = logging.getLogger(__name__)

BACKEND_NAMES = {"packed": "packed", "own": "by the model's own attention"}


def verify(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """Return rows of the artifact `verified`: each property's largest difference and its bound.

    A half-precision model has rows in float32 before its own: in float32 rounding does not hide a
    difference of a nat. The row of a property is that of the group of results with the largest
    ratio of difference to bound. If the engine fails, the difference is infinite and the error
    replaces the group. Raises `ModelError` for a model that headcount refuses.
    """
    refuse_unfit(model)
    if not _upcast.is_half(model):
        return _as_it_is(model, seed)
    with _upcast.in_float32(model):
        exact = _as_it_is(model, seed)
    return pl.concat([exact, _as_it_is(model, seed)])


def _as_it_is(model: LanguageModel, seed: int) -> pl.DataFrame:
    """Return the rows in the model's present type."""
    properties = Properties(model, seed)
    expected = properties.expected()
    found = properties.found()
    worst: dict[str, Deviation] = {}
    for group, reference in expected.items():
        one = deviation(group, reference, found.get(group), properties.error, ceiling(model))
        if not one.passed and group in properties.remarks:
            one.where += f": {properties.remarks[group]}"
        if group[0] not in worst or worst[group[0]].excess < one.excess:
            worst[group[0]] = one
    return table(worst.items(), model)


def prove(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """Return the rows of `verify_and_choose`, whose properties all hold.

    Raises `VerificationError`, which says what to do, when a property does not hold.
    """
    rows = verify_and_choose(model, seed)
    if not rows["passed"].all():
        raise VerificationError(failure(rows, model))
    return rows


def verify_and_choose(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """Return the rows of `verify` for the first backend that passes: right before fast.

    If packed prompts fail, `model.backend` becomes "own", the model's own attention.
    """
    rows = verify(model, seed)
    failed = set(rows.filter(~pl.col("passed"))["property"])
    if model.backend == "packed" and failed and not failed & {*OF_EVERY_BACKEND}:
        logger.warning("%s\nIts own attention is tried instead.", failure(rows, model))
        model.backend = "own"
        rows = verify(model, seed)
    return rows


def show(
    source: str, dtype: str = "float32", device_map: str = "cpu", console: Console | None = None
) -> bool:
    """Print the table of a model on the hub or in a directory; return whether all properties hold.

    Raises `ModelError` when the model does not load.
    """
    with TemporaryDirectory() as directory:
        facts = model_loading.resolve(source, revision=None, gguf_file=None, converted=directory)
        model = model_loading.load(facts["path"], dtype=dtype, device_map=device_map)
        started = time.perf_counter()
        rows = verify_and_choose(model)
        seconds = time.perf_counter() - started
    (console or Console()).print(_printed(rows, model, seconds))
    return rows["passed"].all()


def _printed(rows: pl.DataFrame, model: LanguageModel, seconds: float) -> Table:
    printed = Table(
        title=f"{family(model)}, {model.hf.dtype}: headcount beside the unmodified model",
        caption=f"difference: the largest; bound: what rounding explains; prompts went through the "
        f"layers {BACKEND_NAMES[str(model.backend)]}; {seconds:.1f} s",
        box=box.SIMPLE_HEAD,
    )
    for column in ("property", "in", "difference", "bound", "", "where"):
        numeric = column in ("difference", "bound")
        printed.add_column(column, justify="right" if numeric else "left")
    for row in rows.iter_rows(named=True):
        verdict = "yes" if row["passed"] else "[red]NO[/red]"
        numbers = f"{row['difference']:.2g}", f"{row['bound']:.2g}"
        printed.add_row(row["property"], row["dtype"], *numbers, verdict, row["where"])
    return printed
