"""Does the engine compute what the model computes? Shown on a user's own checkpoint.

In the dtype and at the place that a study uses, the engine (`sweep`, `importance`, `induction`) is
compared with the unmodified Hugging Face model (`reference`) on random prompts: very short ones,
some of a few words and a long one, packed together, many with a context in common. Every layer
loses some of its heads under one of the masks. On a study's own prompts, the longest among them,
each job compares log-likelihoods before it computes anything (`prove_on`). What is asked, and the
bounds of the answers: `headcount.examination`.
"""

import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from headcount import induction
from headcount import model as models
from headcount.artifacts import SCHEMAS
from headcount.evaluation import encode
from headcount.examination import (
    AFTERWARDS,
    COPIES,
    GREEDY,
    WHOLE,
    Batch,
    Examination,
    Finding,
    VerificationError,
    finding,
    scores_and_margins,
)
from headcount.model import LanguageModel
from headcount.reference import Reference
from headcount.sweep import Masks, log_likelihoods

logger = logging.getLogger(__name__)

OTHERS = 4  # last tokens that are scored beside a continuation's own
WAYS = {"packed": "packed", "own": "by the model's own attention"}


def verify(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """Rows of the artifact `verified`: of every property the largest difference, and its bound.

    The row of a property is of the group of results whose difference is the largest beside its
    bound. Where the engine ends with an error, the difference is infinite and the error stands in
    place of the group.
    """
    examination = Examination(model, seed)
    expected = examination.expected()
    found, error = examination.found()
    worst: dict[str, Finding] = {}
    for group, reference in expected.items():
        one = finding(group, reference, found.get(group), error)
        if group[0] not in worst or worst[group[0]].excess < one.excess:
            worst[group[0]] = one
    return _table(worst.items())


def prove(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """The same rows, all of whose properties hold, on the way through the layers `model.way`.

    Raises `VerificationError`, which says what to do, when a property does not hold.
    """
    table = examine(model, seed)
    if not table["passed"].all():
        raise VerificationError(_block(table, model))
    return table


def examine(model: LanguageModel, seed: int = 0) -> pl.DataFrame:
    """The rows of `verify` on the first way on which they hold: right before fast.

    Where packed prompts fail, `model.way` becomes the model's own attention.
    """
    table = verify(model, seed)
    holds = dict(table.select("property", "passed").iter_rows())
    if model.way == "packed" and holds[AFTERWARDS] and not all(holds.values()):
        logger.warning("%s\nIts own attention is tried instead.", _block(table, model))
        model.way = "own"
        table = verify(model, seed)
    return table


def prove_on(model: LanguageModel, prompts: pa.Table, yaml: str | Path) -> None:
    """The same of a study's own prompts, whole: its longest and its shortest, packed together.

    `prompts` is the artifact `tasks`. Other last tokens are scored beside each continuation's own,
    so that a bound rests on a dozen copies. What else is proved depends on the model alone, and
    stands in the artifact `verified`.

    Raises `VerificationError` when a log-likelihood or a greedy flag differs.
    """
    by_length = sorted(prompts.to_pylist(), key=lambda r: len(r["context"] + r["continuation"]))
    chosen = encode(model, [by_length[0], by_length[-1]], yaml)
    others = induction.ordinary_tokens(model.tokenizer, exclude_fraction=0)[:OTHERS].tolist()
    batches = [
        Batch([p.tokens], [[p.targets, *([*p.targets[:-1], other] for other in others)]])
        for p in chosen
    ]
    together = [prompt for batch in batches for prompt in batch.prompts]
    swept = log_likelihoods(model, together, Masks.removing(model, [((), ())]))
    parts = [of[0].split([len(batch.prompts) for batch in batches]) for of in swept]
    reference = Reference(model, COPIES, seed=0)
    findings = []
    for prompt, batch, *found in zip(chosen, batches, *parts, strict=True):
        logits = reference.logits(batch.tokens, len(prompt.targets), [((), ())], model.heads)
        expected = scores_and_margins(logits[:, 0], batch)
        for name, exact, ours in zip((WHOLE, GREEDY), expected, found, strict=True):
            group = name, f"a prompt of the study, {batch}"
            findings.append((name, finding(group, exact, ours, None)))
    table = _table(findings)
    if not table["passed"].all():
        raise VerificationError(_block(table, model))


def _table(findings: Iterable[tuple[str, Finding]]) -> pl.DataFrame:
    """Rows of the artifact `verified`."""
    rows = [(name, f.difference, f.bound, f.passed, f.where) for name, f in findings]
    return pl.DataFrame(rows, schema=pl.Schema(SCHEMAS["verified"]), orient="row")


def _block(table: pl.DataFrame, model: LanguageModel) -> str:
    """What does not hold, and what to do."""
    failed = table.filter(~pl.col("passed")).iter_rows(named=True)
    lines = [
        f"model {model.hf.name_or_path}, {_family(model)}, {model.hf.dtype}: headcount does not "
        "compute what the model computes, so that no number of a study would mean anything",
        *(f"  {line}" for line in map(_told, failed)),
        "What to do: `dtype: float32` if it is another; `device_map: cpu`, to see whether the "
        "device decides; `layout`, if the wrong modules were taken for heads and FFNs; then report "
        "the family and these lines.",
    ]
    return "\n".join(lines)


def _told(row: dict) -> str:
    if math.isinf(row["difference"]):
        return f"{row['property']}: {row['where']}"
    differs = f"off by {row['difference']:.3g}, where rounding explains {row['bound']:.3g}"
    return f"{row['property']}: {differs} ({row['where']})"


def show(
    source: str, dtype: str = "float32", device_map: str = "cpu", console: Console | None = None
) -> bool:
    """Print the table of a model of the hub or in a directory, by random prompts alone.

    Returns whether every property holds. Raises `ModelError` when the model does not load.
    """
    with TemporaryDirectory() as directory:
        facts = models.resolve(source, revision=None, gguf_file=None, converted=directory)
    model = models.load(facts["path"], dtype=dtype, device_map=device_map)
    started = time.perf_counter()
    table = examine(model)
    (console or Console()).print(_printed(table, model, time.perf_counter() - started))
    return table["passed"].all()


def _printed(table: pl.DataFrame, model: LanguageModel, seconds: float) -> Table:
    printed = Table(
        title=f"{_family(model)}, {model.hf.dtype}: headcount beside the unmodified model",
        caption=f"difference: the largest; bound: what rounding explains; prompts went through the "
        f"layers {WAYS[model.way]}; {seconds:.1f} s",
        box=box.SIMPLE_HEAD,
    )
    for column in ("property", "difference", "bound", "", "where"):
        printed.add_column(column, justify="right" if column in table.columns[1:3] else "left")
    for row in table.iter_rows(named=True):
        verdict = "yes" if row["passed"] else "[red]NO[/red]"
        numbers = f"{row['difference']:.2g}", f"{row['bound']:.2g}"
        printed.add_row(row["property"], *numbers, verdict, row["where"])
    return printed


def _family(model: LanguageModel) -> str:
    return f"{type(model.hf).__name__} ({model.hf.config.model_type})"
