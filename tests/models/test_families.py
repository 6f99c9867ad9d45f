"""Properties that hold in every family of models, on a tiny random model of each."""

import copy
import re
from functools import partial

import pytest
import rounding
import tiny
import torch
import zoo
from plain import everything, logits, module_name, naive, random_prompts, tolerance
from transformers import AutoModelForCausalLM

from headcount.engine import Masks, log_likelihoods
from headcount.engine.removal import without
from headcount.models import projections
from headcount.models.language_model import LanguageModel
from headcount.scores import importance

pytestmark = pytest.mark.numerical


# --- the properties; each takes a LanguageModel ---


def unmodified_without_a_mask(model):
    """With nothing removed the logits are bit for bit those of the model, inside and after."""
    before = logits(model.hf)
    with without(model, *everything(model)):
        assert torch.equal(logits(model.hf), before)
    assert torch.equal(logits(model.hf), before)


def removed_head_is_zeroed_columns(model):
    """Removing heads equals zeroing what the output projection reads of them."""
    for gone in ([(0, 0)], [(1, 3), (2, 1)], [(1, head) for head in range(model.heads[1])]):
        by_hand = copy.deepcopy(model.hf)
        heads, ffns = everything(model)
        for layer, head in gone:
            heads[layer][head] = False
            part = model.parts[layer]
            name = module_name(model, part.attention_output)
            columns = slice(head * part.head_dim, (head + 1) * part.head_dim)
            projections.matrix(by_hand.get_submodule(name))[:, columns] = 0
        assert_removed(model, by_hand, heads, ffns)


def removed_ffn_is_zeroed_projection(model):
    """Removing an FFN equals zeroing its output projection, weight and bias."""
    for layer in (0, 2):
        by_hand = copy.deepcopy(model.hf)
        name = module_name(model, model.parts[layer].ffn_output)
        for parameter in by_hand.get_submodule(name).parameters():
            parameter.zero_()
        heads, ffns = everything(model)
        ffns[layer] = False
        assert_removed(model, by_hand, heads, ffns)


def assert_removed(model, by_hand, heads, ffns):
    whole, expected = logits(model.hf), logits(by_hand)
    by_rounding = rounding.bound(
        LanguageModel(by_hand, model.tokenizer), lambda model: logits(model.hf)
    )
    with without(model, heads, ffns):
        torch.testing.assert_close(logits(model.hf), expected, atol=by_rounding, rtol=0)
    assert torch.equal(logits(model.hf), whole)
    assert (whole - expected).abs().max() > 100 * by_rounding
    removal = Masks([of_layer[None] for of_layer in heads], ffns[None])
    prompts = random_prompts(3, seed=9)
    swept, _ = log_likelihoods(model, prompts, removal)
    naive = [log_likelihood(by_hand, prompt) for prompt in prompts]
    torch.testing.assert_close(
        swept[0], torch.tensor(naive, dtype=torch.float64), atol=tolerance(model), rtol=0
    )


def log_likelihood(hf, prompt):
    log_p = logits(hf, torch.tensor([prompt.tokens]))[0, -len(prompt.targets) :].log_softmax(-1)
    return log_p[range(len(prompt.targets)), prompt.targets].sum().item()


def score_is_derivative_of_gate(model):
    """The gradient score is |d loss / d gate|, with a gate of one on each component's output."""
    prompt = random_prompts(1, seed=5)[0]
    for component in ("heads", "ffns"):
        scores = importance.gradient(model, [prompt], component, "example").contributions[0]
        expected = of_gates(model, prompt, component)
        by_rounding = rounding.bound(model, partial(of_gates, prompt=prompt, component=component))
        assert scores == pytest.approx(expected.abs().numpy(), abs=by_rounding)
        assert scores.max() > 100 * by_rounding


