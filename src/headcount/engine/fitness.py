"""Refusal of models that neither backend can compute, before anything else is done.

A layer of each kind runs on two short prompts that begin alike, which costs next to nothing.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from headcount.engine._packed import window_of
from headcount.engine.layers import enter, leave, outside, resident, run
from headcount.engine.states import State
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel

COMMON, LENGTH = 5, 9  # tokens that the prompts have in common, and in all
ROUNDING = 64  # times the precision of the dtype: how far two orders of summation may differ


def refuse_unfit(model: LanguageModel) -> None:
    """Raise `ModelError`, naming the layer, for a model whose numbers would all be wrong.

    - It is not causal: the result at a token depends on later ones. Padding and the other prompts
      of a block would be visible.
    - A module whose input or output stands for heads, an FFN or the unembedding is not called
      exactly once in a forward pass: its weights are used in another way, so that removing the
      module's output removes something else.

    A model that has passed is not checked again.
    """
    if model.is_fit:
        return
    with torch.no_grad():
        after = _through_layers(model)
        head = model.hf.get_output_embeddings()
        with resident(*outside(model)), _called(model, {"the unembedding": head}):
            leave(model, after.hidden, _tokens(model, 1))
    model.is_fit = True


def _through_layers(model: LanguageModel) -> State:
    """Check a layer of each kind; return the first prompt's state after the last of them."""
    with resident(*outside(model)):
        (state, calls), (other, calls_of_other) = (enter(model, _tokens(model, i)) for i in (1, 7))
    _refuse_later(model, state, other, "the embedding")
    for layer in kinds(model, all_layers=bool(state.carried)):
        part = model.parts[layer]
        modules = (part.attention_output, part.ffn_writes, *part.ffn_beside)
        named = {
            f"{name} of layer {layer}": module
            for name, module in part.layer.named_modules()
            if module in modules
        }
        with resident(*part.layer.modules()):
            with _called(model, named):
                after = run(model, layer, state, calls[layer])
            after_other = run(model, layer, other, calls_of_other[layer])
        _refuse_later(model, after, after_other, f"layer {layer}")
        if state.carried:  # later layers read what earlier ones wrote
            state, other = after, after_other
    return after


def _tokens(model: LanguageModel, step: int) -> Tensor:
    """Return a prompt [1, T] whose later tokens depend on `step`."""
    size = model.hf.config.get_text_config().vocab_size
    tokens = [2 + 3 * i + step * max(0, i + 1 - COMMON) for i in range(LENGTH)]
    return torch.tensor([[token % size for token in tokens]])


def _refuse_later(model: LanguageModel, one: State, other: State, where: str) -> None:
    """Raise `ModelError` when two prompts differ in the states of their common tokens."""
    axis = one.hidden.shape.index(LENGTH)  # mostly [1, T, d]; some models have several streams
    first, second = (state.hidden.float().narrow(axis, 0, COMMON) for state in (one, other))
    tolerance = ROUNDING * torch.finfo(one.hidden.dtype).eps
    if (first - second).norm() > tolerance * first.norm():
        raise ModelError(
            f"{_name(model)} is not causal: the result of {where} at a token changes with later "
            "tokens. headcount takes models that predict each token from those before it"
        )


@contextmanager
def _called(model: LanguageModel, named: dict[str, nn.Module]) -> Iterator[None]:
    """Raise `ModelError` on leaving unless each of the modules was called once."""
    times: Counter[str] = Counter()
    with ExitStack() as hooks:
        for name, module in named.items():
            handle = module.register_forward_pre_hook(lambda *_, name=name: times.update([name]))
            hooks.callback(handle.remove)
        yield
    for name in named:
        if times[name] != 1:
            raise ModelError(
                f"{_name(model)}: {name} is called {times[name]} times in a forward pass, not "
                "once, so that headcount cannot say what it writes: not supported (if the "
                "configuration has the weights used in slices, as `pretraining_tp` does, unset it)"
            )


def _name(model: LanguageModel) -> str:
    return f"{type(model.hf).__name__} ({model.hf.config.model_type})"


def kinds(model: LanguageModel, all_layers: bool) -> list[int]:
    """Return the first layer of each kind, or all layers."""
    if all_layers:
        return list(range(model.num_layers))
    found: dict[tuple, int] = {}
    for layer, part in enumerate(model.parts):
        modules = tuple(type(module).__name__ for module in part.layer.modules())
        sizes = part.heads, part.kv_heads, part.head_dim
        found.setdefault((modules, sizes, window_of(model, layer)), layer)
    return list(found.values())
