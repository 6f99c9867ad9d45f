"""Stand-ins of removed components against plain hooks on the unmodified model."""

import numpy as np
import pytest
import rounding
import tiny
import torch
import zoo
from plain import random_prompts, tolerance, within

from headcount.engine import Masks, ablation, log_likelihoods
from headcount.models.language_model import LanguageModel

pytestmark = pytest.mark.numerical


def recorded(model, prompts):
    """z [L, tokens, H, e], FFN outputs [L, tokens, d] and positions [tokens], by plain hooks."""
    zs, ffns, positions = [], [], []
    for prompt in prompts:
        z, ffn, handles = [], [], []
        for part in model.parts:
            handles += [
                part.attention_output.register_forward_pre_hook(
                    lambda _m, inputs, z=z: z.append(inputs[0].view(-1, *shape(model)))
                ),
                part.ffn_writes.register_forward_hook(
                    lambda _m, _i, out, ffn=ffn: ffn.append(out.view(-1, model.d_model))
                ),
            ]
        with torch.inference_mode():
            model.hf(input_ids=torch.tensor([prompt.tokens]))
        for handle in handles:
            handle.remove()
        positions += range(len(prompt.tokens))
        zs.append(torch.stack(z))
        ffns.append(torch.stack(ffn))
    return torch.cat(zs, 1), torch.cat(ffns, 1), np.array(positions)


def of_recorded(model, prompts):
    """How far apart two recordings of an output may be."""
    return rounding.bound(
        model, lambda model: torch.cat([part.flatten() for part in recorded(model, prompts)[:2]])
    )


def shape(model):
    return model.parts[0].heads, model.parts[0].head_dim


def test_the_mean_is_that_of_first_tokens_and_of_the_others(model):
    prompts = random_prompts(5, seed=7)
    z, ffn, positions = recorded(model, prompts)
    close = {"atol": of_recorded(model, prompts), "rtol": 0}
    fitted = ablation.fit(model, prompts, "mean", seed=0)
    for row, chosen in enumerate((positions == 0, positions > 0)):
        torch.testing.assert_close(torch.stack(fitted.z)[:, row], z[:, chosen].mean(1), **close)
        torch.testing.assert_close(fitted.ffn[:, row], ffn[:, chosen].mean(1), **close)
    at = fitted.at(1, torch.tensor([0, 1, 17]))
    assert torch.equal(at.z, fitted.z[1][[0, 1, 1]])


def test_resampled_outputs_are_those_of_one_token_in_all_layers(opt):
    prompts = random_prompts(5, seed=7)
    z, ffn, positions = recorded(opt, prompts)
    close = {"atol": of_recorded(opt, prompts), "rtol": 0}
    fitted = ablation.fit(opt, prompts, "resample", seed=0)
    drawn = set()
    of_layers = torch.stack(fitted.z)
    for position in range(of_layers.shape[1]):
        distance = (z[0] - of_layers[0, position]).abs().amax((1, 2))
        token = int(distance.argmin())
        drawn.add(token)
        assert (positions[token] == 0) == (position == 0)
        torch.testing.assert_close(of_layers[:, position], z[:, token], **close)
        torch.testing.assert_close(fitted.ffn[:, position], ffn[:, token], **close)
    assert len(drawn) > 5
    again = ablation.fit(opt, prompts, "resample", seed=1)
    assert not torch.equal(again.z[0], fitted.z[0])


@pytest.mark.parametrize("kind", ["mean", "resample"])
@pytest.mark.parametrize("memory", [0.05, 1000])
def test_a_removed_component_leaves_its_stand_in(model, kind, memory):
    check_stand_ins(model, kind, memory, tolerance(model))


@pytest.mark.parametrize(
    "model_type",
    [
        "granitemoe",  # mixtures of experts: packed
        "phimoe",  # and by their own attention
        "granitemoeshared",  # with an expert beside the others
        "lfm2_moe",  # where not every layer has attention
        "laguna",  # where layers differ in their heads
        "cohere2_moe",  # beside attention
        "openai-gpt",  # norms after the sums
        "falcon",
    ],
)
@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_stand_ins_work_in_every_kind_of_layer(model_type, kind):
    model = LanguageModel(zoo.build(model_type), tiny.tokenizer())
    check_stand_ins(model, kind, 1000, 1e-3)


def check_stand_ins(model, kind, memory, tolerance):
    """The sweep equals plain hooks that put the stand-ins in place, one prompt at a time."""
    fitted = within(memory, ablation.fit, model, random_prompts(5, seed=7), kind, 0)
    attentive = [layer for layer, count in enumerate(model.heads) if count]
    heads = [(attentive[0], 1), (attentive[-1], 0)]
    heads += [(1, head) for head in range(model.heads[1])]
    masks = Masks.removing(model, [([], []), (heads, [0, 2])], fitted)
    prompts = random_prompts(3, seed=11)
    sums, _ = within(memory, log_likelihoods, model, prompts, masks)

    def with_heads(layer, z):
        at = fitted.at(layer, torch.arange(z.shape[1]))
        z = z.clone()
        for _, head in [pair for pair in heads if pair[0] == layer]:
            z[:, :, head] = at.z[:, head]
        return z

    def with_ffn(layer, out):
        positions = torch.arange(out.numel() // model.d_model)
        return fitted.at(layer, positions).ffn.view_as(out) if layer in (0, 2) else out

    for index, prompt in enumerate(prompts):
        with torch.inference_mode(), model.hooked(with_heads, with_ffn):
            logits = model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0].log_softmax(-1)
        predicted = logits[-len(prompt.targets) :]
        expected = predicted[range(len(prompt.targets)), prompt.targets].sum().item()
        assert sums[1, index].item() == pytest.approx(expected, abs=tolerance)
    whole, _ = log_likelihoods(model, prompts, masks[:1])
    torch.testing.assert_close(sums[:1], whole, atol=tolerance, rtol=0)


def test_zero_leaves_nothing_and_other_kinds_are_refused(opt):
    assert ablation.fit(opt, random_prompts(2), "zero", seed=0) is None
    with pytest.raises(ValueError, match="not one of zero, mean, resample"):
        ablation.fit(opt, random_prompts(2), "median", seed=0)
