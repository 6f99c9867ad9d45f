"""Smaller tensors give the same logits, in every family whose configuration can say so."""

import copy
from collections import Counter
from functools import partial

import pytest
import rounding
import torch
from plain import TOKENS, logits
from transformers import AutoModelForCausalLM

from headcount.engine import Masks
from headcount.engine.removal import without
from headcount.interop import _narrow, export
from headcount.models.language_model import LanguageModel

pytestmark = pytest.mark.numerical

ALL = [(layer, head) for layer in range(3) for head in range(4)]
# Kept of 3 layers of 4 heads; heads 0 and 1, 2 and 3 share a key-value head in grouped families.
EVEN = {(0, 0), (1, 1), (2, 0)}  # one in each layer
UNEVEN = {(0, 0), (0, 3), (1, 1), (2, 2)}
PAIR = {(0, 0), (0, 1), (1, 2), (1, 3)}  # a whole group
FREE = {*_narrow.FREE_HEADS, "gemma3"}


@pytest.fixture
def narrowed(tmp_path):
    """`_narrowed`, which saves smaller models in a directory of the test's own."""
    return partial(_narrowed, tmp_path)


def _narrowed(directory, model, kept, ffns=()):
    """The model with weights of zero, the smaller one, and what changes in its configuration.

    Both have the logits of the pruned model.
    """
    removed = (tuple(sorted({*ALL} - kept)), tuple(ffns))
    masks = Masks.removing(model, [removed])
    with without(model, *masks.of(0)):
        expected = logits(model.hf)
    zeroed = LanguageModel(copy.deepcopy(model.hf), model.tokenizer)
    export.zero(zeroed, removed)
    smaller, changed, _ = _narrow.narrow(zeroed, removed)
    if smaller is not zeroed.hf:  # it is there to be saved
        smaller.save_pretrained(directory)
        smaller = AutoModelForCausalLM.from_pretrained(directory)
    tolerance = rounding.bound(zeroed, lambda model: logits(model.hf))
    for hf in (zeroed.hf, smaller):
        torch.testing.assert_close(logits(hf), expected, atol=tolerance, rtol=0)
    assert (logits(model.hf) - expected).abs().max() > 100 * tolerance
    return zeroed, smaller, changed


@pytest.mark.parametrize("kept", [EVEN, UNEVEN, PAIR], ids=["even", "uneven", "pair"])
def test_fewer_heads_in_every_layer(model, narrowed, request, kept):
    zeroed, smaller, changed = narrowed(model, kept)
    family = request.node.callspec.params["model"]
    if family not in FREE:
        assert smaller is zeroed.hf and changed == {}
        return
    most = max(Counter(layer for layer, _ in kept).values())
    assert smaller.config.num_attention_heads == most
    assert changed["num_attention_heads"] == (4, most)
    assert smaller.num_parameters() < zeroed.hf.num_parameters()
    if kept == PAIR and model.parts[0].kv_heads == 2:  # one group of two, not two groups of one
        assert smaller.config.num_key_value_heads == 1


@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2]])
def test_layers_that_add_nothing_are_left_out(model, narrowed, gone):
    kept = {(layer, head) for layer, head in ALL if layer not in gone}
    zeroed, smaller, changed = narrowed(model, kept, gone)
    if model.parts[0].attention_output.bias is None:
        left = max(1, 3 - len(gone))  # a configuration has a layer at least
        assert changed["num_hidden_layers"] == (3, left)
        assert smaller.num_parameters() < zeroed.hf.num_parameters()
    else:  # the bias is still added
        assert "num_hidden_layers" not in changed


def test_nothing_is_smaller_where_a_layer_keeps_all_its_heads(model, narrowed):
    kept = {(0, head) for head in range(4)}
    zeroed, smaller, changed = narrowed(model, kept, ffns=[2])
    if model.parts[0].attention_output.bias is None:  # layer 2 has neither heads nor FFN
        assert changed == {"num_hidden_layers": (3, 2)}
    else:
        assert smaller is zeroed.hf and changed == {}


def test_generation_goes_on_as_before(model, narrowed):
    zeroed, smaller, _ = narrowed(model, UNEVEN, ffns=[1])
    arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    torch.testing.assert_close(
        smaller.generate(TOKENS, **arguments), zeroed.hf.generate(TOKENS, **arguments)
    )
