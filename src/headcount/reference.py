"""The unmodified model, as transformers runs it: what the engine has to equal.

Inputs of one length go through `hf(input_ids)` together, so that nothing is padded and no table
that depends on the longest input can differ. Components have gates, factors on what the attention
output projection reads of a head and on what an FFN writes, put there by plain PyTorch hooks. A
gate of one changes no bit, one of zero gives the numbers of weights zeroed by hand, and autograd
goes through it. Weights are left alone, on disk as well, and one pass serves many removals.

Every input has further rows, copies with rounding errors made on purpose: how far rounding alone
may lead in this model on this input.

| name | shape | what |
| --- | --- | --- |
| tokens | [P, T] | inputs of one length |
| rows | [1 + C, M, P] | those of a pass: exact and C copies, M removals, P inputs |
| gate | [rows, T or 1, H] | of a layer's heads; H = 1 for an FFN |
| heads | [L] | number of heads of each layer |
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headcount.families import Parts
from headcount.model import LanguageModel, replaced
from headcount.sweep.layers import is_offloaded

Removal = tuple[Sequence[tuple[int, int]], Sequence[int]]  # heads as (layer, head), FFNs' layers


class Reference:
    """The Hugging Face model in a `LanguageModel`; of the latter it takes where the parts are."""

    def __init__(self, model: LanguageModel, copies: int, seed: int):
        self.model, self.hf = model, model.hf
        self.copies, self.seed = copies, seed
        self.attentive = [layer for layer, heads in enumerate(model.heads) if heads]
        self.forward = model.ffns

    @torch.no_grad()
    def logits(
        self, tokens: list[list[int]], last: int, removals: Sequence[Removal], heads: Sequence[int]
    ) -> Tensor:
        """Logits [1 + C, M, P, last, vocabulary], float32, at the inputs' last positions."""
        of_heads = {layer: torch.ones(len(removals), heads[layer]) for layer in self.attentive}
        of_ffns = {layer: torch.ones(len(removals), 1) for layer in self.forward}
        for i, (gone, ffns) in enumerate(removals):
            for layer, head in gone:
                of_heads[layer][i, head] = 0
            for layer in ffns:
                of_ffns[layer][i] = 0
        rows = partial(self._rows, inputs=len(tokens))
        heads_gates = {layer: rows(gate) for layer, gate in of_heads.items() if not gate.all()}
        ffns_gates = {layer: rows(gate) for layer, gate in of_ffns.items() if not gate.all()}
        tokens_of_rows = tokens * len(removals)
        with self._gated(heads_gates, ffns_gates, "ffn_output"), self._rounded(tokens_of_rows):
            logits = self._run(tokens_of_rows, last)
        return logits.float().cpu().unflatten(0, (-1, len(removals), len(tokens)))

    def _rows(self, gate: Tensor, inputs: int) -> Tensor:
        """The gate [rows, 1, H] of one that is given by removal [M, H]."""
        return gate.repeat_interleave(inputs, 0).repeat(1 + self.copies, 1)[:, None]

    def gradients(
        self, tokens: list[list[int]], targets: list[list[int]], heads: Sequence[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """d loss / d gate at every token: {layer: [1 + C, P, T, H]} of heads, and of FFNs, H = 1.

        loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j), of each input with its targets.
        """
        rows, T = (1 + self.copies) * len(tokens), len(tokens[0])
        of_heads = {layer: torch.ones(rows, T, heads[layer]) for layer in self.attentive}
        of_ffns = {layer: torch.ones(rows, T, 1) for layer in self.forward}
        gates = [gate.requires_grad_() for gate in (*of_heads.values(), *of_ffns.values())]
        with (
            torch.enable_grad(),
            self._gated(of_heads, of_ffns, "ffn_writes"),
            self._rounded(tokens),
            self._dropping(),
        ):
            log_p = self._run(tokens, len(targets[0])).log_softmax(-1, dtype=torch.float32)
            chosen = torch.tensor(targets * (1 + self.copies), device=log_p.device)[..., None]
            loss = -log_p.gather(-1, chosen).sum() / len(targets[0])
            found = torch.autograd.grad(loss, gates)
        found = [gradient.unflatten(0, (-1, len(tokens))) for gradient in found]
        return (
            dict(zip(of_heads, found[: len(of_heads)], strict=True)),
            dict(zip(of_ffns, found[len(of_heads) :], strict=True)),
        )

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Inside, a layer that was loaded from disk runs once more for the backward pass.

        Else autograd would hold on to the weights of every layer.
        """
        layers = self.model.layers if is_offloaded(self.model) else []
        again: dict[nn.Module, Callable] = {
            layer: partial(checkpoint, layer.forward, use_reentrant=False) for layer in layers
        }
        with replaced(again):
            yield

    @torch.no_grad()
    def attentions(self, tokens: list[int]) -> dict[int, Tensor]:
        """The attention patterns {layer: [1 + C, H, T, T]} that the model returns; {} if none."""
        before = self.hf.config._attn_implementation
        self.hf.set_attn_implementation("eager")
        try:
            with self._rounded([tokens]):
                patterns = self._call([tokens], output_attentions=True).attentions
        finally:
            self.hf.set_attn_implementation(before)
        found = [
            pattern.float().cpu() for pattern in patterns or () if _is_pattern(pattern, tokens)
        ]
        return dict(zip(self.attentive, found, strict=True)) if found else {}

    def _run(self, tokens: list[list[int]], last: int) -> Tensor:
        """Logits [rows, last, vocabulary]; of all positions where a family computes no others."""
        some = "logits_to_keep" in inspect.signature(type(self.hf).forward).parameters
        return self._call(tokens, **({"logits_to_keep": last} if some else {})).logits[:, -last:]

    def _call(self, tokens: list[list[int]], **options: Any) -> Any:
        rows = torch.tensor(tokens * (1 + self.copies), device=self.model.device)
        return self.hf(input_ids=rows, use_cache=False, **options)

    def _rounded(self, tokens: list[list[int]]) -> Any:
        shape = (1 + self.copies) * len(tokens), len(tokens[0])
        return rounding(self.hf, shape, len(tokens), self.seed)

    @contextmanager
    def _gated(
        self, heads: dict[int, Tensor], ffns: dict[int, Tensor], what: str
    ) -> Iterator[None]:
        """Inside, gates by layer multiply z, and what the module `what` of an FFN writes."""
        with ExitStack() as hooks:
            for layer, gate in heads.items():
                module = self.model.parts[layer].attention_output
                hooks.callback(module.register_forward_pre_hook(partial(_on_input, gate)).remove)
            for layer, gate in ffns.items():
                for module in _of_ffn(self.model.parts[layer], what):
                    hooks.callback(module.register_forward_hook(partial(_on_output, gate)).remove)
            yield


def _of_ffn(part: Parts, what: str) -> list[nn.Module]:
    """The modules `what` of an FFN, which may be several side by side."""
    module = getattr(part, what)
    if isinstance(module, nn.ModuleDict):
        return list(module.values())
    return [module, *part.ffn_beside] if what == "ffn_writes" else [module]


def _is_pattern(pattern: Tensor | None, tokens: list[int]) -> bool:
    """Whether a layer's attention is [rows, H, T, T]; linear attention returns something else."""
    return pattern is not None and pattern.shape[2:] == (len(tokens), len(tokens))


def _on_input(gate: Tensor, _module: nn.Module, inputs: tuple) -> tuple:
    return (_times(gate, inputs[0]), *inputs[1:])


def _on_output(gate: Tensor, _module: nn.Module, _inputs: tuple, output: Any) -> Any:
    if isinstance(output, tuple):  # of a mixture of experts, which returns its router's choice
        return (_times(gate, output[0]), *output[1:])
    return _times(gate, output)


def _times(gate: Tensor, number: Tensor) -> Tensor:
    rows, _, H = gate.shape
    by_head = number.reshape(rows, -1, H, number.shape[-1] // H)  # some families flatten [B, T]
    return (by_head * gate[..., None].to(number)).view_as(number)


# --- rounding ---


@contextmanager
def rounding(hf: nn.Module, shape: tuple[int, int], exact: int, seed: int) -> Iterator[None]:
    """Inside, all but the first `exact` rows of an input [B, T] are off by rounding errors.

    A number is stored with a relative error of up to u = eps / 2 of its type, in the mean square
    u / sqrt(3). A sum of n products whose roundings go up and down at random is off by sqrt(n) such
    errors in the type that it is added up in, whatever the order (Higham & Mary 2019, "A New
    Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41); half-precision
    numbers are added up in float32. So every module without submodules reads its input times 1 + r
    and writes its output times 1 + r', with r and r' normal: r' of one storing, r of one more (of
    sums and products outside of modules) and of n products, where n is the number of channels, or T
    where that is larger: so many values attention adds up.
    """
    read, written = (partial(_off, shape, exact, products) for products in (True, False))
    with ExitStack() as hooks, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in hf.modules():
            if not any(module.children()):
                before = module.register_forward_pre_hook(
                    lambda _module, inputs: (read(inputs[0]), *inputs[1:]) if inputs else None
                )
                after = module.register_forward_hook(lambda _module, _inputs, out: written(out))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
        yield


def _off(shape: tuple[int, int], exact: int, products: bool, number: Any) -> Any:
    """`number` [B, .., C] or [B * T, C] with errors: a random sign a token times r a channel.

    They are uncorrelated, as independent ones are, and cheaper to draw.
    """
    B, T = shape
    if not isinstance(number, Tensor) or not number.is_floating_point() or number.dim() < 2:
        return number
    if exact == B or len(number) not in (B, B * T):  # a table, or the tokens of one expert
        return number
    wide = torch.promote_types(number.dtype, torch.float32)
    size = torch.finfo(number.dtype).eps
    if products:
        size += math.sqrt(max(number.shape[-1], T)) * torch.finfo(wide).eps
    rows = number if len(number) == B else number.unflatten(0, (B, T))
    signs = torch.randint(0, 2, (*rows.shape[:-1], 1)) * 2 - 1
    signs[:exact] = 0
    error = (size / math.sqrt(12) * signs * torch.randn(rows.shape[-1])).to(number.device)
    return (rows.to(wide) * (1 + error)).to(number.dtype).view_as(number)
