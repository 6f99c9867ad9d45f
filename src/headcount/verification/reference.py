"""The reference: the unmodified model, as transformers runs it.

Inputs of one length pass `hf(input_ids)` together, so that nothing is padded and no table that
depends on the longest input can differ. Components have gates, put there by plain PyTorch hooks:
factors on the input of the attention output projection for a head, and on the output of an FFN. A
gate of one changes no bit, a gate of zero equals zeroed weights, and autograd passes it. Weights
are not changed, on disk either, and one pass serves many removals.

Every input has further rows: copies with deliberate rounding errors, which show how far rounding
alone may lead in this model on this input.

Gates rely on `headcount.models.families` to find heads and FFNs, as the engine does. Two results do
not: gradients of heads by the attention patterns that the model returns (`gradients_by_patterns`),
and the remaining effect of an emptied layer (`headcount.verification._emptied`).

| name | shape | what |
| --- | --- | --- |
| tokens | [P, T] | inputs of one length |
| rows | [1 + C, M, P] | of a pass: exact and C copies, M removals, P inputs |
| gate | [rows, T or 1, H] | of a layer's heads; H = 1 for an FFN |
| heads | [L] | number of heads of each layer |
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headcount.engine.layers import is_offloaded
from headcount.engine.removal import Removal
from headcount.models.families import LayerParts
from headcount.models.language_model import LanguageModel, replaced

# Norms between attention and its output projection, over several heads or one: the input of the
# projection is then not linear in the pattern.
NORMS_OF_HEADS = ("attn_sub_norm", "groupnorm")  # BitNet, DiffLlama


class StandIns(NamedTuple):
    """Stand-ins of removed components by layer, at positions 0, 1, ..."""

    z: dict[int, Tensor]  # [positions, H * e]
    ffn: dict[int, Tensor]  # [positions, d]


class Reference:
    """The Hugging Face model in a `LanguageModel`, and the places of its heads and FFNs."""

    def __init__(self, model: LanguageModel, copies: int, seed: int):
        self.model, self.hf = model, model.hf
        self.copies, self.seed = copies, seed
        self.attentive = [layer for layer, heads in enumerate(model.heads) if heads]
        self.forward = model.ffns

    @torch.no_grad()
    def logits(
        self,
        tokens: list[list[int]],
        last: int,
        removals: Sequence[Removal],
        heads: Sequence[int],
        stand_ins: StandIns | None = None,
    ) -> Tensor:
        """Return logits [1 + C, M, P, last, vocabulary], float32, at the last positions.

        Removed components leave zero, or their stand-ins.
        """
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
        what = "ffn_writes" if stand_ins else "ffn_output"
        gated = self._gated(heads_gates, ffns_gates, what, stand_ins)
        with gated, self._rounded(tokens_of_rows):
            logits = self._run(tokens_of_rows, last)
        return logits.float().cpu().unflatten(0, (-1, len(removals), len(tokens)))

    def _rows(self, gate: Tensor, inputs: int) -> Tensor:
        """Return the gate [rows, 1, H] for gates by removal [M, H]."""
        return gate.repeat_interleave(inputs, 0).repeat(1 + self.copies, 1)[:, None]

    def gradients(
        self, tokens: list[list[int]], targets: list[list[int]], heads: Sequence[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return d loss / d gate {layer: [1 + C, P, T, H]} of heads, and of FFNs with H = 1.

        loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j), for each input with its targets.
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
            loss = self._loss(self._run(tokens, len(targets[0])), targets)
            found = torch.autograd.grad(loss, gates)
        found = [gradient.unflatten(0, (-1, len(tokens))) for gradient in found]
        return (
            dict(zip(of_heads, found[: len(of_heads)], strict=True)),
            dict(zip(of_ffns, found[len(of_heads) :], strict=True)),
        )

    def gradients_by_patterns(
        self, tokens: list[list[int]], targets: list[list[int]]
    ) -> dict[int, Tensor]:
        """Return the same for heads {layer: [1 + C, P, T, H]}, from attention patterns A.

        z of a head is linear in its pattern, so that a gate on the head at token t is a gate on row
        t of the pattern: d loss / d gate_t = sum_s A_ts d loss / dA_ts. {} if the model returns no
        patterns.
        """
        embedding = self.hf.get_input_embeddings()
        begun = embedding.register_forward_hook(lambda *of: of[2].requires_grad_().clone())
        try:
            with (
                torch.enable_grad(),
                self._eager(),
                self._unmoved(),
                self._rounded(tokens),
                self._dropping(),
            ):
                out = self._call(tokens, output_attentions=True)
                patterns = self._patterns(out, tokens)
                linear = {
                    layer: pattern
                    for layer, pattern in patterns.items()
                    if not _norms_heads(self.model.layers[layer])
                }
                if not linear:
                    return {}
                loss = self._loss(out.logits[:, -len(targets[0]) :], targets)
                found = torch.autograd.grad(loss, list(linear.values()))
        finally:
            begun.remove()
        of_rows = [
            (pattern * gradient).float().sum(-1).cpu()  # [rows, H, T, T] to [rows, H, T]
            for pattern, gradient in zip(linear.values(), found, strict=True)
        ]
        by_input = [of_layer.mT.unflatten(0, (-1, len(tokens))).detach() for of_layer in of_rows]
        return dict(zip(linear, by_input, strict=True))

    def _loss(self, logits: Tensor, targets: list[list[int]]) -> Tensor:
        """Return the sum of losses over all rows, from their logits [rows, |y|, vocabulary]."""
        log_p = logits.log_softmax(-1, dtype=torch.float32)
        chosen = torch.tensor(targets * (1 + self.copies), device=log_p.device)[..., None]
        return -log_p.gather(-1, chosen).sum() / len(targets[0])

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Make layers that are loaded from disk run again in the backward pass.

        Otherwise autograd would keep the weights of every layer in memory.
        """
        layers = self.model.layers if is_offloaded(self.model) else []
        again: dict[nn.Module, Callable] = {
            layer: partial(checkpoint, layer.forward, use_reentrant=False) for layer in layers
        }
        with replaced(again):
            yield

    @torch.no_grad()
    def attentions(self, tokens: list[int]) -> dict[int, Tensor]:
        """Return the model's attention patterns {layer: [1 + C, H, T, T]}; {} if it has none."""
        with self._eager(), self._rounded([tokens]):
            patterns = self._patterns(self._call([tokens], output_attentions=True), [tokens])
        return {layer: pattern.float().cpu() for layer, pattern in patterns.items()}

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Make the model compute attention patterns that it can return."""
        before = self.hf.config._attn_implementation
        self.hf.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.hf.set_attn_implementation(before)

    @contextmanager
    def _unmoved(self) -> Iterator[None]:
        """Keep the model's results on the devices where they were computed.

        Otherwise accelerate copies them to the device of the input, and the loss would not depend
        on the copied patterns of layers on other devices.
        """
        hook = getattr(self.hf, "_hf_hook", None)
        moving = [h for h in getattr(hook, "hooks", [hook]) if getattr(h, "io_same_device", False)]
        for each in moving:
            each.io_same_device = False
        try:
            yield
        finally:
            for each in moving:
                each.io_same_device = True

    def _patterns(self, out: Any, tokens: list[list[int]]) -> dict[int, Tensor]:
        """Return the patterns in a model's result, by layer; {} if there are none.

        Some models list every layer, with None or a state, even of the size of a pattern, for
        linear attention; others list only the layers with patterns.
        """
        listed = list(out.attentions or ())
        if len(listed) == len(self.model.layers):
            listed = [listed[layer] for layer in self.attentive]
        square = len(tokens[0]), len(tokens[0])
        patterns = [p for p in listed if p is not None and p.shape[2:] == square]
        return dict(zip(self.attentive, patterns, strict=True)) if patterns else {}

    @torch.no_grad()
    def activations(self, tokens: list[list[int]]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return z {layer: [P, T, H * e]} of heads, and outputs of FFNs {layer: [P, T, d]}."""
        P = len(tokens)
        z: dict[int, Tensor] = {}
        ffn: dict[int, Tensor] = {}

        def note(to: dict[int, Tensor], layer: int, number: Any) -> None:
            number = number[0] if isinstance(number, tuple) else number
            number = number.reshape(P, -1, number.shape[-1]).clone()
            to[layer] = to[layer] + number if layer in to else number  # blocks side by side

        with ExitStack() as hooks:
            for layer in self.attentive:
                noted = partial(note, z, layer)
                module = self.model.parts[layer].attention_output
                hook = module.register_forward_pre_hook(lambda _, given, noted=noted: noted(given))
                hooks.callback(hook.remove)
            for layer in self.forward:
                noted = partial(note, ffn, layer)
                for module in _of_ffn(self.model.parts[layer], "ffn_writes"):
                    hook = module.register_forward_hook(lambda _, __, out, noted=noted: noted(out))
                    hooks.callback(hook.remove)
            self.hf(input_ids=torch.tensor(tokens, device=self.model.device), use_cache=False)
        return z, ffn

    def _run(self, tokens: list[list[int]], last: int) -> Tensor:
        """Return logits [rows, last, vocabulary], computing all positions if the family must."""
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
        self,
        heads: dict[int, Tensor],
        ffns: dict[int, Tensor],
        what: str,
        stand_ins: StandIns | None = None,
    ) -> Iterator[None]:
        """Multiply z, and the output of the module `what` of an FFN, by gates by layer.

        Stand-ins replace what the gates take away.
        """
        of_heads, of_ffns = stand_ins or ({}, {})
        with ExitStack() as hooks:
            for layer, gate in heads.items():
                module = self.model.parts[layer].attention_output
                gated = partial(_on_input, partial(_times, gate, of_heads.get(layer)))
                hooks.callback(module.register_forward_pre_hook(gated).remove)
            for layer, gate in ffns.items():
                for i, module in enumerate(_of_ffn(self.model.parts[layer], what)):
                    instead = None if i else of_ffns.get(layer)
                    gated = partial(_on_output, partial(_times, gate, instead))
                    hooks.callback(module.register_forward_hook(gated).remove)
            yield


