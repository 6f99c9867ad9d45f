"""Importance scores against autograd through the unmodified model, and against removal by hand."""

import itertools
from functools import partial

import numpy as np
import pytest
import rounding
import torch
from plain import naive, random_prompts, tolerance, within

from headcount.scores import importance
from headcount.scores.documents import Evaluation

pytestmark = pytest.mark.numerical


def reference_products(model, prompt, component):
    """<A_t, d loss / d A_t> [T, N] of one prompt, with plain hooks on the unmodified model.

    Written apart from the library: parameters require gradients, as in the paper's code.
    """
    model.hf.requires_grad_(True)
    kept, handles = [], []
    heads = component == "heads"
    for part in model.parts:
        module = part.attention_output if heads else part.ffn_writes

        def keep(module, inputs, output):
            tensor = inputs[0] if heads else output
            tensor.retain_grad()
            kept.append(tensor)

        handles.append(module.register_forward_hook(keep))
    try:
        logits = model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0].log_softmax(-1)
        count = len(prompt.targets)
        (-logits[-count:][range(count), prompt.targets].mean()).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.hf.requires_grad_(False)
    products = []
    for tensor in kept:
        product = (tensor * tensor.grad).detach().reshape(len(prompt.tokens), -1)
        parts = product.split(model.parts[0].head_dim, -1) if heads else [product]
        products += [part.sum(-1) for part in parts]
    return torch.stack(products, -1).double().numpy()


def reference_scores(model, prompts, component):
    """Scores [2, L * H] or [2, L] by `reference_products`: by token and by example."""
    products = [reference_products(model, prompt, component) for prompt in prompts]
    layers = np.array([layer for layer, _ in importance.components(model, component)])
    positions = sum(len(prompt.tokens) for prompt in prompts)
    targets = sum(len(prompt.targets) for prompt in prompts)
    divisor = np.where(layers == model.num_layers - 1, targets, positions)
    by_token = sum(np.abs(product).sum(0) for product in products) / divisor
    return np.stack([by_token, np.mean([np.abs(product.sum(0)) for product in products], axis=0)])


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_gradient_scores_equal_autograd_one_prompt_at_a_time(model, component):
    prompts = random_prompts(4, seed=1)
    references = reference_scores(model, prompts, component)
    by_rounding = rounding.bound(
        model, partial(reference_scores, prompts=prompts, component=component)
    )
    assert references.min() > 10 * by_rounding
    both = zip(("token", "example"), references, strict=True)
    # The scores do not depend on the batch, nor on recomputation.
    for (reduction, expected), memory in itertools.product(both, (0.001, 1000)):
        scores = within(memory, importance.gradient, model, prompts, component, reduction)
        rows = scores.rows(model, component)
        assert [(row["layer"], row["head"]) for row in rows] == importance.components(
            model, component
        )
        found = [row["score"] for row in rows]
        np.testing.assert_allclose(found, expected, atol=by_rounding, rtol=0)


def test_gradient_score_is_the_derivative_by_a_gate(opt):
    """sum_t <z_t, d loss / d z_t> is d loss / d gate, by finite differences of a gate."""
    prompt = random_prompts(1, seed=5)[0]
    scores = importance.gradient(opt, [prompt], "heads", "example").contributions[0]
    by_rounding = rounding.bound(
        opt, partial(reference_scores, prompts=[prompt], component="heads")
    )
    # A difference of 2e-6 in float64: less than 1e-8 from rounding, far less from its curvature.
    opt = rounding.in_float64(opt)
    for index in (0, 5, 11):
        layer, head = importance.components(opt, "heads")[index]
        losses = []
        for gate in (1 - 1e-6, 1 + 1e-6):

            def scale(at, z, layer=layer, head=head, gate=gate):
                if at == layer:
                    z = z.clone()
                    z[:, :, head] *= gate
                return z

            with opt.hooked(attention_input=scale), torch.inference_mode():
                logits = opt.hf(input_ids=torch.tensor([prompt.tokens])).logits[0].log_softmax(-1)
            count = len(prompt.targets)
            losses.append(-logits[-count:][range(count), prompt.targets].mean().item())
        derivative = (losses[1] - losses[0]) / 2e-6
        assert scores[index] == pytest.approx(abs(derivative), abs=by_rounding)


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_oracle_is_the_metric_lost_when_the_weights_are_zeroed_by_hand(
    opt, yaml, prompts, component
):
    evaluation = Evaluation(prompts, "calibration", yaml)
    pairs = [(row["context"], row["continuation"]) for row in evaluation.requests]
    encoded = opt.encode(pairs)

    def accuracies(heads, ffns):
        scores = [naive(opt, prompt, heads, ffns)[0] for prompt in encoded]
        choices = np.array(scores).reshape(-1, 3)  # every document has three
        gold = [doc["answer"] for doc in evaluation.docs]
        return (choices.argmax(1) == gold).astype(float)

    scores = importance.oracle(opt, evaluation, component)
    rows = scores.rows(opt, component)
    whole = accuracies([], [])
    for row in rows[:: 4 if component == "heads" else 1]:
        layer, head = row["layer"], row["head"]
        without = accuracies(*(([], [layer]) if head is None else ([(layer, head)], [])))
        assert row["score"] == pytest.approx((whole - without).mean())
        assert row["n"] == len(evaluation.docs)
    assert any(row["score"] != 0 for row in rows)


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_loss_oracle_is_the_loss_gained_when_the_weights_are_zeroed_by_hand(opt, component):
    prompts = random_prompts(4, seed=2)

    def losses(heads, ffns):
        sums = [naive(opt, prompt, heads, ffns)[0] for prompt in prompts]
        return -np.array(sums) / [len(prompt.targets) for prompt in prompts]

    scores = importance.loss_oracle(opt, prompts, component)
    whole = losses([], [])
    for i, (layer, head) in enumerate(importance.components(opt, component)):
        without = losses(*(([], [layer]) if head is None else ([(layer, head)], [])))
        np.testing.assert_allclose(
            scores.contributions[:, i], without - whole, atol=2 * tolerance(opt), rtol=0
        )
    assert (scores.weights == 1).all()
    assert len({len(prompt.targets) for prompt in prompts}) > 1  # normalised by the length


