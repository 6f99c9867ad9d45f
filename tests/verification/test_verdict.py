"""The stage that proves the model: it passes what is right, and stops each way of being wrong."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import polars as pl
import pytest
import tiny
import torch
import zoo
from plain import module_name

from headcount.engine import (
    _packed,
    ablation,
    attention,
    layers,
    likelihoods,
    padded as own,
    removal,
)
from headcount.models import language_model, loading
from headcount.models.language_model import LanguageModel
from headcount.models.projections import matrix
from headcount.scores import induction
from headcount.verification import _upcast, tolerance, verdict
from headcount.verification.properties import AFTERWARDS, ALONE, BY_PATTERNS, EMPTIED, STAND_INS
from headcount.verification.reference import Reference


@pytest.fixture
def fresh(all_models):
    """A function that copies the tiny model of a family, so that a test can break it."""

    def copied(family):
        model = all_models[family]
        return LanguageModel(copy.deepcopy(model.hf), model.tokenizer)

    return copied


# --- what is right passes ---

# One of each kind; of some others, halves or a broken engine are verified in every run.
FAST = ("opt", "gpt2", "mistral", "gemma3", "phi", "phi3")
FAMILIES = [
    family if family in FAST else pytest.param(family, marks=pytest.mark.slow)
    for family in tiny.CONFIGS
]


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_every_family_is_verified(model):
    table = verdict.prove(model, seed=1)
    assert table["property"].to_list()[:4] == [tolerance.WHOLE, tolerance.GREEDY, AFTERWARDS, ALONE]
    assert set(table["property"]) > {BY_PATTERNS, EMPTIED, *STAND_INS.values()}
    assert len(table) == 14 and (table["bound"] > 0).all()


@pytest.mark.parametrize("family", ["opt_350m", "gemma2"])
def test_half_precision_is_verified_in_float32_too(fresh, family):
    model = fresh(family)
    model.hf.to(torch.bfloat16)
    table = verdict.prove(model)
    assert model.backend == "packed" and model.hf.dtype == torch.bfloat16
    assert table["dtype"].value_counts(sort=True)["count"].to_list() == [14, 14]
    in_float32 = table.filter(dtype="float32")["bound"]
    assert in_float32.max() < 0.01 < 0.1 < table["bound"].max()


@pytest.mark.parametrize("device_map", ["cpu", "disk", "both"])
def test_halves_are_float32_for_a_while(tmp_path, monkeypatch, device_map):
    path = tiny.save_model(tmp_path, "gpt2")
    loading.load(path, dtype="bfloat16").hf.save_pretrained(path)
    tokens = torch.arange(5, 25)[None]
    expected = loading.load(path).hf(tokens).logits
    if device_map == "both":
        monkeypatch.setattr(loading, "_room", lambda _: {"cpu": 20_000})  # bytes
    model = loading.load(path, "bfloat16", "auto" if device_map == "both" else device_map)
    before = {name: weight.data for name, weight in model.hf.named_parameters()}
    assert any(weight.is_meta for weight in before.values()) == (device_map != "cpu")
    own = model.hf(tokens).logits
    with _upcast.in_float32(model):
        assert model.hf.dtype == torch.float32
        assert all(weight.is_meta for weight in model.hf.parameters())  # a layer at a time
        assert torch.equal(model.hf(tokens).logits, expected)
    assert torch.equal(model.hf(tokens).logits, own) and not torch.equal(own, expected)
    after = {name: weight.data for name, weight in model.hf.named_parameters()}
    assert all(after[name].data_ptr() == weight.data_ptr() for name, weight in before.items())


def test_a_model_on_disk_is_verified(checkpoint):
    model = loading.load(checkpoint, device_map="disk")
    verdict.prove(model)
    assert all(parameter.is_meta for parameter in model.hf.parameters())


def test_the_longest_prompt_of_a_study_is_compared_before_it_computes(
    fresh, monkeypatch, prompts, yaml
):
    tolerance.prove_on(fresh("opt"), prompts, yaml)
    through = likelihoods.Wave.through

    def off(wave, layer, index, states, *arguments, **options):  # in a block of many tokens alone
        after = through(wave, layer, index, states, *arguments, **options)
        long = wave.blocks[index].tokens.numel() > 40
        return [state._replace(hidden=state.hidden * (1.01 if long else 1)) for state in after]

    monkeypatch.setattr(likelihoods.Wave, "through", off)
    with pytest.raises(verdict.VerificationError, match=r"a prompt of the study, .* tokens"):
        tolerance.prove_on(fresh("opt"), prompts, yaml)


# --- the reference is the model with its weights zeroed by hand ---


def test_gates_of_zero_are_weights_zeroed_by_hand(model):
    heads, ffns = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 3)], [0, 2]
    by_hand = copy.deepcopy(model.hf)
    for layer, head in heads:
        name = module_name(model, model.parts[layer].attention_output)
        e = matrix(by_hand.get_submodule(name)).shape[1] // 4
        matrix(by_hand.get_submodule(name))[:, head * e : (head + 1) * e] = 0
    for layer in ffns:
        name = module_name(model, model.parts[layer].ffn_output)
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


# --- ways to break the engine ---


def wrong_mask(monkeypatch, model):
    """A token sees the one after it instead of itself."""
    mask = attention.Sight.mask
    monkeypatch.setattr(attention.Sight, "mask", lambda *arguments: mask(*arguments).roll(1, -1))


def forgotten_bias(monkeypatch, model):
    """A layer without heads does not add the bias of its output projection."""
    no_attention = removal._no_attention

    def forgetful(projection, *arguments, **others):
        return no_attention(torch.nn.Linear(1, 1, bias=False), *arguments, **others)

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
    leave, norm = layers.leave, induction.final_norm(model)[0]

    def without_norm(model, *arguments, **others):
        with language_model.replaced({norm: lambda hidden: hidden}):
            return leave(model, *arguments, **others)

    for way in (_packed, own):
        monkeypatch.setattr(way, "leave", without_norm)


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
    """The heads of one layer are taken for half as large as they are."""
    model.parts[1] = replace(model.parts[1], head_dim=model.parts[1].head_dim // 2)


def sharper_attention(monkeypatch, model):
    """Scores are a tenth too large."""
    scores = attention.AttentionSettings
    monkeypatch.setattr(attention, "AttentionSettings", lambda s, *others: scores(1.1 * s, *others))


def positions_off_by_one(monkeypatch, model):
    """A token of a shared prefix's continuations has the position of the one before it."""
    enter = layers.enter

    def off(model, tokens, positions=None):
        moved = None if positions is None else positions - (positions > 4).long()
        return enter(model, tokens, moved)

    monkeypatch.setattr(_packed, "enter", off)


