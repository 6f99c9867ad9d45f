"""Memory that runs out: once more with half of `memory`, then one error with the numbers."""

import logging

import pytest
import torch
from plain import random_prompts

from headcount.engine import Masks, likelihoods, log_likelihoods
from headcount.engine._wave import Wave
from headcount.models import loading as model_loading
from headcount.scores import evaluation_store, importance

REMOVALS = [([], []), ([(0, 1)], []), ([], [1])]
# As torch says it of the CPU and of a GPU, and Python of itself.
ERRORS = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB."),
    MemoryError(),
]


@pytest.fixture
def model(checkpoint):
    """A model that the test may take memory from."""
    return model_loading.load(checkpoint, memory=40)


def fail(monkeypatch, error, above):
    """Layers fail in models that may use more than `above` MB."""
    through = Wave.through

    def failing(self, *arguments, **options):
        if self.model.memory > above:
            raise error
        return through(self, *arguments, **options)

    monkeypatch.setattr(Wave, "through", failing)


@pytest.mark.parametrize("error", ERRORS, ids=["cpu", "gpu", "python"])
def test_a_sweep_is_tried_once_more_with_half(model, opt, monkeypatch, caplog, error):
    prompts, masks = random_prompts(8), Masks.removing(model, REMOVALS)
    expected = log_likelihoods(opt, prompts, masks)
    gradients = importance.gradient(opt, prompts, "heads", "token").contributions
    fail(monkeypatch, error, above=20)
    with caplog.at_level(logging.WARNING, logger="headcount"):
        found = log_likelihoods(model, prompts, masks)
    assert model.memory == 20 and "trying again with half" in caplog.text
    for of_found, of_expected in zip(found, expected, strict=True):
        torch.testing.assert_close(of_found, of_expected, atol=1e-4, rtol=0)
    model.memory = 40
    scores = importance.gradient(model, prompts, "heads", "token").contributions
    assert model.memory == 20
    assert scores == pytest.approx(gradients, abs=1e-4)


@pytest.mark.parametrize("error", ERRORS, ids=["cpu", "gpu", "python"])
def test_what_is_too_much_twice_ends_with_the_numbers(model, monkeypatch, error):
    fail(monkeypatch, error, above=0)
    with pytest.raises(MemoryError) as caught:
        log_likelihoods(model, random_prompts(4), Masks.removing(model, REMOVALS))
    told = str(caught.value)
    for part in ("memory: 40", "below 20", "MB of weights", "mem_mb", "device_map"):
        assert part in told
    if str(error):
        assert "8589934592 bytes" in told or "8.00 GiB" in told


def test_other_errors_are_not_tried_again(model, monkeypatch):
    fail(monkeypatch, RuntimeError("shapes do not fit"), above=0)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        log_likelihoods(model, random_prompts(4), Masks.removing(model, REMOVALS))
    assert model.memory == 40


def test_what_was_swept_before_memory_ran_out_is_kept(model, monkeypatch, tmp_path):
    prompts = random_prompts(4)
    context = evaluation_store.context("weights", "float32", "packed")
    with evaluation_store.Store(tmp_path, context, lambda: model) as store:
        evaluation_store.log_likelihoods(model, prompts, Masks.removing(model, REMOVALS[:1]), store)
        fail(monkeypatch, MemoryError(), above=20)
        swept, in_parts = [], likelihoods.in_parts

        def counted(model, prompts, masks):
            swept.append((len(prompts), len(masks), model.memory))
            return in_parts(model, prompts, masks)

        monkeypatch.setattr(likelihoods, "in_parts", counted)
        evaluation_store.log_likelihoods(model, prompts, Masks.removing(model, REMOVALS), store)
    distinct = len({prompt.key for prompt in prompts})
    assert swept == [(distinct, 2, 40), (distinct, 2, 20)]