@pytest.mark.parametrize("estimator", importance.ESTIMATORS)
def test_every_estimator_scores_the_gold_prompts_of_the_same_documents(
    opt, yaml, prompts, estimator
):
    evaluation = Evaluation(prompts, "calibration", yaml)
    gold = [row for row in evaluation.requests if row["gold"]]
    encoded = opt.encode([(row["context"], row["continuation"]) for row in gold])
    expected = {
        "gradient-token": lambda: importance.gradient(opt, encoded, "heads", "token"),
        "gradient-example": lambda: importance.gradient(opt, encoded, "heads", "example"),
        "oracle-task": lambda: importance.oracle(opt, evaluation, "heads"),
        "oracle-loss": lambda: importance.loss_oracle(opt, encoded, "heads"),
    }[estimator]()
    found = importance.estimate(estimator, opt, evaluation, "heads")
    assert len(found.contributions) == len(evaluation.doc_ids)
    np.testing.assert_allclose(found.contributions, expected.contributions)
    np.testing.assert_allclose(found.weights, expected.weights)


def test_an_estimator_that_does_not_exist_is_named(opt, yaml, prompts):
    evaluation = Evaluation(prompts, "calibration", yaml)
    with pytest.raises(ValueError, match="'oracle-accuracy' is not one of gradient-token"):
        importance.estimate("oracle-accuracy", opt, evaluation, "heads")


def test_right_answers_of_one_document_are_one_document():
    contributions = np.arange(8.0).reshape(4, 2)
    prompts = importance.Importance(contributions, 2 * np.ones((4, 2)))
    found = prompts.by_document(np.array([0, 2, 2, 3]), count=4)  # document 1 has no right answer
    assert found.contributions.tolist() == [[0, 1], [0, 0], [2 + 4, 3 + 5], [6, 7]]
    assert found.weights.tolist() == [[2, 2], [0, 0], [4, 4], [2, 2]]


def test_standard_error_of_a_ratio_is_that_of_a_bootstrap_over_documents():
    generator = np.random.default_rng(0)
    weights = generator.integers(5, 40, size=(200, 3)).astype(float)
    contributions = weights * (1 + generator.normal(size=(200, 3)))
    model = type("Model", (), {"heads": [3], "ffns": [0]})
    errors = [
        row["standard_error"]
        for row in importance.Importance(contributions, weights).rows(model, "heads")
    ]
    drawn = generator.integers(200, size=(4000, 200))
    replicates = contributions[drawn].sum(1) / weights[drawn].sum(1)  # [4000, 3]
    np.testing.assert_allclose(errors, replicates.std(0), rtol=0.06)


def test_standard_error_of_the_oracle_is_that_of_a_mean():
    contributions = np.random.default_rng(0).normal(size=(20, 1))
    scores = importance.Importance(contributions, np.ones((20, 1)))
    model = type("Model", (), {"heads": [1], "ffns": [0]})
    (row,) = scores.rows(model, "ffns")
    assert row["standard_error"] == pytest.approx(contributions.std(ddof=1) / 20**0.5)


def test_scores_that_are_not_finite_name_model_and_layer(opt):
    weight = opt.parts[1].attention_output.weight
    saved = weight.clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=r"layer \d, head"):
            importance.gradient(opt, random_prompts(2), "heads", "token")
    finally:
        weight.copy_(saved)