# The family that is broken, and the way through its layers that is right nevertheless.
SABOTAGES = {
    wrong_mask: ("llama", "own"),
    forgotten_bias: ("opt", None),
    mixed_up_kv_head: ("llama", "own"),
    skipped_norm: ("gpt2", None),
    stale_hook: ("phi", None),
    swallowed_keyword: ("gemma2", "own"),
    head_size_off: ("qwen2", None),
    sharper_attention: ("qwen3", "own"),
    positions_off_by_one: ("opt_350m", "own"),
}


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_an_engine_that_is_wrong_is_not_used(fresh, monkeypatch, caplog, sabotage):
    family, right_way = SABOTAGES[sabotage]
    model = fresh(family)
    model.backend = "packed"
    sabotage(monkeypatch, model)
    if right_way:
        verdict.prove(model)
        message = caplog.text
        assert model.backend == right_way and "own attention is tried" in message
    else:
        with pytest.raises(verdict.VerificationError) as stopped:
            verdict.prove(model)
        message = str(stopped.value)
    assert model.hf.config.model_type in message and "What to do" in message
    assert "removed, in float32: " in message


@pytest.mark.parametrize("sabotage", [sharper_attention, positions_off_by_one])
def test_a_fault_that_halves_hide_shows_in_float32(fresh, monkeypatch, sabotage, prompts, yaml):
    model = fresh("opt_350m")
    model.hf.to(torch.bfloat16)
    model.backend = "packed"
    sabotage(monkeypatch, model)
    table = verdict.verify(model)
    assert not table.filter(dtype="float32", property=tolerance.WHOLE)["passed"].item()
    with pytest.raises(verdict.VerificationError, match="log-likelihoods, in float32: off by"):
        tolerance.prove_on(model, prompts, yaml)


