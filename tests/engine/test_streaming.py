"""Models that stay on disk: the same numbers, each layer's weights read once a sweep."""

from collections import Counter

import pytest
import rounding
import tiny
import torch
from accelerate.utils import OffloadedWeightsLoader
from plain import random_prompts, tolerance, within

from headcount.engine import Masks, ablation, log_likelihoods
from headcount.engine._backend import choose_backend
from headcount.engine._packed import Packed
from headcount.engine.layers import is_offloaded
from headcount.models import loading
from headcount.scores import importance

pytestmark = pytest.mark.numerical


@pytest.fixture(params=["opt", "llama", "gpt2", "gemma2"])
def pair(request, tmp_path):
    """The same model in memory and on disk."""
    path = tiny.save_model(tmp_path, request.param)
    held, streamed = loading.load(path), loading.load(path, device_map="disk")
    for model in (held, streamed):
        assert choose_backend(model, longest=1) is Packed  # found out once, by a layer of each kind
    return held, streamed


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each weight is read."""
    counts = Counter()
    original = OffloadedWeightsLoader.__getitem__

    def counted(self, key):
        counts[key] += 1
        return original(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counted)
    return counts


def of_layers(counts, model):
    """Reads of the weights of decoder layers."""
    names = {name for name, module in model.hf.named_modules() if module in set(model.layers)}
    return {
        key: count
        for key, count in counts.items()
        if any(key.startswith(f"{name}.") for name in names)
    }


def every_removal(model):
    """The whole model, and the model without each of its heads, and each of its FFNs."""
    heads = [([(i, h)], []) for i in range(model.num_layers) for h in range(model.heads[i])]
    return [([], []), *heads, *(([], [layer]) for layer in range(model.num_layers))]


def test_weights_stay_on_disk(pair):
    held, streamed = pair
    assert is_offloaded(streamed) and not is_offloaded(held)
    assert all(parameter.is_meta for parameter in streamed.hf.parameters())


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_auto_leaves_room_for_what_a_sweep_holds(family, tmp_path, monkeypatch):
    path = tiny.save_model(tmp_path, family)
    held = loading.load(path)
    weights = sum(parameter.nbytes for parameter in held.hf.parameters())
    free = 2**20 + weights // 2
    monkeypatch.setattr(loading, "get_max_memory", lambda: {"cpu": free})
    placed = loading.load(path, device_map="auto", memory=1)
    in_memory = sum(p.nbytes for p in placed.hf.parameters() if not p.is_meta)
    assert 0 < in_memory <= weights // 2
    prompts, removals = random_prompts(8), every_removal(held)
    expected, _ = log_likelihoods(held, prompts, Masks.removing(held, removals))
    sums, _ = log_likelihoods(placed, prompts, Masks.removing(placed, removals))
    torch.testing.assert_close(sums, expected, atol=tolerance(held), rtol=0)


@pytest.mark.parametrize("memory", [0.01, 1000])
def test_a_sweep_reads_each_layer_once(pair, reads, memory):
    held, streamed = pair
    prompts, removals = random_prompts(8), every_removal(held)
    expected, _ = log_likelihoods(held, prompts, Masks.removing(held, removals))
    masks = Masks.removing(streamed, removals)
    sums, _ = within(memory, log_likelihoods, streamed, prompts, masks)
    torch.testing.assert_close(sums, expected, atol=tolerance(held), rtol=0)
    counts = of_layers(reads, streamed)
    assert len(counts) >= 3 * 8 and set(counts.values()) == {1}
    assert max(reads.values()) <= 2  # embeddings: to enter and, if tied, to leave
    assert all(parameter.is_meta for parameter in streamed.hf.parameters())


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_gradients_read_each_layer_twice(pair, reads, component):
    held, streamed = pair
    prompts = random_prompts(8)

    def contributions(model):
        return importance.gradient(model, prompts, component, "token").contributions

    expected = contributions(held)
    scores = within(0.05, importance.gradient, streamed, prompts, component, "token").contributions
    assert scores == pytest.approx(expected, abs=rounding.bound(held, contributions))
    assert set(of_layers(reads, streamed).values()) == {2}


def test_stand_ins_are_fitted_in_one_reading(pair, reads):
    held, streamed = pair

    def mean(model):
        return torch.stack(ablation.fit(model, random_prompts(8), "mean", seed=0).z)

    expected = mean(held)
    fitted = within(0.05, ablation.fit, streamed, random_prompts(8), "mean", 0)
    found = torch.stack(fitted.z)  # as many heads in every layer
    torch.testing.assert_close(found, expected, atol=rounding.bound(held, mean), rtol=0)
    assert set(of_layers(reads, streamed).values()) == {1}


def test_prompts_are_encoded_alike(pair):
    held, streamed = pair
    pairs = [("Q: w1 w2 A:", " w3"), ("", "w4 w5")]
    assert streamed.encode(pairs) == held.encode(pairs)
