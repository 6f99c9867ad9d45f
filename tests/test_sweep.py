"""The batched evaluation equals one prompt, one mask, one plain forward pass."""

import random

import pytest
import torch

from headcount.model import Prompt
from headcount.sweep import Masks, batches, log_likelihoods


def random_prompts(count, seed=0):
    """Prompts with common inputs, single-token and longer targets, all lengths."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        tokens = [2, *draw.choices(range(8, 48), k=draw.randint(3, 20))]
        for _ in range(draw.randint(1, 3)):
            targets = draw.choices(range(8, 48), k=draw.choice([1, 1, 3]))
            prompts.append(Prompt(tokens + targets[:-1], targets, truncated=False))
    return prompts


def naive(model, prompt, removed_heads, removed_ffns):
    """Zero the weights' columns by hand, run one prompt, sum the log-probabilities."""
    saved = {name: value.clone() for name, value in model.hf.state_dict().items()}
    with torch.inference_mode():
        for layer, head in removed_heads:
            columns = slice(head * model.head_dim, (head + 1) * model.head_dim)
            projection = model.attention_outputs[layer]
            linear = isinstance(projection, torch.nn.Linear)
            (projection.weight.T if linear else projection.weight)[columns] = 0
        for layer in removed_ffns:
            for parameter in model.ffn_outputs[layer].parameters():
                parameter.zero_()
        logits = model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0].log_softmax(-1)
    model.hf.load_state_dict(saved)
    predicted = logits[-len(prompt.targets) :]
    chosen = predicted[range(len(prompt.targets)), prompt.targets]
    return chosen.sum().item(), predicted.argmax(-1).tolist() == prompt.targets


@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_equals_the_naive_loop_whatever_the_batch(model, max_tokens):
    prompts = random_prompts(6)
    removals = [([], []), ([(0, 1), (2, 3)], []), ([], [1]), ([(1, 0), (1, 1), (1, 2)], [0, 2])]
    sums, greedy = log_likelihoods(model, prompts, Masks.removing(model, removals), max_tokens)
    for mask, removal in enumerate(removals):
        for index, prompt in enumerate(prompts):
            expected, is_greedy = naive(model, prompt, *removal)
            assert sums[mask, index].item() == pytest.approx(expected, abs=1e-4)
            assert bool(greedy[mask, index]) == is_greedy


def test_greedy_is_true_where_greedy_decoding_gives_the_targets(model):
    with torch.inference_mode():
        best = model.hf(input_ids=torch.tensor([[2, 9, 10]])).logits[0, -1].argmax().item()
    prompts = [Prompt([2, 9, 10], [best], False), Prompt([2, 9, 10], [(best + 1) % 48], False)]
    _, greedy = log_likelihoods(model, prompts, Masks.removing(model, [([], [])]))
    assert greedy.tolist() == [[True, False]]


def test_prompts_with_one_input_share_a_row():
    prompts = [Prompt([2, 9, 10], [token], False) for token in (11, 12, 13)]
    (batch,) = batches(prompts, max_tokens=100)
    assert batch.tokens.tolist() == [[2, 9, 10]]
    assert batch.prompts.tolist() == [0, 1, 2]
    (batch,) = batches(prompts, max_tokens=100, share=False)
    assert batch.prompts_of_rows.tolist() == [0, 1, 2]


def test_batches_keep_to_their_size():
    prompts = random_prompts(40)
    sizes = [batch.tokens.numel() for batch in batches(prompts, max_tokens=90, masks=2)]
    assert max(sizes) * 2 <= 90
    scored = torch.cat([batch.prompts for batch in batches(prompts, max_tokens=90)])
    assert sorted(set(scored.tolist())) == list(range(len(prompts)))


def test_a_log_likelihood_that_is_not_finite_names_the_model(opt):
    norm = opt.final_norm[0]
    saved = norm.weight.clone()
    try:
        norm.weight.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=opt.hf.name_or_path):
            log_likelihoods(opt, random_prompts(1), Masks.removing(opt, [([], [])]))
    finally:
        norm.weight.copy_(saved)
