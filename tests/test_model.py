"""Heads and FFNs are found, and removing one is what zeroing the weights by hand is."""

import copy

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, OPTConfig, T5Config

from headcount import model as models

TOKENS = torch.tensor([[2, *range(8, 30)], [2, *range(20, 42)]])


def logits(hf, tokens=TOKENS):
    with torch.inference_mode():
        return hf(input_ids=tokens, use_cache=False).logits


def masks(model, rows):
    heads = torch.ones(rows, model.num_layers, model.num_heads, dtype=torch.bool)
    return heads, torch.ones(rows, model.num_layers, dtype=torch.bool)


def test_without_a_mask_the_logits_are_bit_for_bit_the_unmodified_model(model):
    before = logits(model.hf)
    with model.masked(*masks(model, 2)):
        assert torch.equal(logits(model.hf), before)
    assert torch.equal(logits(model.hf), before)


def zero_head(hf, model, layer, head):
    """Zero the columns of the output projection that read the head: by hand, no hook."""
    projection = hf.get_submodule(module_name(model, model.attention_outputs[layer]))
    columns = slice(head * model.head_dim, (head + 1) * model.head_dim)
    if isinstance(projection, torch.nn.Linear):
        projection.weight[:, columns] = 0
    else:
        projection.weight[columns] = 0


def module_name(model, module):
    return next(name for name, candidate in model.hf.named_modules() if candidate is module)


@pytest.mark.parametrize("layer,head", [(0, 0), (1, 3), (2, 1)])
def test_removing_a_head_is_zeroing_its_part_of_the_output_projection(model, layer, head):
    by_hand = copy.deepcopy(model.hf)
    zero_head(by_hand, model, layer, head)
    heads, ffns = masks(model, 2)
    heads[0, layer, head] = False  # only in the first row of the batch
    with model.masked(heads, ffns):
        gated = logits(model.hf)
    torch.testing.assert_close(gated[0], logits(by_hand)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gated[1], logits(model.hf)[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(gated[0], logits(model.hf)[0], atol=1e-3)


@pytest.mark.parametrize("layer", [0, 2])
def test_removing_an_ffn_is_zeroing_its_output_projection_bias_included(model, layer):
    by_hand = copy.deepcopy(model.hf)
    projection = by_hand.get_submodule(module_name(model, model.ffn_outputs[layer]))
    for parameter in projection.parameters():
        parameter.zero_()
    heads, ffns = masks(model, 2)
    ffns[1, layer] = False
    with model.masked(heads, ffns):
        gated = logits(model.hf)
    torch.testing.assert_close(gated[1], logits(by_hand)[1], atol=1e-5, rtol=1e-5)
    assert torch.allclose(gated[0], logits(model.hf)[0], atol=1e-5)


def test_hooks_go_even_when_the_model_fails(opt):
    before = logits(opt.hf)
    heads, ffns = masks(opt, 2)
    heads[:, 0, 0] = False
    with pytest.raises(IndexError), opt.masked(heads, ffns):
        logits(opt.hf, torch.tensor([[10_000]]))
    assert torch.equal(logits(opt.hf), before)


def test_head_weight_is_what_a_head_writes_with(model):
    z = torch.randn(model.num_heads, model.head_dim)
    projection = model.attention_outputs[1]
    bias = getattr(projection, "bias", None)
    expected = projection(z.flatten()[None])[0] - (0 if bias is None else bias)
    written = torch.einsum("hd,hdo->o", z, model.head_weight(1))
    torch.testing.assert_close(written, expected, atol=1e-4, rtol=1e-4)


def test_logits_at_positions_are_those_of_the_whole_forward_pass(model):
    whole = logits(model.hf)
    rows, positions = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 22])
    with torch.inference_mode():
        some = model.logits_at(TOKENS, rows, positions)
    torch.testing.assert_close(some, whole[rows, positions], atol=1e-5, rtol=1e-5)


def small(config):
    return AutoModelForCausalLM.from_config(config)


def test_a_mixture_of_experts_is_refused_by_name():
    config = MixtralConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    with pytest.raises(models.ModelError, match="mixture of experts"):
        models.LanguageModel(small(config), tiny.tokenizer())


def test_a_model_without_attention_is_refused_with_what_was_looked_for():
    config = AutoConfig.for_model(
        "mamba", vocab_size=48, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    with pytest.raises(models.ModelError, match=r"looked for .*self_attn\.o_proj"):
        models.LanguageModel(small(config), tiny.tokenizer())


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(vocab_size=48, d_model=32, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(models.ModelError, match="T5"):
        models.resolve(str(tmp_path), None, None, tmp_path)


def test_resolve_describes_a_local_checkpoint_without_loading_weights(checkpoint, tmp_path):
    facts = models.resolve(str(checkpoint), None, None, tmp_path)
    assert (facts["layers"], facts["heads"]) == (3, 4)
    assert facts["architecture"] == "OPTForCausalLM"
    assert facts["path"] == str(checkpoint)


def test_a_source_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(models.ModelError, match="no/such-model"):
        models.resolve("no/such-model", None, None, tmp_path)


def test_a_directory_that_holds_no_model_is_named(tmp_path):
    OPTConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(models.ModelError, match=str(tmp_path)):
        models.load(tmp_path)
