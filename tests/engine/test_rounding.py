"""The tolerances of the other tests: rounding stays within them, a fault does not."""

import math

import pytest
import rounding
import tiny
import torch
from plain import TOKENS, everything, logits

from headcount.engine.removal import without
from headcount.models import loading as model_loading

pytestmark = pytest.mark.numerical


def off(model):
    """How far the float32 logits are from those in float64, and the tolerance."""
    exact = logits(rounding.in_float64(model).hf)
    allowed = rounding.bound(model, lambda model: logits(model.hf))
    return (logits(model.hf).double() - exact).abs().max().item(), allowed


def test_float32_is_well_within_the_bound_and_every_fault_far_outside(model):
    error, allowed = off(model)
    assert error < allowed / 10
    whole = logits(model.hf)
    for layer in range(model.num_layers):
        for head in range(model.heads[layer]):
            heads, ffns = everything(model)
            heads[layer][head] = False
            with without(model, heads, ffns):
                assert (logits(model.hf) - whole).abs().max() > 100 * allowed
    mask = torch.ones_like(TOKENS)
    mask[:, 18] = 0
    with torch.inference_mode():
        hidden = model.hf(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits
    assert (hidden - whole)[:, 19:].abs().max() > 100 * allowed


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_float32_is_within_the_bound_of_every_random_model(family, tmp_path):
    for seed in range(5):
        model = model_loading.load(tiny.save_model(tmp_path / str(seed), family, seed))
        error, allowed = off(model)
        assert error < allowed


def test_sums_in_any_order_are_within_gamma():
    generator = torch.Generator().manual_seed(0)
    terms = torch.rand(1000, generator=generator)
    exact = math.fsum(terms.tolist())
    for _ in range(20):
        shuffled = terms[torch.randperm(1000, generator=generator)]
        for total in (shuffled.sum(), shuffled.cumsum(0)[-1], shuffled.flip(0).cumsum(0)[-1]):
            assert abs(total.item() - exact) <= rounding.gamma(1000) * exact
    assert terms.min() > rounding.gamma(1000) * exact / 1000
