"""The stage that proves the model: it passes what is right, and stops each way of being wrong."""

import copy
from contextlib import contextmanager

import polars as pl
import pytest
import torch
from test_families import module_name
from test_sweep import random_prompts

from headcount import model as models
from headcount import verify
from headcount.families import matrix
from headcount.model import LanguageModel
from headcount.reference import Reference
from headcount.sweep import attention, layers, likelihoods, removal


@pytest.fixture
def fresh(all_models):
    """A function that copies the tiny model of a family, so that a test can break it."""

    def copied(family):
        model = all_models[family]
        return LanguageModel(copy.deepcopy(model.hf), model.tokenizer)

    return copied


def failed(table):
    return set(table.filter(~pl.col("passed"))["property"])


# --- what is right passes ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_is_verified(model, dtype):
    model = LanguageModel(copy.deepcopy(model.hf).to(getattr(torch, dtype)), model.tokenizer)
    table = verify.verify(model, random_prompts(4), seed=1)
    verify.require(table, model)
    assert table["property"].to_list()[:3] == [verify.WHOLE, verify.GREEDY, verify.AFTERWARDS]
    assert len(table) == 9 and (table["bound"] > 0).all()


def test_a_model_on_disk_is_verified(checkpoint):
    model = models.load(checkpoint, device_map="disk")
    verify.require(verify.verify(model), model)
    assert all(parameter.is_meta for parameter in model.hf.parameters())


# --- the reference is the model with its weights zeroed by hand ---


def test_gates_of_zero_are_weights_zeroed_by_hand(model):
    heads, ffns = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 3)], [0, 2]
    by_hand = copy.deepcopy(model.hf)
    for layer, head in heads:
        name = module_name(model, model.attention_outputs[layer])
        e = matrix(by_hand.get_submodule(name)).shape[1] // 4
        matrix(by_hand.get_submodule(name))[:, head * e : (head + 1) * e] = 0
    for layer in ffns:
        name = module_name(model, model.ffn_outputs[layer])
        for parameter in by_hand.get_submodule(name).parameters():
            parameter.zero_()
    tokens = [[2, *range(8, 20)], [2, *range(30, 18, -1)]]
    reference = Reference(model, copies=0, seed=0)
    whole, without = reference.logits(tokens, 3, [((), ()), (heads, ffns)], [4, 4, 4])[0]
    with torch.no_grad():
        inputs = torch.tensor(tokens)
        expected = [hf(input_ids=inputs).logits[:, -3:] for hf in (model.hf, by_hand)]
    torch.testing.assert_close(whole, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without, expected[1], atol=1e-5, rtol=1e-5)


def test_copies_are_off_by_roundings_and_the_first_rows_exact(opt):
    tokens = [[2, *range(8, 20)]]
    logits = Reference(opt, copies=3, seed=0).logits(tokens, 3, [((), ())], [4, 4, 4])
    alone = Reference(opt, copies=0, seed=0).logits(tokens, 3, [((), ())], [4, 4, 4])
    torch.testing.assert_close(logits[:1], alone, atol=1e-6, rtol=1e-6)
    off = (logits[1:] - logits[0]).abs().amax((1, 2, 3, 4))
    assert (off > 0).all() and off.max() < 1e-4


# --- seven ways to break the engine ---


def wrong_mask(monkeypatch, model):
    """A token sees the one after it."""
    mask = attention._mask
    monkeypatch.setattr(
        attention,
        "_mask",
        lambda unit, *rest: (unit.sees() if mask(unit, *rest) is None else mask(unit, *rest)).roll(
            1, -1
        ),
    )


def forgotten_bias(monkeypatch, model):
    """A layer without heads does not add the bias of its output projection."""
    no_attention = removal._no_attention

    def forgetful(projection, extra, *args, **kwargs):
        return no_attention(torch.nn.Linear(1, 1, bias=False), extra, *args, **kwargs)

    monkeypatch.setattr(removal, "_no_attention", forgetful)


def mixed_up_kv_head(monkeypatch, model):
    """Where heads are removed, query heads read the keys and values of their neighbours."""
    kv_heads = removal._kv_heads

    def mixed_up(*arguments):
        kept, of_query = kv_heads(*arguments)
        return kept, (of_query + 1) % len(kept)

    monkeypatch.setattr(removal, "_kv_heads", mixed_up)


def skipped_norm(monkeypatch, model):
    """The final norm is left out."""
    leave = layers.leave

    def without_norm(model, *arguments):
        norm = model.final_norm[0]
        with models.replaced({norm: lambda hidden: hidden}):
            return leave(model, *arguments)

    monkeypatch.setattr(likelihoods, "leave", without_norm)


def stale_hook(monkeypatch, model):
    """What a removal put in the place of modules stays there."""

    @contextmanager
    def replaced(forwards):
        for module, forward in forwards.items():
            module.forward = forward
        yield

    monkeypatch.setattr(removal, "replaced", replaced)


def swallowed_keyword(monkeypatch, model):
    """Attention does not hear of Gemma's soft cap."""
    attend = attention.attend

    def deaf(*arguments, softcap=None, **others):
        return attend(*arguments, **others)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, deaf)


def head_size_off(monkeypatch, model):
    """Heads are taken for half as large as they are."""
    monkeypatch.setattr(model, "head_dim", model.head_dim // 2)


SABOTAGES = {
    wrong_mask: "llama",
    forgotten_bias: "opt",
    mixed_up_kv_head: "llama",
    skipped_norm: "gpt2",
    stale_hook: "phi",
    swallowed_keyword: "gemma2",
    head_size_off: "qwen2",
}


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_an_engine_that_is_wrong_stops_the_study(fresh, monkeypatch, sabotage):
    model = fresh(SABOTAGES[sabotage])
    verify.require(verify.verify(model), model)
    sabotage(monkeypatch, model)
    table = verify.verify(model)
    with pytest.raises(verify.VerificationError) as stopped:
        verify.require(table, model)
    message = str(stopped.value)
    assert model.hf.config.model_type in message and "What to do" in message
    assert all(name in message for name in failed(table))
    print(message)
