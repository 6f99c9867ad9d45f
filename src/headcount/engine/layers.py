"""Idea 3, layer-major order: all prompts and masks go through a layer before the next begins.

transformers' own code runs: the model is called once with decoder layers that only note what they
are called with (`enter`), then each layer is called by itself (`run`), and at the end the model
once more with layers that pass on the finished hidden states (`leave`).
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

MOST_RETURNED = 4  # values that a layer returns


@dataclass
class Arguments:
    """What a decoder layer is called with beside the hidden states and what layers share."""

    args: tuple
    kwargs: dict[str, Any]


class _HandedOn:
    """Stands for what a layer returns beside the hidden states; no other layer may read it."""


class _Misread(Exception):  # noqa: N818 - a finding, not a fault
    """The model takes something else for a layer's output than the hidden states."""


def enter(
    model: LanguageModel, tokens: Tensor, positions: Tensor | None = None
) -> tuple[State, list[Arguments]]:
    """Embed tokens [R, T]: the state before the first layer, and the arguments of every layer.

    Positions are the model's own, 0, 1, ..., unless given.

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
    """`function` of how many values the model takes from a layer, 0 for no tuple; once found out.

    A model that takes an element of what is not a tuple goes on with other hidden states, or fails.
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
    """The state after a layer, as it is called in the model."""
    kwargs = dict(arguments.kwargs)
    for name, content in state.carried.items():
        if name in kwargs:
            kwargs[name] = type(kwargs[name])(content)
    out = model.layers[layer](state.hidden, *arguments.args, **kwargs)
    hidden = out[0] if isinstance(out, tuple | list) else out
    carried = {name: dict(kwargs.get(name, old)) for name, old in state.carried.items()}
    return State(hidden, carried)


def leave(model: LanguageModel, hidden: Tensor, tokens: Tensor, **inputs: Any) -> Tensor:
    """Logits [R, T, vocabulary] from hidden states after the last layer, of tokens [R, T]."""
    form = model.values_of_layer
    finished = (hidden, *(None,) * (form - 1)) if form else hidden
    with replaced(dict.fromkeys(model.layers, lambda *_, **__: finished)):
        return model.hf(input_ids=tokens.to(model.device), use_cache=False, **inputs).logits


# --- weights that accelerate keeps on disk or in another memory ---


@contextmanager
def resident(*modules: nn.Module) -> Iterator[None]:
    """Inside, offloaded weights of `modules` are loaded: once, however often the modules run."""
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
    """Whether accelerate loads weights of the model when they are needed."""
    return any(_offload_hook(module) is not None for module in model.hf.modules())


def outside(model: LanguageModel) -> list[nn.Module]:
    """The modules before and after the decoder layers."""
    inside = {module for layer in model.layers for module in layer.modules()}
    return [module for module in model.hf.modules() if module not in inside]


def _offload_hook(module: nn.Module) -> Any:
    """The accelerate hook that loads the module's weights before it runs and drops them after."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])
    return next((h for h in hooks if getattr(h, "offload", False)), None)
