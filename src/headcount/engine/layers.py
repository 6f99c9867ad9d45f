"""Idea 3, layer-major order: all prompts and masks pass a layer before the next begins.

transformers' own code runs. The model is called once with decoder layers that only record their
arguments (`enter`), then each layer is called by itself (`run`), and finally the model is called
with layers that pass on the finished hidden states (`leave`).
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headcount.engine.states import State
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel, replaced

MOST_RETURNED = 4  # values of a layer's result, at most


@dataclass
class Arguments:
    """Arguments of a decoder layer, without hidden states and dictionaries that layers share."""

    args: tuple
    kwargs: dict[str, Any]


class _HandedOn:
    """Stand-in for the values that a layer returns beside hidden states; no layer may read it."""


class _Misread(Exception):  # noqa: N818 - a finding, not a fault
    """The model takes something other than the hidden states for a layer's output."""


def enter(
    model: LanguageModel, tokens: Tensor, positions: Tensor | None = None
) -> tuple[State, list[Arguments]]:
    """Return the state of tokens [R, T] before the first layer, and the arguments of every layer.

    Positions are 0, 1, ..., as the model counts them, unless given.

    Raises `ModelError` when the layers pass on more than hidden states and shared dictionaries.
    """
    inputs = {"input_ids": tokens.to(model.device), "use_cache": False}
    if positions is not None:
        inputs["position_ids"] = positions.to(model.device)
    return _as_returned(model, lambda form: _noted(model, inputs, form))


def _noted(model: LanguageModel, inputs: dict, form: int) -> tuple[State, list[Arguments]]:
    calls: list[Arguments] = []
    seen: list[Tensor] = []
    carried: dict[str, dict] = {}
    others = tuple(_HandedOn() for _ in range(form - 1))

    def note(*args: Any, **kwargs: Any) -> Tensor | tuple:
        hidden = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        args = args[1:] if args and args[0] is hidden else args
        if seen and hidden is not seen[0]:
            raise _Misread
        if any(isinstance(value, _HandedOn) for value in (*args, *kwargs.values())):
            raise _Misread
        seen.append(hidden)
        for name, value in kwargs.items():
            if isinstance(value, MutableMapping) and not value:
                carried[name] = {}
        calls.append(Arguments(args, kwargs))
        return (hidden, *others) if form else hidden

    with replaced(dict.fromkeys(model.layers, note)):
        out = model.hf.base_model(**inputs)[0]
    if len(calls) != model.num_layers or out.shape[:2] != inputs["input_ids"].shape:
        raise _Misread
    return State(seen[0], carried), calls


def _as_returned(model: LanguageModel, function: Callable[[int], Any]) -> Any:
    """Return `function` of the number of values that a layer returns, 0 for no tuple.

    The number is found by trying, and remembered: with a wrong one, the model continues with other
    hidden states, or fails.
    """
    found = getattr(model, "values_of_layer", None)
    if found is not None:
        return function(found)
    for form in range(MOST_RETURNED + 1):
        try:
            result = function(form)
        except (_Misread, TypeError, ValueError, AttributeError, IndexError):
            continue
        model.values_of_layer = form
        return result
    raise ModelError(
        f"{type(model.hf).__name__} ({model.hf.config.model_type}): its layers pass on more than "
        "hidden states, or not each to the next: not supported"
    )


def run(model: LanguageModel, layer: int, state: State, arguments: Arguments) -> State:
    """Return the state after a layer, called as the model calls it."""
    kwargs = dict(arguments.kwargs)
    for name, content in state.carried.items():
        if name in kwargs:
            kwargs[name] = type(kwargs[name])(content)
    out = model.layers[layer](state.hidden, *arguments.args, **kwargs)
    hidden = out[0] if isinstance(out, tuple | list) else out
    carried = {name: dict(kwargs.get(name, old)) for name, old in state.carried.items()}
    return State(hidden, carried)


def leave(model: LanguageModel, hidden: Tensor, tokens: Tensor, **inputs: Any) -> Tensor:
    """Return logits [R, T, vocabulary] from hidden states of tokens [R, T] after the last layer."""
    form = model.values_of_layer
    finished = (hidden, *(None,) * (form - 1)) if form else hidden
    with replaced(dict.fromkeys(model.layers, lambda *_, **__: finished)):
        return model.hf(input_ids=tokens.to(model.device), use_cache=False, **inputs).logits


# --- weights that accelerate keeps on disk or in other memory ---


@contextmanager
def resident(*modules: nn.Module) -> Iterator[None]:
    """Keep offloaded weights of `modules` loaded, so that they are read once however often used."""
    with ExitStack() as stack:
        for module in modules:
            hook = _offload_hook(module)
            if hook is None:
                continue
            hook.pre_forward(module)
            stack.callback(hook.post_forward, module, torch.empty(0))
            stack.enter_context(replaced({module: module._old_forward}))
        yield


def is_offloaded(model: LanguageModel) -> bool:
    """Whether accelerate loads weights of the model on demand."""
    return any(_offload_hook(module) is not None for module in model.hf.modules())


def outside(model: LanguageModel) -> list[nn.Module]:
    """Return the modules outside the decoder layers."""
    inside = {module for layer in model.layers for module in layer.modules()}
    return [module for module in model.hf.modules() if module not in inside]


def _offload_hook(module: nn.Module) -> Any:
    """Return the accelerate hook that loads a module's weights for each run, if there is one."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])
    return next((h for h in hooks if getattr(h, "offload", False)), None)