# --- what the reference shares with the engine is proved without it ---


def failed(model):
    """The properties that do not hold, and where."""
    rows = verdict.verify(model).filter(~pl.col("passed"))
    return dict(zip(rows["property"], rows["where"], strict=True))


@pytest.mark.parametrize(
    ("family", "half"),
    [("deepseek_v3", "mlp.experts"), ("qwen2_moe", "mlp.shared_expert"), ("openai-gpt", None)],
)
def test_an_ffn_that_is_removed_by_half_is_told(family, half):
    """Experts beside shared ones, either of them taken for the FFN, or another layer's FFN."""
    model = LanguageModel(zoo.build(family), tiny.tokenizer())
    found = model.parts[1].layer.get_submodule(half) if half else model.parts[2].ffn_output
    model.parts[1] = replace(model.parts[1], ffn_output=found, ffn_writes=found, ffn_inner=())
    where = failed(model)[EMPTIED]
    assert where.startswith("layer 1: ") and "mlp" in where


def test_heads_that_lie_otherwise_are_told(monkeypatch):
    """In another model channels of all heads alternate, where headcount reads head after head."""
    model = LanguageModel(zoo.build("gptj"), tiny.tokenizer())
    attention_of = type(model.parts[0].attention)

    def alternating(_, tensor, heads, head_dim):  # [B, H, T, e]
        return tensor.permute(0, 2, 3, 1).flatten(2)

    monkeypatch.setattr(attention_of, "_merge_heads", alternating)
    assert {*failed(model)} == {BY_PATTERNS}


def test_a_model_that_mixes_prompts_or_sees_ahead_is_told(fresh):
    for axis in (0, 1):  # rows, tokens
        model = fresh("llama")
        mlp = model.parts[1].ffn_writes
        mlp.register_forward_hook(lambda *of, axis=axis: of[2] + of[2].mean(axis, keepdim=True))
        rows = verdict.verify(model).filter(property=ALONE)
        assert not rows["passed"].item() and "not a causal language model" in rows["where"].item()


def test_noise_of_the_model_excuses_nothing(fresh):
    model = fresh("llama")  # whose FFN turns the last bits of its output into another output
    model.parts[1].ffn_writes.register_forward_hook(lambda *of: of[2] + (1e6 * of[2]).sin())
    rows = verdict.verify(model).filter(property=tolerance.WHOLE)
    assert not rows["passed"].item() and rows["bound"].item() == tolerance.CEILING
    assert "where rounding explains 0.1 at most" in tolerance.failure(rows, model)


def wrong_mean(monkeypatch):
    """The first token counts as any other."""
    means = ablation._means
    monkeypatch.setattr(ablation, "_means", lambda positions: means(positions + 1))


def wrong_draw(monkeypatch):
    """Every component has a draw of its own."""
    at = removal.Ablation.at

    def shifted(fitted, layer, positions):
        return at(fitted, layer, positions + layer)

    monkeypatch.setattr(removal.Ablation, "at", shifted)


@pytest.mark.parametrize(
    ("sabotage", "kinds"), [(wrong_mean, {"mean"}), (wrong_draw, {"mean", "resample"})]
)
def test_wrong_stand_ins_are_told(fresh, monkeypatch, sabotage, kinds):
    sabotage(monkeypatch)
    assert {*failed(fresh("phi3"))} == {STAND_INS[kind] for kind in kinds}