def of_gates(model, prompt, component):
    """d loss / d gate of every head [L * H] or FFN [L], by autograd through the whole model."""
    gates, handles = [], []
    for part in model.parts:
        gate = torch.ones(part.heads if component == "heads" else 1, 1, dtype=model.hf.dtype)
        gates.append(gate.requires_grad_())

        def on_z(_module, inputs, gate=gate):
            return ((inputs[0].unflatten(-1, (len(gate), -1)) * gate).flatten(-2),)

        def on_ffn(_module, _inputs, output, gate=gate):
            return output * gate[0]

        handles.append(
            part.attention_output.register_forward_pre_hook(on_z)
            if component == "heads"
            else part.ffn_writes.register_forward_hook(on_ffn)
        )
    log_p = model.hf(input_ids=torch.tensor([prompt.tokens]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    count = len(prompt.targets)
    loss = -log_p.log_softmax(-1)[-count:][range(count), prompt.targets].mean()
    return torch.cat(torch.autograd.grad(loss, gates)).flatten()


def grouped_is_repeated(model):
    """Grouped-query attention equals attention with each key-value head repeated."""
    part = model.parts[0]
    group = part.heads // part.kv_heads
    config = copy.deepcopy(model.hf.config)
    config.num_key_value_heads = part.heads
    repeated = AutoModelForCausalLM.from_config(config).eval()
    weights = {}
    for name, weight in model.hf.state_dict().items():
        if match := re.search(r"(k_proj|v_proj|qkv_proj)\.", name):
            of_heads = weight.unflatten(0, (-1, part.head_dim))  # [heads, head_dim, ..]
            queries = part.heads if match[1] == "qkv_proj" else 0
            kv = of_heads[queries:].repeat_interleave(group, 0)
            if queries:  # keys, then values: each of these heads was repeated in place
                kv = torch.cat(
                    [
                        half.repeat_interleave(group, 0)
                        for half in of_heads[queries:].split(part.kv_heads)
                    ]
                )
            weight = torch.cat([of_heads[:queries], kv]).flatten(0, 1)
        weights[name] = weight
    repeated.load_state_dict(weights)
    repeated = LanguageModel(repeated, model.tokenizer)
    assert repeated.parts[0].kv_heads == part.heads > part.kv_heads
    prompts = random_prompts(4, seed=3)
    removals = [([], []), ([(0, 1)], []), ([(1, 0), (1, 1), (2, 3)], [0])]
    sums, _ = log_likelihoods(model, prompts, Masks.removing(model, removals))
    expected, _ = log_likelihoods(repeated, prompts, Masks.removing(repeated, removals))
    torch.testing.assert_close(sums, expected, atol=tolerance(model), rtol=0)

    def scores(model):
        return importance.gradient(model, prompts, "heads", "token").contributions

    expected = pytest.approx(scores(repeated), abs=rounding.bound(model, scores))
    assert scores(model) == expected


PROPERTIES = [
    unmodified_without_a_mask,
    removed_head_is_zeroed_columns,
    removed_ffn_is_zeroed_projection,
    score_is_derivative_of_gate,
    grouped_is_repeated,
]


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_property(model, check):
    if check is not grouped_is_repeated or model.parts[0].kv_heads < model.parts[0].heads:
        check(model)


# --- what a head has of its own beside its rows and columns ---

AS_MANY = {"num_attention_heads": 8, "head_dim": 8, "num_key_value_heads": 2}  # heads as channels


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("flint", AS_MANY),  # sinks, and norms of the channels of a head
        ("mimo_v2_flash", AS_MANY),
        ("granite_swa", AS_MANY),
        ("beam", AS_MANY),  # biases of gates
        ("stablelm", {"qk_layernorm": True}),  # a norm for each head
        ("stablelm", {"qk_layernorm": True, "num_key_value_heads": 4}),
    ],
)
def test_sinks_norms_and_biases_of_a_head_go_with_it(model_type, settings):
    model = LanguageModel(zoo.build(model_type, **settings), tiny.tokenizer())
    prompts = random_prompts(2, seed=2)
    removals = [([(0, 0)], []), ([(1, 0), (1, 1), (2, 3)], [])]
    sums, _ = log_likelihoods(model, prompts, Masks.removing(model, removals))
    expected = [[naive(model, prompt, *gone)[0] for prompt in prompts] for gone in removals]
    assert sums.tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    assert model.backend == "packed"


# --- what is put together from the parts ---


def test_hooks_go_even_when_the_model_fails(opt):
    before = logits(opt.hf)
    heads, ffns = everything(opt)
    heads[0][0] = False
    with pytest.raises(IndexError), without(opt, heads, ffns):
        logits(opt.hf, torch.tensor([[10_000]]))
    assert torch.equal(logits(opt.hf), before)


def test_head_weight_is_what_a_head_writes_with(model):
    z = torch.randn(model.parts[1].heads, model.parts[1].head_dim)
    projection = model.parts[1].attention_output
    bias = getattr(projection, "bias", None)
    expected = projection(z.flatten()[None])[0] - (0 if bias is None else bias)
    weight = model.head_weight(1)
    written = torch.einsum("hd,hdo->o", z, weight)
    size = torch.einsum("hd,hdo->o", z.abs(), weight.abs()) + (0 if bias is None else bias.abs())
    tolerance = 2 * rounding.gamma(z.numel() + 2) * size.max().item()  # + 2: the bias, and back
    torch.testing.assert_close(written, expected, atol=tolerance, rtol=0)
