"""The choice between the packed and the padded backend for a model: right before fast.

A model is packed if it shows no obstacle. A layer of each kind must call transformers' attention
interface once, with no argument that `attend` does not know, and must compute the same hidden
states as the model's own attention, on a few tokens and with the model's own weights, with all
heads and without the first one.
"""

import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn

from headcount.engine import _rows, trie
from headcount.engine._packed import Packed
from headcount.engine.attention import NotPacked, packed
from headcount.engine.fitness import ROUNDING, kinds, refuse_unfit
from headcount.engine.layers import outside, resident
from headcount.engine.padded import Padded, depends_on_length
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, Prompt

logger = logging.getLogger(__name__)

BACKENDS = {"packed": Packed, "own": Padded}
ATTENTION = ("full_attention", "sliding_attention")  # `layer_types` that a packed layer can be


def choose_backend(model: LanguageModel, longest: int) -> type[Packed] | type[Padded]:
    """Return the backend for prompts of at most `longest` tokens; remember it in `model.backend`.

    Raises `ModelError` for a model that neither backend can compute: see `fitness`.
    """
    refuse_unfit(model)
    if model.backend is None:
        obstacle = _obstacle(model)
        model.backend = "own" if obstacle else "packed"
        if obstacle:
            name = f"{type(model.hf).__name__} ({model.hf.config.model_type})"
            logger.warning("%s: prompts are not packed, which is slower: %s", name, obstacle)
    if depends_on_length(model) and longest > _first_length(model):
        return Padded
    return BACKENDS[model.backend]


def _first_length(model: LanguageModel) -> int:
    """Return the length up to which rotary tables that depend on length do not change."""
    config = model.hf.config.get_text_config()
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings")
    return original or getattr(config, "original_max_position_embeddings", 0)


def _obstacle(model: LanguageModel) -> str | None:
    """Return why the model cannot be packed, or None."""
    if not model.hf._can_set_attn_implementation():
        return "its attention does not go through transformers' interface"
    if "position_ids" not in inspect.signature(model.hf.base_model.forward).parameters:
        return "it takes no position_ids"
    if not all(model.heads):
        return "a layer has no attention"
    kinds = getattr(model.hf.config.get_text_config(), "layer_types", None) or ()
    if other := set(kinds) - set(ATTENTION):
        return f"it has layers of {', '.join(sorted(other))}"
    if any(isinstance(module, nn.Conv1d) for module in model.layers.modules()):
        return "a layer mixes tokens by a convolution"
    try:
        with torch.no_grad():
            _compare(model)
    except NotPacked as obstacle:
        return str(obstacle)
    return None


# --- a packed layer beside the model's own ---


def _compare(model: LanguageModel) -> None:
    """Raise `NotPacked` unless a layer of each kind does the same with packed prompts."""
    prompts = _prompts(model)
    (block,) = trie.blocks(prompts, 1000)
    (in_rows,) = _rows.blocks(prompts, 1000)
    places = _places(block), _places(in_rows)  # [tokens] of the same tokens in each
    with resident(*outside(model)):
        own_state, own = Padded.begin(model, in_rows)
        with packed(model):
            state, passage = Packed.begin(model, block)
    if state.hidden.dim() != 3:
        raise NotPacked(f"its layers pass on hidden states of {state.hidden.dim()} axes")
    _equal(_at(own_state, places[1]), _at(state, places[0]), "the embeddings of packed tokens")
    for layer in kinds(model, bool(state.carried)):
        but_first = torch.arange(model.heads[layer]) > 0
        with resident(*model.layers[layer].modules()):
            own_after = own.whole(layer, own_state)
            (own_fewer,) = own.through(layer, [own_state], but_first, ffn=True)
            with packed(model):
                after = passage.whole(layer, state)
                (fewer,) = passage.through(layer, [state], but_first, ffn=True)
        _equal(_at(own_after, places[1]), _at(after, places[0]), f"packed tokens in layer {layer}")
        what = f"packed tokens in layer {layer} without its first head"
        _equal(_at(own_fewer, places[1]), _at(fewer, places[0]), what)
        if state.carried:  # later layers read what earlier ones wrote
            own_state, state = own_after, after


def _prompts(model: LanguageModel) -> list[Prompt]:
    """Return two prompts that begin alike and one that does not; every token is scored."""
    size = model.hf.config.get_text_config().vocab_size
    prompts = []
    for first, second in ((3, 5), (3, 7), (11, 13)):
        tokens = [(first * i + second * max(0, i - 5)) % size for i in range(2, 2 + 6 + second % 4)]
        prompts.append(Prompt(tokens, tokens, truncated=False))
    return prompts


def _places(block: Any) -> Tensor:
    """Return the index in the block of each token of each prompt, in the prompts' order."""
    return block.scored[block.rows[block.prompts.argsort(stable=True)]]


def _at(state: State, places: Tensor) -> Tensor:
    return state.hidden.flatten(0, 1)[places.to(state.hidden.device)]


def _equal(own: Tensor, packed: Tensor, what: str) -> None:
    tolerance = ROUNDING * torch.finfo(own.dtype).eps
    difference = (own.float() - packed.float()).norm()
    if not difference <= tolerance * own.float().norm():
        raise NotPacked(f"{what} differ from the model's own")
