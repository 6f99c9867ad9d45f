"""Every type of transformers' causal language models: computed right, or refused by name.

Each is built tiny and random (`zoo`) and shown to `headcount.verification.verdict`, which compares
the engine with the unmodified model. There is no third way: a wrong number and a crash both fail.
The same holds of unusual configurations (`zoo.variants`): some of them of every type, all of some.
"""

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import tiny
import torch
import zoo
from zoo import RIGHT

from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel
from headcount.verification import verdict

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
# One of each kind that the families of `tiny` do not have: with each change the whole zoo is slow.
FAST = (
    "bloom",  # ALiBi, a residual that goes through the FFN
    "deepseek_v3",  # latent attention, experts beside shared ones
    "gemma3n_text",  # several streams, keys and values of earlier layers
    "gemma4_text",  # layers that differ in the size of a head
    "gpt_bigcode",  # one key-value head
    "gpt_oss",  # sinks
    "gptj",  # attention of its own
    "laguna",  # layers that differ in the number of heads
    "lfm2",  # layers without attention
    "qwen3_next",  # the same, and gated heads
    "bart",  # no decoder-only model
    "mamba",  # no attention
)


@cache
def way_of(model_type: str) -> str:
    """The way of a type that is right, "packed" or "own", or why it is refused."""
    try:
        model = LanguageModel(zoo.build(model_type), tiny.tokenizer())
        table = verdict.verify(model)
    except ModelError as refusal:
        return str(refusal)
    assert table["passed"].all(), table.filter(~table["passed"])
    return model.backend


def check(model_type: str) -> None:
    found = way_of(model_type)
    if found not in ("packed", "own"):
        assert model_type not in RIGHT, found
        assert f"({model_type})" in found or "_decoder)" in found  # it is named


@pytest.mark.numerical
@pytest.mark.parametrize("model_type", FAST)
def test_one_of_each_kind_is_right_or_refused(model_type):
    check(model_type)


@pytest.mark.parametrize(
    "settings",
    [
        {"alibi": True, "bias": True},
        {"alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2},
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"parallel_attn": False, "multi_query": False, "num_kv_heads": 4},
    ],
    ids=str,
)
def test_falcon_is_right_in_all_its_forms(settings):
    model = LanguageModel(zoo.build("falcon", **settings), tiny.tokenizer())
    assert verdict.verify(model)["passed"].all()


# --- unusual configurations ---

# One of each kind, in a family that has something to lose by it.
UNUSUAL = {
    "gemma3n_text": "three query heads to a key-value head",
    "gpt_neox": "one head",
    "gpt2": "tie_word_embeddings: False",
    "llama": "attention_bias: True",
    "qwen3": "heads wider than the stream",
    "gemma2": "soft caps",
    "mistral": "windows of three tokens",
    "phi": "half of a head rotated",
    "granite": "multipliers",
    "mixtral": "one expert",
    "biogpt": "another epsilon",
    "stablelm": "use_parallel_residual: True",
    "qwen4_exp_text": "attention_bias: True",  # which gates multiply, token by token
    "doge": "is_moe: True",  # experts choose among the tokens of the whole batch
}
# All of these, which have the most to choose from.
ALL_OF = ("cohere2", "falcon", "gemma4_text", "gpt_oss", "granitemoe", "mimo_v2_flash", "qwen2")
OF_EVERY_TYPE = 2


def check_unusual(model_type: str, what: str) -> bool:
    """Whether transformers runs the configuration, which then is right or refused."""
    settings = zoo.variants(model_type)[what]
    try:
        hf = zoo.build(model_type, **settings)
        hf(input_ids=torch.tensor([[2, 5, 7, 9]]), use_cache=False)
    except Exception:  # whatever it is, it is none of headcount's
        return False
    try:
        rows = verdict.verify_and_choose(LanguageModel(hf, tiny.tokenizer()))
    except (ModelError, verdict.VerificationError) as refusal:
        assert f"({model_type}" in str(refusal) or "not finite" in str(refusal)
        return True
    failed = rows.filter(~pl.col("passed"))
    assert failed.is_empty(), (what, failed.rows())
    return True


@pytest.mark.numerical
@pytest.mark.parametrize("model_type", UNUSUAL)
def test_an_unusual_one_of_each_kind_is_right_or_refused(model_type):
    assert check_unusual(model_type, UNUSUAL[model_type])


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ALL_OF)
def test_all_that_is_unusual_of_a_family_is_right_or_refused(model_type):
    built = [check_unusual(model_type, what) for what in zoo.variants(model_type)]
    assert built.count(True) >= 2 / 3 * len(built)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(OF_EVERY_TYPE))
@pytest.mark.parametrize("model_type", sorted({*zoo.TYPES} - {*ALL_OF, *zoo.NOT_BUILT}))
def test_what_is_unusual_of_every_type_is_right_or_refused(model_type, which):
    """Neighbouring types take other ones, so that together they take all."""
    if way_of(model_type) not in ("packed", "own"):
        return  # refused as it is
    names = sorted(zoo.variants(model_type))
    place = sorted(zoo.TYPES).index(model_type) + which * len(names) // OF_EVERY_TYPE
    check_unusual(model_type, names[place % len(names)])


# --- every type ---


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted({*zoo.TYPES} - {*FAST, *zoo.NOT_BUILT}))
def test_is_right_or_refused(model_type):
    check(model_type)


@pytest.mark.slow
def test_the_page_of_families_lists_what_is_right_and_what_is_refused(pytestconfig):
    """`pytest --write-families tests/verification/test_zoo.py` writes the table."""
    types = defaultdict(list)
    for model_type in zoo.TYPES:
        found = zoo.NOT_BUILT.get(model_type) or way_of(model_type)
        types[reason(found)].append(f"`{model_type}`")
    ways = {"packed": "packed", "own": "own attention"}
    right = sum(len(types[way]) for way in ways)
    assert right >= 95
    others = sorted({*types} - {*ways}, key=lambda why: (-len(types[why]), why))
    lines = [
        f"{right} of {len(zoo.TYPES)} types are right.",
        "",
        "| | types | `model_type` |",
        "| --- | --- | --- |",
    ]
    for why in (*ways, *others):
        names = " ".join(sorted(types[why]))
        lines.append(f"| {ways.get(why, why)} | {len(types[why])} | {names} |")
    text = PAGE.read_text()
    before, _, rest = text.partition("<!-- families -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    table = "\n".join(lines) + "\n"
    written = f"{before}<!-- families -->\n{table}<!-- end -->\n{after}"
    if pytestconfig.getoption("--write-families"):
        PAGE.write_text(written)
    assert PAGE.read_text() == written


def reason(found: str) -> str:
    """A verdict without what is one model's own: its name, its number of layers, what was tried."""
    if found in ("packed", "own"):
        return found
    why = found.split(") ", 1)[-1].split("): ", 1)[-1].partition(";")[0]
    return "refused: " + re.sub(r"\d+ decoder", "decoder", why).partition(" (config")[0]
