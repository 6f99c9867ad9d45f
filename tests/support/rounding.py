"""How far apart two computations of the same number may be, whatever the processor.

A sum of n products is off by at most gamma_n = n u / (1 - n u) times the sum of their absolute
values, in whatever order it is added, by whatever instructions and threads; u is half the machine
epsilon (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). That is all
that a processor decides: `gamma` is the tolerance of sums of one sign, relative to their size.

A model is a chain of such sums, and how much of an early error arrives at its end is a property of
the model: the norms and scores of a Llama pass on several times what those of an OPT do. Seen from
behind (backward error, section 3.5), a product W x as computed is the exact product of weights each
of which is off by gamma_n at most. So a result is about as far off as it moves when every weight is
changed by so much, which `bound` computes in float64, where rounding is too small to matter. It is
machine epsilon x length of the sums x size of the result, times the condition of the model, which
is not guessed.

Products of activations and elementary functions round too, by no more than the products with
weights, and signs drawn at random do not find the worst case; but errors of n roundings mostly
cancel to the square root of n, which is more than these cost. `test_rounding` holds both sides
against every family: float32 stays well within the bound, one removed head or one hidden token is
far outside.
"""

import copy
from collections.abc import Callable

import torch

from headcount.models.language_model import LanguageModel

UNIT = torch.finfo(torch.float32).eps / 2  # u of float32
DRAWS = 3  # of signs


def gamma(terms: int) -> float:
    """Largest relative error of a float32 sum of so many products of one sign, in any order."""
    return terms * UNIT / (1 - terms * UNIT)


def bound(model: LanguageModel, compute: Callable) -> float:
    """How far apart two results of `compute(model)` in float32 may be, where they are farthest.

    `compute` takes a model and returns numbers: a tensor, an array or nested lists. Its longest sum
    is over channels, positions or the vocabulary.
    """
    hf = model.hf
    longest = max(hf.config.max_position_embeddings, *(max(p.shape) for p in hf.parameters()))
    exact = in_float64(model)
    weights = {weight: weight.clone() for weight in exact.hf.parameters()}
    result = torch.as_tensor(compute(exact))
    generator = torch.Generator().manual_seed(0)
    farthest = 0.0
    for _ in range(DRAWS):
        for weight, value in weights.items():
            signs = torch.randint(2, weight.shape, generator=generator) * 2 - 1
            weight.copy_(value * (1 + gamma(longest) * signs))
        distance = (torch.as_tensor(compute(exact)) - result).abs().max().item()
        farthest = max(farthest, distance)
    assert farthest < float("inf")
    return 2 * farthest  # both are off, in opposite directions at worst


def in_float64(model: LanguageModel) -> LanguageModel:
    """A copy of the model; some families compute their norms in float32 whatever the dtype."""
    return LanguageModel(copy.deepcopy(model.hf).double(), model.tokenizer, model.memory)
