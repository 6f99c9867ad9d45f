"""A causal language model whose attention heads and feed-forward networks can be removed.

transformers' own modelling code runs unchanged. A head is removed at its slice `z` of the *input*
of the attention output projection (in the output the heads are already mixed), an FFN at its
addition to the residual stream. While nothing is removed nothing is installed: the model is bit for
bit the unmodified one. `headcount.models.families` finds the parts.

| name | shape | where |
| --- | --- | --- |
| hidden | [rows B, positions T, d_model] | the residual stream between two layers |
| z | [rows B, positions T, heads H, head_dim] | input of the attention output projection |
| FFN output | [rows B, positions T, d_model] | addition of the FFN to the residual stream |
| heads mask | [heads H] for each of L layers | True keeps, False removes |
| FFNs mask | [layers L] | True keeps, False removes |

Layers may differ in their number of heads H, which is 0 in a layer without attention, and in their
size; both are in `LanguageModel.parts`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headcount.models import families, projections
from headcount.models.families import LayerParts, Layout, ModelError

MEMORY = 1000  # MB


@dataclass
class Prompt:
    """A scored prompt: the last `len(targets)` positions of `tokens` predict `targets`.

    `tokens` is the model's input: context and continuation without its last token, cut to the
    window from the left. `targets` is the continuation.
    """

    tokens: list[int]
    targets: list[int]
    truncated: bool

    @property
    def key(self) -> bytes:
        """16 bytes that identify the prompt."""
        numbers = np.array([len(self.targets), *self.targets, *self.tokens], dtype="<i8")
        return hashlib.sha256(numbers.tobytes()).digest()[:16]


class PromptError(ValueError):
    """A request without a log-likelihood; `index` is its place among the encoded ones."""

    index = 0


class LanguageModel:
    """A frozen causal language model, its tokenizer, and the places of its heads and FFNs.

    `memory`, in MB, bounds the memory of a sweep beside the weights; `layout` names heads and FFNs
    that `headcount.models.families` does not find. `backend` is "packed" or "own" (padded, with the
    model's own attention); the first sweep chooses it (`headcount.engine._backend`).

    Raises `ModelError` when heads or FFNs are not found.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        memory: float = MEMORY,
        layout: Layout | None = None,
    ) -> None:
        self.memory = memory
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        path, self.parts = families.decoder(hf, layout)
        self.layers = hf.get_submodule(path)
        for layer in self.layers:
            families.refuse_wrapped(layer)
        self.num_layers = len(self.layers)
        self.heads = [part.heads for part in self.parts]
        self.ffns = [layer for layer, part in enumerate(self.parts) if part.ffn_output]
        self.d_model = hf.config.get_text_config().hidden_size
        self.backend: str | None = None
        self.is_fit = False  # whether it has passed `headcount.engine.fitness`
        self.values_of_layer: int | None = None  # number that a layer returns, 0 for no tuple

    @property
    def device(self) -> torch.device:
        """The device of inputs: that of the weights, or where offloaded ones are loaded to."""
        embedding = self.hf.get_input_embeddings()
        device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
        return embedding.weight.device if device is None else torch.device(device)

    @property
    def vocabulary_size(self) -> int:
        """The number of embeddings; the tokenizer may have fewer tokens, or more."""
        return self.hf.get_input_embeddings().weight.shape[0]

    @property
    def facts(self) -> dict:
        """The dimensions, and numbers of weights: attention, rest of the layers, unembedding."""
        layers, attention = (
            sum(p.numel() for module in modules for p in module.parameters())
            for modules in (self.layers, [p.attention for p in self.parts if p.attention])
        )
        vocabulary = self.hf.get_output_embeddings().weight.numel()
        return {
            "layers": self.num_layers,
            "heads": self.heads,
            "ffns": self.ffns,
            "d_model": self.d_model,
            "weights": {
                "attention": attention,
                "ffn": layers - attention,
                "vocabulary": vocabulary,
            },
        }

    @cached_property
    def window(self) -> int:
        """The longest input in tokens, as lm-eval determines it."""
        return self._lm_eval.max_length

    @cached_property
    def _lm_eval(self) -> Any:
        """lm-eval's own model around this one, used only to tokenise."""
        from lm_eval.models.huggingface import HFLM

        class Encoder(HFLM):
            def _loglikelihood_tokens(self, requests: list, **_: Any) -> list:
                return requests

        return Encoder(pretrained=self.hf, tokenizer=self.tokenizer, batch_size=1)

    def encode(self, pairs: list[tuple[str, str]]) -> list[Prompt]:
        """Return prompts of (context, continuation) pairs, tokenised and cut as by lm-eval.

        Raises `PromptError` for a context or continuation without tokens, and for a continuation
        longer than the window.
        """
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        encoded = self._lm_eval.loglikelihood(requests, disable_tqdm=True)
        return self.prompts([tokens for _, *tokens in encoded])

    def prompts(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Prompt]:
        """Return prompts of (context, continuation) pairs in tokens, contexts cut to the window.

        Raises `PromptError` as `encode` does.
        """
        prompts = []
        for index, (context, continuation) in enumerate(pairs):
            try:
                prompts.append(self._prompt(context, continuation))
            except PromptError as error:
                error.index = index
                raise
        return prompts

    def _prompt(self, context: list[int], continuation: list[int]) -> Prompt:
        if not continuation:
            raise PromptError(
                "the continuation has no tokens of its own: the tokenizer merges it into the "
                "context's last one, or it is empty (target_delimiter: ' ' keeps them apart)"
            )
        if len(continuation) > self.window:
            raise PromptError(
                f"the continuation has {len(continuation)} tokens, the model's window "
                f"{self.window}: its log-likelihood is not defined"
            )
        if not context:
            raise PromptError(
                "the context has no tokens: lm-eval counts its white space to the continuation, "
                "and the tokenizer begins with no token of its own (an empty context gets BOS)"
            )
        whole = context + continuation
        self.refuse_unknown(whole)
        tokens = whole[-(self.window + 1) :][:-1]
        return Prompt(tokens, continuation, len(whole) > self.window + 1)

    def refuse_unknown(self, tokens: list[int]) -> None:
        """Raise `ModelError` when a token has no embedding."""
        if max(tokens, default=0) >= self.vocabulary_size:
            token = self.tokenizer.convert_ids_to_tokens(max(tokens))
            raise ModelError(
                f"the token {token!r} ({max(tokens)}) is beyond the model's {self.vocabulary_size} "
                "embeddings: it was added to the tokenizer alone. Resize the model's embeddings "
                "(`resize_token_embeddings`) or give the tokenizer that it was trained with"
            )

    def non_finite_weights(self) -> str:
        """Return for a message the first weights that are not finite; empty if there are none."""
        for name, weights in self.hf.named_parameters():
            if not weights.is_meta and not weights.isfinite().all():
                return f"; {name} has weights that are not finite"
        return ""

    @torch.no_grad()
    def head_weight(self, layer: int) -> Tensor:
        """Return the output weights of each head of `layer`: W_O [H, head_dim, d_model]."""
        part = self.parts[layer]
        assert part.attention_output is not None  # the layer has heads
        if projections.is_plain(part.attention_output):
            weight = projections.matrix(part.attention_output).T  # [H * head_dim, d_model]
        else:  # a wrapped projection: its response to each input
            inputs = torch.eye(part.heads * part.head_dim, dtype=self.hf.dtype, device=self.device)
            weight = part.attention_output(inputs) - part.attention_output(torch.zeros_like(inputs))
        return weight.unflatten(0, (part.heads, part.head_dim))

    @contextmanager
    def hooked(
        self,
        attention_input: Callable | None = None,
        ffn_output: Callable | None = None,
        layers: Iterable[int] | None = None,
    ) -> Iterator[None]:
        """Pass z through `attention_input(layer, z)`, and FFNs' outputs through `ffn_output`.

        Each function returns the value to continue with; z is [B, T, H, head_dim], an output
        [B, T, d]. If an FFN is several modules side by side, the function gets their sum; its
        result replaces the output of the last to run, and zero that of the others. `layers`: all,
        unless given.
        """
        hooks = ExitStack()
        with hooks:
            for layer in range(self.num_layers) if layers is None else layers:
                part = self.parts[layer]
                if attention_input and part.heads:
                    on_z = partial(_on_z, attention_input, layer, part)
                    hooks.callback(part.attention_output.register_forward_pre_hook(on_z).remove)
                if ffn_output and part.ffn_writes:
                    on_ffn = partial(_on_ffn, ffn_output, layer, 1 + len(part.ffn_beside), [])
                    for module in (*part.ffn_beside, part.ffn_writes):
                        hooks.callback(module.register_forward_hook(on_ffn).remove)
            yield


