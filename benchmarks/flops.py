"""Floating-point operations that a piece of work needs: a multiplication and an addition are two.

Matrix products and attention are counted, the latter only where a query sees a key; norms,
activation functions and softmax are not.
"""

from torch import Tensor

from headcount.engine import Masks
from headcount.engine.attention import Sight
from headcount.engine.memory import Budget
from headcount.engine.sharing import tree
from headcount.engine.trie import blocks
from headcount.models.families import LayerParts
from headcount.models.language_model import LanguageModel, Prompt


def sweep(model: LanguageModel, prompts: list[Prompt], masks: Masks) -> float:
    """Of headcount: the trie's tokens through the passes that no other mask shares.

    Removed components are not counted; in the last layer all tokens have keys and values, scored
    tokens the rest; scored tokens alone are unembedded.
    """
    states = tree(masks)
    total = 0.0
    for block in blocks(prompts, Budget.of(model).rows):
        everything, scored = _pairs(Sight.of(block)), _pairs(Sight.of_scored(block))
        for layer, steps in enumerate(states.steps):
            last = layer == model.num_layers - 1
            queries, pairs = (len(block.scored), scored) if last else (len(block), everything)
            for step in steps:
                sizes = len(block), queries, pairs
                each = _layer(model.parts[layer], sizes, step.heads, step.ffn)
                total += len(step.parents) * each
        total += len(set(states.leaves)) * len(block.scored) * vocabulary(model)
    return total


def whole_model(model: LanguageModel, prompts: list[Prompt]) -> tuple[float, float]:
    """Of one pass of every distinct prompt, unshared: in matrix products, in attention.

    All positions are unembedded, as transformers does it. HFLM computes equal inputs once.
    """
    lengths = [len(tokens) for tokens in {tuple(prompt.tokens) for prompt in prompts}]
    tokens, pairs = sum(lengths), sum(n * (n + 1) / 2 for n in lengths)
    layers = sum(map(layer_matrices, model.parts))
    attention = sum(4 * part.heads * part.head_dim for part in model.parts) * pairs
    return tokens * (layers + vocabulary(model)), attention


def layer_matrices(part: LayerParts) -> float:
    """Of one layer's matrix products for one token: twice the weights."""
    return 2 * sum(p.numel() for p in part.layer.parameters() if p.dim() > 1)


def vocabulary(model: LanguageModel) -> float:
    """Of the unembedding of one token."""
    return 2 * model.hf.get_output_embeddings().weight.numel()


def _layer(part: LayerParts, sizes: tuple[int, int, int], heads: Tensor, ffn: bool) -> float:
    """Of one state in one layer.

    `sizes`: tokens that have keys and values, queries that have all else, pairs that attend.
    """
    tokens, queries, pairs = sizes
    kept = heads.nonzero()[:, 0]
    kv_heads = len((kept // (part.heads // part.kv_heads)).unique())
    per_head = 2 * part.d_model * part.head_dim
    projections = per_head * (2 * kv_heads * tokens + 2 * len(kept) * queries)
    attention = 4 * part.head_dim * len(kept) * pairs
    return projections + attention + ffn * queries * _ffn(part)


def _ffn(part: LayerParts) -> float:
    """Of an FFN for one token."""
    attention = 2 * part.heads + 2 * part.kv_heads
    return layer_matrices(part) - 2 * part.d_model * part.head_dim * attention


def _pairs(sight: Sight) -> int:
    """How many (query, key) pairs of a block see each other."""
    return sum(int(sight.mask(unit, window=None).sum()) for unit in sight.units)
