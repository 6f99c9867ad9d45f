"""Every function that touches tensors, on make-believe devices: the numbers are those of the CPU.

Nothing here has run on a GPU; see `devices` for what that finds and what it does not.
"""

import copy

import pytest
import tiny
import torch
from devices import Devices, MixedDevicesError, split
from plain import random_prompts
from transformers import AutoModelForCausalLM

from headcount.engine import Masks, ablation, log_likelihoods
from headcount.engine.fitness import refuse_unfit
from headcount.engine.removal import without
from headcount.interop import export
from headcount.models.language_model import LanguageModel
from headcount.scores import importance, induction
from headcount.verification import verdict

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
    "verify": lambda model: verdict.verify(model)["passed"],
}
CASES = [(name, places) for name in FUNCTIONS for places in (["gpu:0"], ["gpu:0", "gpu:1"])]
# autograd knows a single make-believe device: the CPU is the other one
CASES += [(name, places) for name in BACKWARD for places in (["gpu:0"], ["gpu:0", "cpu"])]
# Biases and positions of its own; soft caps, windows and norms; the model's own attention.
MODELS = [
    ("opt", "packed"),
    pytest.param("gemma2", "packed", marks=pytest.mark.slow),
    pytest.param("llama", "own", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "name,places", CASES, ids=lambda value: "+".join(value) if isinstance(value, list) else value
)
@pytest.mark.parametrize("family,way", MODELS)
def test_equals_the_cpu(all_models, family, way, name, places):
    function = {**FUNCTIONS, **BACKWARD}[name]
    alone = split(all_models[family], ["cpu"])
    alone.backend = way
    expected = torch.as_tensor(function(alone))
    with Devices():
        placed = split(all_models[family], places)
        placed.backend = way
        assert {str(parameter.device) for parameter in placed.hf.parameters()} == set(places)
        found = torch.as_tensor(function(placed))
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-4, rtol=1e-4)


# --- how often the host waits ---


def deep(family, layers):
    """A tiny model of a family with so many layers."""
    config = copy.deepcopy(tiny.CONFIGS[family])
    config.num_hidden_layers = layers
    return LanguageModel(AutoModelForCausalLM.from_config(config), tiny.tokenizer())


def waits(model, way, function):
    with Devices() as devices:
        placed = split(model, ["gpu:0"])
        placed.backend = way
        refuse_unfit(placed)  # as the way found out once, which waits
        devices.waits.clear()
        function(placed)
        return devices.waits.total()


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("layers,masks", [(3, 1), (6, 1), (3, 7)])
def test_a_wave_waits_once_whatever_its_layers_and_masks(family, layers, masks):
    removals = [([(i % 3, i % 4)], [i % 2]) for i in range(masks)]

    def sweep(model):
        log_likelihoods(model, PROMPTS, Masks.removing(model, removals))

    assert waits(deep(family, layers), "packed", sweep) == 1


@pytest.mark.parametrize("layers", [3, 6])
def test_the_models_own_attention_waits_no_more_in_more_layers(layers):
    def sweep(model):
        log_likelihoods(model, PROMPTS, Masks.removing(model, REMOVALS))

    # Beside the one: transformers looks at the positions whenever it makes a mask, which is once
    # before the layers and once a state behind them.
    assert waits(deep("llama", layers), "own", sweep) == 1 + 1 + len(REMOVALS)


@pytest.mark.parametrize("layers", [3, 6])
@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_gradients_wait_once(layers, component):
    assert waits(deep("llama", layers), "packed", gradient(component, "token")) == 1


# --- the make-believe itself ---


def test_devices_do_not_mix():
    with Devices() as devices:
        on_first = torch.ones(3, device="gpu:0")
        assert str((2 * on_first + torch.tensor(1)).device) == "gpu:0"  # numbers go anywhere
        for other in (torch.ones(3), torch.ones(3, device="gpu:1")):
            with pytest.raises(MixedDevicesError, match="mixes"):
                on_first + other
        with pytest.raises(MixedDevicesError):
            torch.ones(3)[on_first.long()]
        assert on_first[torch.tensor([0])].device == on_first.device
        assert not devices.waits
        assert on_first.sum().item() == 3 and on_first.to("gpu:1").cpu().tolist() == [1, 1, 1]
        assert devices.waits.total() == 2