def _on_z(
    function: Callable, layer: int, part: LayerParts, _module: nn.Module, inputs: tuple
) -> tuple[Tensor]:
    z = inputs[0].unflatten(-1, (part.heads, part.head_dim))  # [B, T, H, head_dim]
    return (function(layer, z).flatten(-2),)  # [B, T, H * head_dim]


def _on_ffn(
    function: Callable, layer: int, count: int, held: list[Tensor], *hooked: Any
) -> Tensor | tuple:
    """Hook each of the `count` modules of an FFN; `held` are the outputs of earlier ones."""
    _module, _inputs, output = hooked
    held.append(output[0] if isinstance(output, tuple) else output)
    if len(held) < count:
        passed = torch.zeros_like(held[-1])
    else:
        passed = function(layer, sum(held[1:], start=held[0]))
        held.clear()
    # A mixture of experts may return its router's logits too.
    return (passed, *output[1:]) if isinstance(output, tuple) else passed


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase, exclude_fraction: float) -> np.ndarray:
    """Return rising token ids without special and added ones and `exclude_fraction` at each end.

    Ids approximate frequency: vocabularies of words and OPT's are sorted by it, those of byte pairs
    by the order of the merges, so that the lowest ids are the most frequent tokens.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = np.array(sorted({*tokenizer.get_vocab().values()} - special))
    excluded = int(exclude_fraction * len(ids))
    return ids[excluded : len(ids) - excluded]


@contextmanager
def replaced(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Replace the `forward` of modules for a while."""
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            if forward is None:  # the class's own is visible again
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward
