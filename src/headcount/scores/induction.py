"""Induction scores of every attention head, prefix matching and copying, on random tokens.

After Olsson et al. (2022), "In-context Learning and Induction Heads", whose head activation
evaluators Bansal et al. (2023, section 6) computed for OPT-66B. In random tokens repetition is all
that a head can use.

Sequence i has 4 * (25 + 2 i) tokens, fewer if the model's window or vocabulary is smaller, after a
BOS if the tokenizer has one. It has its own random numbers, so that the first sequences stay the
same when more are asked for. Prefix matching repeats 25 + 2 i distinct tokens four times, copying
has as many tokens without a repeat.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from headcount.artifacts.schemas import ROWS
from headcount.engine.fitness import refuse_unfit
from headcount.engine.layers import enter, leave, outside, resident
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel, ordinary_tokens
from headcount.progress import Progress

REPEATS = 4
VARIANTS = ("residual", "embedding")


@torch.no_grad()
def prefix_matching(
    model: LanguageModel, sequences: int, seed: int, exclude_fraction: float = 0.04
) -> pl.DataFrame:
    """Return the prefix matching score (0 to 1) of every head: rows of the artifact `induction`.

    See `prefix_matching_score`; n and the standard error are over sequences. Raises `ValueError`
    for fewer than two sequences or too small a window or vocabulary, `FloatingPointError` naming
    the layer when a score is not finite, and `ModelError` when the model's attention does not
    return its patterns.
    """
    vocabulary, bos = ordinary_tokens(model.tokenizer, exclude_fraction), _bos(model)
    scores = _scores(model, sequences)
    progress = Progress("random sequences", sequences, "sequence")
    for i, length in enumerate(_lengths(model, sequences, vocabulary)):
        tokens = bos + _draw(vocabulary, length, seed, i) * REPEATS

        def visit(
            layer: int, attention: Tensor, _z: Tensor, i: int = i, length: int = length
        ) -> None:
            scores[layer][i] = prefix_matching_score(attention, length, REPEATS, len(bos))

        with _visiting(model, visit):
            _run(model, tokens)
        progress.advance(1)
    return _table(model, scores)


@torch.no_grad()
def copying(
    model: LanguageModel,
    sequences: int,
    seed: int,
    exclude_fraction: float = 0.04,
    variant: str = "residual",
) -> pl.DataFrame:
    """Return the copying score (0 to 1) of every head: rows of the artifact `induction`.

    A head's output z W_O, without the bias of the projection or of the unembedding, gives logits of
    the tokens in context; see `copying_score`.

    - `variant="residual"`: z is that of the model's forward pass, and logits pass the final norm.
      BOS is not a candidate: a head that attends to it by default would count as copying it.
    - `variant="embedding"`, the code of Bansal et al.: every layer reads the token embeddings; the
      output is that of the value at the *current* position, whatever the head attends to; no final
      norm; probabilities instead of logits; BOS is a candidate.

    Raises the errors of `prefix_matching`, `ValueError` for an unknown variant, and `ModelError`
    when the final norm is not found.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of the copying score is not one of {VARIANTS}")
    vocabulary, bos = ordinary_tokens(model.tokenizer, exclude_fraction), _bos(model)
    scores = _scores(model, sequences)
    progress = Progress("random sequences", sequences, "sequence")
    for i, length in enumerate(_lengths(model, sequences, vocabulary)):
        count = min(length * REPEATS, len(vocabulary))
        tokens = bos + _draw(vocabulary, count, seed, i)
        score = _copying_residual if variant == "residual" else _copying_embedding
        score(model, tokens, len(bos), [of_layer[i] for of_layer in scores])
        progress.advance(1)
    return _table(model, scores)


@torch.no_grad()
def final_norm(model: LanguageModel) -> nn.Sequential:
    """Return the modules between the last layer and the unembedding, mostly one norm.

    They are found by what they do, not by name: a random state replaces the output of the last
    layer, and the input of the unembedding is traced back to the module that wrote it, its input to
    the one before, and so on to that state. A common factor in between is allowed, since it changes
    no share. Raises `ModelError` for anything else in between.
    """
    refuse_unfit(model)
    ran: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple, output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            ran.append((module, inputs[0], output))

    with ExitStack() as stack:
        stack.enter_context(resident(*outside(model)))
        tokens = torch.zeros(1, 2, dtype=torch.long)
        state = enter(model, tokens)[0].hidden  # [1, 2, d], or several streams
        last = torch.randn(state.shape, generator=torch.Generator().manual_seed(0)).to(state)
        for module in outside(model):
            stack.callback(module.register_forward_hook(note).remove)
        leave(model, last, tokens)
    head = model.hf.get_output_embeddings()
    chain: list[nn.Module] = []
    read = next((read for module, read, _ in ran if module is head), torch.empty(0))
    for module, its_input, output in reversed(ran):
        if module is not head and _is_multiple(read, output):
            chain.insert(0, module)
            read = its_input
    merged = bool(chain) and last.numel() > read.numel()  # several streams, before the norm
    if read.shape[-1] != model.d_model or not (merged or _is_multiple(read, last)):
        raise ModelError(
            f"{type(model.hf).__name__} ({model.hf.config.model_type}): what lies between the last "
            "layer and the unembedding is more than modules one after the other, so that there are "
            "no copying scores"
        )
    return nn.Sequential(*chain)


def _is_multiple(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to a positive factor and rounding."""
    if one.numel() != other.numel():
        return False
    cosine = torch.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0)
    return cosine.item() > 1 - 1e-4


@torch.no_grad()
def attention_patterns(model: LanguageModel, tokens: list[int]) -> dict[int, Tensor]:
    """Return the attention patterns [H, T, T] that both scores use, by layer."""
    patterns = {}

    def visit(layer: int, attention: Tensor, _z: Tensor) -> None:
        patterns[layer] = attention.float()

    with _visiting(model, visit):
        _run(model, tokens)
    return patterns


# --- the definitions, on tensors ---


def prefix_matching_score(attention: Tensor, length: int, repeats: int, offset: int) -> Tensor:
    """Return prefix matching [H] from attention patterns [H, query T, key T].

    From position `offset` on, the input is a sequence of `length` distinct tokens, repeated
    `repeats` times.
    The score is the attention mass from each token of the second and later repeats to the positions
    that follow its earlier occurrences, averaged over those tokens.
    """
    query = torch.arange(offset + length, offset + repeats * length, device=attention.device)
    key = torch.arange(attention.shape[-1], device=attention.device)
    # Key k follows an occurrence at k - 1: a whole number of lengths, at least one, before q.
    distance = query[:, None] + 1 - key  # [Q, T]
    follows = (distance >= length) & (distance % length == 0) & (key > offset)
    return (attention[:, query].float() * follows).sum(-1).mean(-1)


def copying_score(logits: Tensor, attended: Tensor) -> Tensor:
    """Return copying [H] from the additions of heads to the logits of the tokens in context.

    logits[h, t, s], [H, T, T]: what head h at position t adds to the logit of the token at s.
    attended[h, t], [H, T]: the position s <= t that the head attends to most. At every t the mean
    over the tokens in context (s <= t) is subtracted, and negative values become zero; the score is
    the attended token's share of the rest, 0 if nothing is left, averaged over the positions with
    at least two tokens in context.
    """
    T = logits.shape[-1]
    in_context = torch.ones(T, T, dtype=torch.bool, device=logits.device).tril()
    logits = logits.float().where(in_context, 0)
    mean = logits.sum(-1, keepdim=True) / in_context.sum(-1, keepdim=True)
    raised = (logits - mean).clamp(min=0).where(in_context, 0)
    on_attended = raised.gather(-1, attended[..., None])[..., 0]  # [H, T]
    total = raised.sum(-1)
    return (on_attended / total.where(total != 0, 1))[:, 1:].mean(-1)


# --- random sequences ---


def _bos(model: LanguageModel) -> list[int]:
    bos = model.tokenizer.bos_token_id
    return [] if bos is None else [bos]


def _lengths(model: LanguageModel, sequences: int, vocabulary: np.ndarray) -> list[int]:
    """Return the numbers of tokens in a repeat: 25, 27, ..., as window and vocabulary allow."""
    if sequences < 2:
        raise ValueError(f"{sequences} random sequences give no standard error: use at least 2")
    longest = min((model.window - len(_bos(model))) // REPEATS, len(vocabulary))
    if longest < 2:
        raise ValueError(
            f"a window of {model.window} and {len(vocabulary)} ordinary tokens are too few to "
            f"repeat a random sequence {REPEATS} times"
        )
    return [min(25 + 2 * i, longest) for i in range(sequences)]


def _draw(vocabulary: np.ndarray, count: int, seed: int, index: int) -> list[int]:
    """Return the `index`-th random sequence of `seed`: `count` distinct tokens."""
    return np.random.default_rng([seed, index]).choice(vocabulary, count, replace=False).tolist()


# --- looking into the model ---


def _copying_residual(
    model: LanguageModel, tokens: list[int], offset: int, out: list[Tensor]
) -> None:
    """Fill the copying scores `out` [L][H] of one sequence, whose first `offset` tokens are BOS."""
    unembedding = _unembedding(model, tokens[offset:])  # [T - offset, d]
    norm = final_norm(model)

    def visit(layer: int, attention: Tensor, z: Tensor) -> None:
        hidden = norm(_head_outputs(model, layer, z[offset:]))
        attended = attention[:, offset:, offset:].argmax(-1)
        out[layer][:] = copying_score(_logits(hidden, unembedding), attended.to(unembedding.device))

    with _visiting(model, visit):
        _run(model, tokens)


def _copying_embedding(
    model: LanguageModel, tokens: list[int], _offset: int, out: list[Tensor]
) -> None:
    """Fill the scores of the variant `embedding`. A mask of all other positions makes z = v."""
    unembedding = _unembedding(model, tokens)  # [T, d]
    narrow = nn.Sequential(*(m for m in final_norm(model) if isinstance(m, nn.Linear)))  # OPT-350m
    attended = {}

    def visit_pattern(layer: int, attention: Tensor, _z: Tensor) -> None:
        attended[layer] = attention.argmax(-1).to(unembedding.device)  # [H, T]

    def visit_value(layer: int, _attention: Tensor, v: Tensor) -> None:
        logits = _logits(narrow(_head_outputs(model, layer, v)), unembedding)
        # Softmax's denominator cancels in shares: exp replaces the probability.
        probabilities = (logits - logits.amax(-1, keepdim=True)).exp()
        out[layer][:] = copying_score(probabilities, attended[layer])

    with _reading_embeddings(model):
        with _visiting(model, visit_pattern):
            _run(model, tokens)
        with _visiting(model, visit_value):
            _run(model, tokens, itself_only=True)


def _run(model: LanguageModel, tokens: list[int], itself_only: bool = False) -> None:
    """Run a forward pass without the unembedding; `itself_only` masks all other positions."""
    model.refuse_unknown(tokens)
    inputs = {"input_ids": torch.tensor([tokens], device=model.device), "use_cache": False}
    if not model.hf._can_set_attn_implementation():  # else eager attention gives them anyway
        inputs["output_attentions"] = True
    if itself_only:
        T, dtype = len(tokens), model.hf.dtype
        mask = torch.full((T, T), torch.finfo(dtype).min, dtype=dtype, device=model.device)
        inputs["attention_mask"] = mask.fill_diagonal_(0)[None, None]  # [1, 1, T, T]
        inputs["position_ids"] = torch.arange(T, device=model.device)[None]
    model.hf.base_model(**inputs)


def _head_outputs(model: LanguageModel, layer: int, z: Tensor) -> Tensor:
    """Return the outputs of heads to the residual stream [H, T, d], from z [T, H, head_dim]."""
    with align_module_device(
        model.parts[layer].attention_output
    ):  # loads weights that are offloaded
        return torch.einsum("the,hed->htd", z, model.head_weight(layer).to(z))


def _unembedding(model: LanguageModel, tokens: list[int]) -> Tensor:
    """Return the rows [T, d] of the unembedding for `tokens`, in float32."""
    module = model.hf.get_output_embeddings()
    with align_module_device(module):
        return module.weight[tokens].float()


def _logits(hidden: Tensor, unembedding: Tensor) -> Tensor:
    """Return logits [H, T, S] of S tokens from hidden states [H, T, d]."""
    return hidden.to(unembedding) @ unembedding.T


@contextmanager
def _visiting(model: LanguageModel, visit: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, a forward pass of one row calls `visit(layer, attention [H, T, T], z [T, H, e])`.

    Patterns are visited layer by layer and dropped: those of all layers of a large model at once
    would take more memory than the model. Only transformers' eager attention returns them.
    """
    refuse_unfit(model)
    waiting = {}

    def keep(layer: int, z: Tensor) -> Tensor:
        waiting[layer] = z[0]
        return z

    def after(layer: int, _module: nn.Module, _inputs: tuple, output: tuple) -> tuple:
        place = _place_of_patterns(model, layer, output)
        visit(layer, output[place][0], waiting.pop(layer))
        return type(output)((*output[:place], None, *output[place + 1 :]))

    implementation = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with model.hooked(attention_input=keep), ExitStack() as hooks:
            for layer, part in enumerate(model.parts):
                if part.attention:
                    handle = part.attention.register_forward_hook(partial(after, layer))
                    hooks.callback(handle.remove)
            yield
    finally:
        model.hf.set_attn_implementation(implementation)


def _place_of_patterns(model: LanguageModel, layer: int, output: tuple) -> int:
    """Return the index of the patterns [1, H, T, T] in the output of an attention module."""
    T = output[0].shape[1]
    for place, value in enumerate(output):
        if isinstance(value, Tensor) and value.shape == (1, model.heads[layer], T, T):
            return place
    raise ModelError(
        f"{type(model.hf).__name__} ({model.hf.config.model_type}): the attention of layer {layer} "
        "does not return its patterns, without which there are no induction scores"
    )


@contextmanager
def _reading_embeddings(model: LanguageModel) -> Iterator[None]:
    """Inside, every decoder layer reads what the first one reads: the token embeddings."""
    embeddings: list[Tensor] = []

    def replace(layer: int, _module: nn.Module, inputs: tuple) -> tuple:
        if layer == 0:
            embeddings[:] = inputs[:1]
        return (embeddings[0].to(inputs[0].device), *inputs[1:])

    with ExitStack() as hooks:
        for layer, module in enumerate(model.layers):
            handle = module.register_forward_pre_hook(partial(replace, layer))
            hooks.callback(handle.remove)
        yield


def _scores(model: LanguageModel, sequences: int) -> list[Tensor]:
    """Return empty scores [sequences, H] of each layer."""
    return [torch.zeros(sequences, H, dtype=torch.float64) for H in model.heads]


def _table(model: LanguageModel, of_layers: list[Tensor]) -> pl.DataFrame:
    """Return rows of the artifact from the scores [sequences, H] of each layer."""
    finite = [bool(of_layer.isfinite().all()) for of_layer in of_layers]
    if not all(finite):
        layer = finite.index(False)
        raise FloatingPointError(
            f"model {model.hf.name_or_path}: an induction score of layer {layer} is not finite; "
            "try dtype: float32 or bfloat16 (config key `models`)"
        )
    scores = torch.cat(of_layers, dim=1)  # [sequences, all heads]
    n = len(scores)
    columns = {
        "layer": np.repeat(np.arange(model.num_layers), model.heads),
        "head": np.concatenate([np.arange(H) for H in model.heads]),
        "score": scores.mean(0).numpy(),
        "standard_error": (scores.std(0) / n**0.5).numpy(),
        "n": np.full(scores.shape[1], n),
    }
    return pl.DataFrame(columns, schema=pl.Schema(ROWS["induction"]))
