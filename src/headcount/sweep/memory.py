"""How much a sweep does at a time, calculated from the memory that it may use.

`LanguageModel.memory` bounds what a sweep holds beside the weights: half of it hidden states
between layers, a quarter the activations inside a layer, a quarter logits.
"""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from headcount.families import Parts, holds_experts
from headcount.model import LanguageModel

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


def _width(part: Parts, config: PreTrainedConfig) -> int:
    """Channels of an FFN, of all the experts that a token goes to."""
    if part.ffn_output is None:
        return 0
    of_one = max(p.numel() // (len(p) if p.dim() == 3 else 1) for p in part.ffn_output.parameters())
    experts = getattr(config, "num_experts_per_tok", 1) if holds_experts(part.ffn_output) else 1
    return experts * of_one // part.d_model
