"""The sweep equals one prompt, one mask, one full forward pass; its parts keep their promises."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from plain import REMOVALS, naive, random_prompts, tolerance, within

from headcount.engine import Masks, log_likelihoods
from headcount.engine.attention import Sight
from headcount.engine.sharing import tree
from headcount.engine.trie import blocks
from headcount.models.language_model import Prompt

pytestmark = pytest.mark.numerical


def assert_equals_naive_loop(model, prompts, removals, memory):
    sums, greedy = within(memory, log_likelihoods, model, prompts, Masks.removing(model, removals))
    for mask, removal in enumerate(removals):
        for index, prompt in enumerate(prompts):
            expected, margin = naive(model, prompt, *removal)
            assert sums[mask, index].item() == pytest.approx(expected, abs=tolerance(model))
            if abs(margin) > tolerance(model):
                assert bool(greedy[mask, index]) == (margin > 0)


@pytest.mark.parametrize("memory", [0.001, 0.2, 1000])
def test_equals_the_naive_loop_whatever_the_memory(model, memory):
    assert_equals_naive_loop(model, random_prompts(6), REMOVALS, memory)


tokens = st.integers(8, 11)  # few, so that prompts often begin alike
prompts = st.builds(
    lambda context, targets: Prompt([2, *context, *targets[:-1]], targets, truncated=False),
    st.lists(tokens, max_size=30),
    st.lists(tokens, min_size=1, max_size=4),
)
removals = st.tuples(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=8, unique=True),
    st.lists(st.integers(0, 2), max_size=3, unique=True),
)


@pytest.mark.parametrize("family", ["opt", "llama", "gpt_neox"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    asked=st.lists(prompts, min_size=1, max_size=6),
    gone=st.lists(removals, min_size=1, max_size=4),
    memory=st.sampled_from([0.001, 0.02, 0.2, 5]),
)
def test_any_trie_any_masks_any_memory(all_models, family, asked, gone, memory):
    assert_equals_naive_loop(all_models[family], asked, gone, memory)


def test_greedy_is_true_where_greedy_decoding_gives_the_targets(model):
    with torch.inference_mode():
        best = model.hf(input_ids=torch.tensor([[2, 9, 10]])).logits[0, -1].argmax().item()
    asked = [Prompt([2, 9, 10], [best], False), Prompt([2, 9, 10], [(best + 1) % 48], False)]
    _, greedy = log_likelihoods(model, asked, Masks.removing(model, [([], [])]))
    assert greedy.tolist() == [[True, False]]


def test_a_log_likelihood_that_is_not_finite_names_the_model(opt):
    norm = opt.hf.model.decoder.final_layer_norm
    saved = norm.weight.clone()
    try:
        norm.weight.fill_(float("nan"))
        named = f"{opt.hf.name_or_path}.*final_layer_norm.weight has weights that are not finite"
        with pytest.raises(FloatingPointError, match=named):
            log_likelihoods(opt, random_prompts(1), Masks.removing(opt, [([], [])]))
    finally:
        norm.weight.copy_(saved)


# --- shared prefixes ---


def distinct_prefixes(asked):
    """Nodes of the tokens' trie, counted by hand."""
    return len({tuple(p.tokens[:end]) for p in asked for end in range(1, len(p.tokens) + 1)})


def test_a_common_context_is_packed_once():
    context = [2, *range(8, 28)]
    choices = [[30], [30, 31], [32, 33, 34], [35]]
    asked = [Prompt([*context, *choice[:-1]], choice, False) for choice in choices]
    (block,) = blocks(asked, max_tokens=1000)
    assert len(block) == distinct_prefixes(asked) == len(context) + 1 + 2
    assert block.tokens[0].tolist()[: len(context)] == context
    assert sum(map(len, blocks(asked, 1000, share=False))) == sum(len(p.tokens) for p in asked)


@given(asked=st.lists(prompts, min_size=1, max_size=12), max_tokens=st.integers(1, 60))
@settings(deadline=None)
def test_a_token_sees_its_prefix_and_nothing_else(asked, max_tokens):
    packing = blocks(asked, max_tokens)
    found = {}
    for block in packing:
        sees = [[] for _ in range(len(block))]
        sight = Sight.of(block)
        for unit in block.units:
            keys = [index for part in unit.keys for index in range(part.start, part.stop)]
            shown = sight.mask(unit, window=None)
            for row, query in enumerate(range(unit.queries.start, unit.queries.stop)):
                sees[query] = [keys[k] for k in shown[row].nonzero()[:, 0]]
        for row, target, prompt in zip(block.rows, block.targets, block.prompts, strict=True):
            place = int(block.scored[row])
            assert block.positions[0, sees[place]].tolist() == list(range(len(sees[place])))
            prefix = block.tokens[0, sees[place]].tolist()
            found.setdefault(int(prompt), []).append((prefix, int(target)))
    for index, prompt in enumerate(asked):
        first = len(prompt.tokens) - len(prompt.targets) + 1
        expected = [(prompt.tokens[: first + j], t) for j, t in enumerate(prompt.targets)]
        assert sorted(found[index], key=lambda pair: len(pair[0])) == expected


def test_blocks_keep_to_their_size():
    asked = random_prompts(40)
    packing = blocks(asked, max_tokens=90)
    assert max(map(len, packing)) <= 90
    assert sorted(set(torch.cat([b.prompts for b in packing]).tolist())) == list(range(len(asked)))


# --- shared layers ---


def test_masks_share_the_layers_below_their_first_difference(opt):
    """Removing each of L FFNs passes L (L + 1) / 2 states beside the whole model's L."""
    L = opt.num_layers
    states = tree(Masks.removing(opt, [([], []), *(([], [layer]) for layer in range(L))]))
    assert states.passes == L + L * (L + 1) // 2
    assert len(set(states.leaves)) == L + 1 == states.width


def test_equal_masks_are_swept_once(opt):
    states = tree(Masks.removing(opt, [([(1, 2)], [])] * 5))
    assert (states.passes, states.leaves) == (opt.num_layers, [0] * 5)
