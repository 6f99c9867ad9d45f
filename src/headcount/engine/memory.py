"""How much a sweep does at a time, calculated from the memory that it may use.

`LanguageModel.memory` bounds what a sweep holds beside the weights: half of it hidden states
between layers, a quarter the activations inside a layer, a quarter logits.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedConfig

from headcount.models.families import LayerParts, holds_experts
from headcount.models.language_model import LanguageModel

logger = logging.getLogger(__name__)

T = TypeVar("T")
BEST_ROWS = 2048  # token rows beyond which a layer's matrix products gain nothing


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep of one model."""

    rows: int  # tokens that are inside a layer at a time, all states counted
    graph_rows: int  # tokens whose activations in all layers can be kept for a backward pass
    states: int  # bytes of hidden states between layers
    logits: int  # tokens that are unembedded at a time
    row: int  # bytes of a token's hidden state

    @classmethod
    def of(cls, model: LanguageModel) -> "Budget":
        """The limits that the model's memory allows. Never less than one token."""
        config = model.hf.config.get_text_config()
        size = model.hf.dtype.itemsize
        memory = int(model.memory * 2**20)
        attention = max(part.heads * part.head_dim for part in model.parts)
        ffn_width = max(_width(part, config) for part in model.parts)
        # Residual stream, norms, attention output; q, k, v, z; gate, up, their product.
        inside = size * (6 * model.d_model + 6 * attention + 4 * ffn_width)
        logits = config.vocab_size * (size + 2 * 4)  # as computed, their logarithms in float32
        return cls(
            rows=max(1, min(BEST_ROWS, memory // 4 // inside)),
            graph_rows=min(BEST_ROWS, memory // 2 // (inside * model.num_layers)),
            states=memory // 2,
            logits=max(1, min(BEST_ROWS, memory // 4 // logits)),
            row=size * model.d_model,
        )


def _width(part: LayerParts, config: PreTrainedConfig) -> int:
    """Channels of an FFN, of all the experts that a token goes to."""
    if part.ffn_output is None:
        return 0
    of_one = max(p.numel() // (len(p) if p.dim() == 3 else 1) for p in part.ffn_output.parameters())
    experts = getattr(config, "num_experts_per_tok", 1) if holds_experts(part.ffn_output) else 1
    return experts * of_one // part.d_model


# --- when it was too much nevertheless ---


def retry_with_less(model: LanguageModel, function: Callable[[], T]) -> T:
    """What `function` returns, which is called once more with half the `memory` if it runs out.

    Raises `MemoryError` with the numbers, and what to do, when that is too much as well.
    """
    given = model.memory
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not _ran_out(error):
            raise
        reason = _reason(error)
    gc.collect()  # what the failed attempt held
    torch.cuda.empty_cache()
    logger.warning(
        "model %s: out of memory beside memory: %g; tried once more with half of it (%s)",
        model.hf.name_or_path,
        given,
        reason,
    )
    model.memory = given / 2
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not _ran_out(error):
            raise
        weights = sum(parameter.nbytes for parameter in model.hf.parameters()) / 2**20
        raise MemoryError(
            f"model {model.hf.name_or_path}: out of memory with memory: {given:g} and with half of "
            f"it, beside {weights:,.0f} MB of weights on {model.device} ({_reason(error)}). Set "
            f"`memory` below {given / 2:g} (MB, config key `models`), give the job more memory "
            "(`mem_mb`), or keep weights out of it (`device_map: auto` or `disk`)"
        ) from error


def _ran_out(error: Exception) -> bool:
    """Whether memory ran out: of a GPU, or torch's or Python's on the CPU."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _reason(error: Exception) -> str:
    """What torch says of it in a line: how much was asked for."""
    text = str(error) or type(error).__name__
    return text[max(0, text.find("you tried to allocate")) :].splitlines()[0]
