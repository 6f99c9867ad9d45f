"""FFNs of several modules, or with something behind them, against plain PyTorch by module names."""

import copy

import pytest
import tiny
import torch
import zoo
from plain import random_prompts
from torch import nn

from headcount.engine import Masks, ablation, log_likelihoods
from headcount.models.families import Layout, ModelError
from headcount.models.language_model import LanguageModel
from headcount.scores import importance

pytestmark = pytest.mark.numerical

MIXTURE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
MIXTURE |= {"moe_intermediate_size": 24}
# Type, settings; modules of a layer's FFN; those whose outputs together arrive at the residual
# stream.
CASES = {
    "granitemoe_swa": ({}, ["block_sparse_moe", "shared_mlp"], ["block_sparse_moe", "shared_mlp"]),
    "granitemoehybrid": (
        {},
        ["block_sparse_moe", "shared_mlp"],
        ["block_sparse_moe", "shared_mlp"],
    ),
    "granitemoehybrid without experts": ({"num_local_experts": 0}, ["shared_mlp"], ["shared_mlp"]),
    "gemma4_text": (MIXTURE, ["mlp", "experts"], ["post_feedforward_layernorm"]),
    "inkling_text": ({}, ["mlp"], ["mlp_sconv"]),
    "inkling2_text": ({}, ["mlp"], ["post_mlp_convolution"]),
}
PROMPTS = random_prompts(2, seed=4)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The model, the names of its FFNs' modules, and of those that write to the stream."""
    settings, modules, writers = CASES[request.param]
    hf = zoo.build(request.param.partition(" ")[0], **settings)
    return LanguageModel(hf, tiny.tokenizer()), modules, writers


def log_likelihood(hf, prompt):
    log_p = hf(input_ids=torch.tensor([prompt.tokens]), use_cache=False).logits[0].log_softmax(-1)
    return log_p[range(-len(prompt.targets), 0), prompt.targets].sum()


def close(expected):
    return pytest.approx(expected, rel=1e-4, abs=1e-4)  # of nats; a removal changes whole ones


def test_all_of_an_ffn_is_removed(case):
    model, modules, _ = case
    whole, without = log_likelihoods(
        model, PROMPTS, Masks.removing(model, [([], []), ([], [0, 2])])
    )[0]
    by_hand = copy.deepcopy(model.hf)
    layers = by_hand.get_submodule(module_name(model.hf, model.layers))
    with torch.no_grad():
        for layer in (0, 2):
            for name in modules:
                for parameter in layers[layer].get_submodule(name).parameters():
                    parameter.zero_()
        for i, prompt in enumerate(PROMPTS):
            assert whole[i].item() == close(log_likelihood(model.hf, prompt).item())
            assert without[i].item() == close(log_likelihood(by_hand, prompt).item())
    assert (whole - without).abs().max() > 2e-3  # Inkling's logits are small


def test_the_score_is_the_derivative_by_what_arrives_at_the_residual_stream(case):
    """sum_t |d loss / d g_t| by autograd, with gates g_t on every module that writes."""
    model, _, writers = case
    scores = importance.gradient(model, PROMPTS[:1], "ffns", "token").contributions[0]
    (prompt,) = PROMPTS[:1]
    gates, handles = [], []
    for layer in model.layers:
        gates.append(torch.ones(1, len(prompt.tokens), 1, requires_grad=True))
        handles += [
            layer.get_submodule(name).register_forward_hook(
                lambda _m, _i, out, g=gates[-1]: out * g
            )
            for name in writers
        ]
    with torch.enable_grad():
        loss = -log_likelihood(model.hf, prompt) / len(prompt.targets)
        gradients = torch.autograd.grad(loss, gates)
    for handle in handles:
        handle.remove()
    assert scores == close([gradient.abs().sum().item() for gradient in gradients])


def test_the_mean_takes_the_place_of_the_sum_of_what_is_written(case):
    model, _, writers = case
    fitted = ablation.fit(model, PROMPTS[1:], "mean", seed=0)
    (prompt,) = PROMPTS[:1]
    (replaced,) = log_likelihoods(model, [prompt], Masks.removing(model, [([], [2])], fitted))[0]
    seen: dict[str, list] = {name: [] for name in writers}

    def record(name, output):
        seen[name].append(output.reshape(-1, model.d_model))

    with torch.no_grad():
        layer, handles = model.layers[2], []
        for name in writers:
            hook = lambda _m, _i, out, name=name: record(name, out)  # noqa: E731
            handles.append(layer.get_submodule(name).register_forward_hook(hook))
        for other in PROMPTS[1:]:
            model.hf(input_ids=torch.tensor([other.tokens]), use_cache=False)
        for handle in handles:
            handle.remove()
        written = [sum(of_prompt) for of_prompt in zip(*seen.values(), strict=True)]
        first = torch.stack([of_prompt[0] for of_prompt in written]).mean(0)
        others = torch.cat([of_prompt[1:] for of_prompt in written]).mean(0)
        mean = torch.stack([first, *[others] * (len(prompt.tokens) - 1)])
        handles = [
            layer.get_submodule(name).register_forward_hook(
                lambda _m, _i, out, last=name == writers[-1]: mean.view_as(out) * last
            )
            for name in writers
        ]
        expected = log_likelihood(model.hf, prompt).item()
        for handle in handles:
            handle.remove()
    assert replaced.item() == close(expected)


def module_name(hf, module):
    return next(name for name, candidate in hf.named_modules() if candidate is module)


def test_a_layer_with_a_module_that_is_known_for_nothing_is_refused():
    hf = zoo.build("qwen2")
    hf.model.layers[1].expert_beside = nn.Linear(32, 32)
    refusal = r"Qwen2ForCausalLM \(qwen2\).*expert_beside \(Linear\) in layer 1.*models.NAME.layout"
    with pytest.raises(ModelError, match=refusal):
        LanguageModel(hf, tiny.tokenizer())
    named = Layout("self_attn.o_proj", "mlp.down_proj")
    assert LanguageModel(hf, tiny.tokenizer(), layout=named).ffns == [0, 1, 2]


def test_heads_are_counted_by_the_model_or_it_is_refused():
    hf = zoo.build("gptj")
    for layer in hf.transformer.h:
        del layer.attn.num_attention_heads, layer.attn.head_dim
    vars(hf.config)["n_head"] = None
    with pytest.raises(ModelError, match=r"neither attn.out_proj nor the configuration counts"):
        LanguageModel(hf, tiny.tokenizer())
