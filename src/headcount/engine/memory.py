"""How much a sweep computes at a time, calculated from the memory that it may use.

`LanguageModel.memory` bounds a sweep's memory beside the weights: half of it is for hidden states
between layers, a quarter for activations inside a layer, a quarter for logits.
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
BEST_ROWS = 2048  # tokens beyond which a layer's matrix products gain nothing


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep of one model."""

    rows: int  # tokens inside a layer at a time, over all states
    graph_rows: int  # tokens whose activations in all layers fit for a backward pass
    states: int  # bytes of hidden states between layers
    logits: int  # tokens that are unembedded at a time
    row: int  # bytes of a token's hidden state

    @classmethod
    def of(cls, model: LanguageModel) -> "Budget":
        """Return the limits for the model's memory; at least one token."""
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
    """Return the channels of an FFN, over all experts that serve a token."""
    if part.ffn_output is None:
        return 0
    of_one = max(p.numel() // (len(p) if p.dim() == 3 else 1) for p in part.ffn_output.parameters())
    experts = getattr(config, "num_experts_per_tok", 1) if holds_experts(part.ffn_output) else 1
    return experts * of_one // part.d_model


# --- when memory runs out nevertheless ---


def retry_with_less(model: LanguageModel, function: Callable[[], T]) -> T:
    """Return the result of `function`, called again with half the `memory` if memory runs out.

    Raises `MemoryError` with the numbers and the remedy when it runs out again.
    """
    given = model.memory
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not _ran_out(error):
            raise
        reason = _reason(error)
    gc.collect()  # the memory of the failed attempt
    torch.cuda.empty_cache()
    logger.warning(
        "model %s: out of memory with memory: %g; trying again with half of it (%s)",
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
    """Whether memory ran out, on a GPU or on the CPU, in torch or in Python."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _reason(error: Exception) -> str:
    """Return the line of torch's message that says how much was asked for."""
    text = str(error) or type(error).__name__
    return text[max(0, text.find("you tried to allocate")) :].splitlines()[0]
