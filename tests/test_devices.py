"""Every function that touches tensors, on make-believe devices: the numbers are those of the CPU.

Nothing here has run on a GPU; see `devices` for what that finds and what it does not.
"""

import pytest
import torch
from devices import Devices, split
from test_sweep import random_prompts

from headcount import export, importance, induction, verify
from headcount.sweep import Masks, ablation, log_likelihoods
from headcount.sweep.removal import without

PROMPTS = random_prompts(4, seed=1)
ALL_HEADS = [(1, head) for head in range(4)]
REMOVALS = [([], []), ([(0, 0), (1, 1)], []), (ALL_HEADS, [2]), ([(2, 3)], [0, 1])]


def swept(model, kind="zero"):
    stand_ins = ablation.fit(model, PROMPTS, kind, seed=0)
    return log_likelihoods(model, PROMPTS, Masks.removing(model, REMOVALS, stand_ins))[0]


def gradient(component, reduction):
    def scores(model):
        return importance.gradient(model, PROMPTS, component, reduction).contributions

    return scores


def zeroed(model):
    export.zero(model, (((0, 1), (2, 0)), (1,)))
    return swept(model)


def pruned_logits(model):
    heads = [torch.tensor([True, False, True, True])] * 3
    with torch.no_grad(), without(model, heads, torch.tensor([True, False, True])):
        tokens = torch.tensor([PROMPTS[0].tokens], device=model.device)
        return model.hf(input_ids=tokens).logits.cpu()


FUNCTIONS = {
    "log-likelihoods": swept,
    "ablation: mean": lambda model: swept(model, "mean"),
    "ablation: resample": lambda model: swept(model, "resample"),
    "prefix matching": lambda model: induction.prefix_matching(model, 2, 0)["score"],
    "copying": lambda model: induction.copying(model, 2, 0)["score"],
    "copying: embedding": lambda m: induction.copying(m, 2, 0, variant="embedding")["score"],
    "without": pruned_logits,
    "export: zero": zeroed,
}
BACKWARD = {
    "gradient: heads, token": gradient("heads", "token"),
    "gradient: heads, example": gradient("heads", "example"),
    "gradient: FFNs, token": gradient("ffns", "token"),
    "gradient: FFNs, example": gradient("ffns", "example"),
    "verify": lambda model: verify.verify(model)["passed"],
}
ONE, TWO = ["gpu:0"], ["gpu:0", "gpu:1"]
# autograd knows a single make-believe device: the CPU is the other one
PLACES = [(name, place) for name in FUNCTIONS for place in (ONE, TWO)]
PLACES += [(name, place) for name in BACKWARD for place in (ONE, ["gpu:0", "cpu"])]


@pytest.fixture(scope="module", params=[("opt", "packed"), ("gemma2", "packed"), ("llama", "own")])
def expected(request, all_models):
    """A model, the way through its layers, and what the functions give on the CPU."""
    family, way = request.param
    return all_models[family], way, {}


@pytest.mark.parametrize("name,place", PLACES, ids=str)
def test_equals_the_cpu(expected, name, place):
    model, way, known = expected
    function = {**FUNCTIONS, **BACKWARD}[name]
    with Devices():
        placed = split(model, place)
        placed.way = way
        devices = {str(parameter.device) for parameter in placed.hf.parameters()}
        assert devices == set(place)
        result = torch.as_tensor(function(placed))
    alone = split(model, ["cpu"])
    alone.way = way
    on_cpu = torch.as_tensor(function(alone))
    torch.testing.assert_close(result.double(), on_cpu.double(), atol=1e-4, rtol=1e-4)