def _of_ffn(part: LayerParts, what: str) -> list[nn.Module]:
    """Return the modules `what` of an FFN: several if these stand side by side."""
    module = getattr(part, what)
    if isinstance(module, nn.ModuleDict):
        return list(module.values())
    return [module, *part.ffn_beside] if what == "ffn_writes" else [module]


def _norms_heads(layer: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in NORMS_OF_HEADS for name, _ in layer.named_modules())


def _on_input(times: Callable, _module: nn.Module, inputs: tuple) -> tuple:
    return (times(inputs[0]), *inputs[1:])


def _on_output(times: Callable, _module: nn.Module, _inputs: tuple, output: Any) -> Any:
    if isinstance(output, tuple):  # a mixture of experts also returns its router's choice
        return (times(output[0]), *output[1:])
    return times(output)


def _times(gate: Tensor, stand_in: Tensor | None, number: Tensor) -> Tensor:
    rows, _, H = gate.shape
    by_head = number.reshape(rows, -1, H, number.shape[-1] // H)  # some families flatten [B, T]
    gate = gate[..., None].to(number)  # [rows, T or 1, H, 1]
    gated = by_head * gate
    if stand_in is not None:
        instead = stand_in[: by_head.shape[1]].to(number).unflatten(-1, (H, -1))  # [T, H, e]
        gated = gated + (1 - gate) * instead
    return gated.view_as(number)


# --- rounding ---


@contextmanager
def rounding(hf: nn.Module, shape: tuple[int, int], exact: int, seed: int) -> Iterator[None]:
    """Add rounding errors to all but the first `exact` rows of an input [B, T].

    A number is stored with a relative error of up to u = eps / 2 of its type, with root mean square
    u / sqrt(3). A sum of n products with random rounding has sqrt(n) such errors in the type of the
    accumulator, whatever the order (Higham & Mary 2019, "A New Approach to Probabilistic Rounding
    Error Analysis", SIAM J. Sci. Comput. 41); half-precision numbers are accumulated in float32. So
    every module without submodules reads its input times 1 + r and writes its output times 1 + r',
    with normal r and r': r' has the error of one store, r that of another one (for sums and
    products outside modules) and of n products, where n is the number of channels, or T if it is
    larger, as attention sums over T values.
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
    """Return `number` [B, .., C] or [B * T, C] with errors.

    An error is a random sign per token times a normal number per channel: uncorrelated like
    independent errors, and cheaper to draw.
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
