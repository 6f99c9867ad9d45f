"""Idea 5, gradients of the loss by components' outputs, without gradients of the weights.

The parameters are frozen; the graph of a layer begins at the hidden states that enter it. It is
kept until the backward pass if memory allows. Otherwise only the layer's input is kept, and the
layer is computed again. So a model that streams from disk is read twice, forward and backward.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from headcount.engine._backend import choose_backend
from headcount.engine._block import Block
from headcount.engine._wave import Wave
from headcount.engine.layers import is_offloaded, outside, resident
from headcount.engine.memory import Budget
from headcount.engine.states import State
from headcount.models.language_model import LanguageModel, Prompt
from headcount.progress import Progress


@dataclass
class Graph:
    """The computation of one block in one layer, from state to state."""

    before: State
    activation: Tensor | None  # the component's output: z [.., H, e], or what the FFN adds [.., d]
    after: State


class Contributions(NamedTuple):
    """Sums over tokens of <A_t, d loss / d A_t> of p prompts, by component."""

    prompts: Tensor  # [p]
    absolute: Tensor  # [p, N] float32, sum_t |<A_t, d loss / d A_t>|
    signed: Tensor  # [p, N] float32, sum_t <A_t, d loss / d A_t>


def contributions(
    model: LanguageModel, prompts: Sequence[Prompt], component: str
) -> Iterator[Contributions]:
    """Yield contributions of the N components in the order (layer, head), block by block.

    Raises `FloatingPointError` naming the layer when one is not finite.
    """
    having = [i for i, H in enumerate(model.heads) if H] if component == "heads" else model.ffns
    unfinished: dict[int, dict[int, Tensor]] = defaultdict(dict)  # block -> layer -> [2, p, H or 1]
    for layer, block, products in gate_gradients(model, prompts, component):
        of_block, places = block.owners[block.real].unique(return_inverse=True)
        terms = products[block.real.to(products.device)]  # [tokens, H or 1]
        sums = terms.new_zeros(2, len(of_block), terms.shape[1])
        for total, of_token in zip(sums, (terms.abs(), terms), strict=True):
            total.index_add_(0, places.to(terms.device), of_token)
        unfinished[id(block)][layer] = sums
        if layer == having[0]:  # the last one on the way back
            by_layer = unfinished.pop(id(block))
            # One copy from the device: nothing waits for it before.
            found = torch.cat([by_layer[i].to(model.device) for i in having], dim=-1).cpu()
            _check_finite(found, model, component, having)
            yield Contributions(of_block, *found)


def _check_finite(
    found: Tensor, model: LanguageModel, component: str, having: Sequence[int]
) -> None:
    if found.isfinite().all():
        return
    places = [
        f"layer {layer}" + (f", head {head}" if component == "heads" else "")
        for layer in having
        for head in range(model.heads[layer] if component == "heads" else 1)
    ]
    where = places[int((~found.isfinite()).flatten(0, 1).any(0).nonzero()[0])]
    raise FloatingPointError(
        f"model {model.hf.name_or_path}: the gradient score of {where} is not finite; "
        "try dtype: float32 or bfloat16 (config key `models`)"
    )


def gate_gradients(
    model: LanguageModel, prompts: Sequence[Prompt], component: str
) -> Iterator[tuple[int, Block, Tensor]]:
    """Yield <A_t, d loss / d A_t>, the derivative of the loss by a gate on a component's output.

    The loss of a prompt is loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j). A is z of each head
    (`component="heads"`) or the addition of each FFN to the residual stream ("ffns"). Prompts are
    packed without sharing. An item is (layer, block, products [N, H] or [N, 1], float32), for each
    layer that has the component; padding has zeros.
    """
    budget = Budget.of(model)
    longest = max(len(prompt.tokens) for prompt in prompts)
    streams = is_offloaded(model)
    keep = not streams and longest <= budget.graph_rows
    # A backward pass holds a gradient for each activation.
    rows = budget.graph_rows if keep else max(1, budget.rows // 2)
    backend = choose_backend(model, longest)
    packing = backend.blocks(model, prompts, rows, share=False)
    progress = Progress(f"gradients of {component}", len(prompts), "prompt")
    with backend.attention(model):
        for blocks in [packing] if streams else [[block] for block in packing]:
            with Wave(model, backend, blocks, budget) as wave:
                yield from _gradients(wave, component, keep, progress)


def _gradients(
    wave: Wave, component: str, keep: bool, progress: Progress
) -> Iterator[tuple[int, Block, Tensor]]:
    """Run forward, loss and backward, layer by layer; yield as `gate_gradients`."""
    model, held = wave.model, wave.held
    graphs: dict[tuple[int, int], Graph] = {}
    last, indices = model.num_layers, range(len(wave.blocks))
    of_pass = [len(block.prompts.unique()) / (2 * last) for block in wave.blocks]  # prompts
    for layer in range(last):
        with torch.set_grad_enabled(keep), resident(*model.layers[layer].modules()):
            for i in indices:
                graph = _graph(wave, layer, i, component)
                held.put((layer + 1, 0, i), tree_map(torch.detach, graph.after))
                if keep:
                    graphs[layer, i] = graph
                progress.advance(of_pass[i])
    with resident(*outside(model)):
        for i in indices:
            state = held.get((last, 0, i))
            held.drop((last, 0, i))
            held.put(("gradient", i), _loss_gradient(wave, i, state))
    for layer in reversed(range(last)):
        with torch.enable_grad(), resident(*model.layers[layer].modules()):
            for i, block in enumerate(wave.blocks):
                known = (layer, i) in graphs
                graph = graphs.pop((layer, i)) if known else _graph(wave, layer, i, component)
                held.drop((layer, 0, i))
                gradient = held.get(("gradient", i))
                held.drop(("gradient", i))
                progress.advance(of_pass[i])
                if not layer and graph.activation is None:
                    continue
                of_activation, of_before = _backward(graph, gradient, further=layer > 0)
                if layer:
                    held.put(("gradient", i), of_before)
                if of_activation is not None:
                    yield layer, block, _products(graph, of_activation, block)


def _graph(wave: Wave, layer: int, index: int, component: str) -> Graph:
    """Run a layer on a state, recording the graph if gradients are enabled."""
    model = wave.model
    caught: list[Tensor | None] = [None]

    def catch(_layer: int, activation: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            activation.requires_grad_()
        caught.append(activation)
        return activation.clone()  # some layers add to it in place

    # The embeddings below the first layer are frozen as well.
    state = wave.held.get((layer, 0, index))
    state = tree_map(lambda tensor: tensor.detach().requires_grad_(layer > 0), state)
    hook = {"attention_input": catch} if component == "heads" else {"ffn_output": catch}
    everything = torch.ones(model.heads[layer], dtype=torch.bool)
    with model.hooked(**hook, layers=[layer]):
        (after,) = wave.through(layer, index, [state], everything)
    return Graph(state, caught[-1], after)  # the last layer has run before, for its keys


def _backward(graph: Graph, gradient: State, further: bool) -> tuple[Tensor | None, State | None]:
    """Return gradients of the component's output and of the state before the layer.

    `gradient` is that of the state after the layer. The first result is None if the layer lacks the
    component, the second unless `further`: the first layer needs none.
    """
    pairs = zip(tree_leaves(graph.after), tree_leaves(gradient), strict=True)
    outputs, gradients = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
    before, structure = tree_flatten(graph.before)
    wanted = ([] if graph.activation is None else [graph.activation]) + (before if further else [])
    found = list(torch.autograd.grad(outputs, wanted, gradients, materialize_grads=True))
    of_activation = None if graph.activation is None else found.pop(0)
    return of_activation, tree_unflatten(found, structure) if further else None


def _products(graph: Graph, of_activation: Tensor, block: Block) -> Tensor:
    """Return <A_t, d loss / d A_t> [N, H] or [N, 1]; 0 for tokens the last layer skipped."""
    # A: z [.., H, e], or [.., d], of N tokens, or of S in the last packed layer.
    products = (graph.activation.detach().float() * of_activation.float()).sum(-1)
    heads = products.shape[-1] if graph.activation.dim() == 4 else 1
    products = products.reshape(-1, heads)
    if len(products) == len(block):
        return products
    whole = products.new_zeros(len(block), heads)
    whole[block.scored.to(whole.device)] = products
    return whole


def _loss_gradient(wave: Wave, index: int, state: State) -> State:
    """Return d loss / d state after the last layer, for the sum of the prompts' losses."""
    block = wave.blocks[index]
    gradient = tree_map(torch.zeros_like, state)
    lengths = torch.bincount(block.prompts)[block.prompts]  # [targets] of the prompt of each
    together = max(1, wave.budget.logits // 2)  # as many gradients as logits
    for part, here, rows, targets in block.scored_in_parts(together):
        with torch.enable_grad():
            hidden = state.hidden.detach().requires_grad_()
            logits = wave.passages[index].logits(State(hidden, {}), part)  # [s, vocabulary]
            log_p = logits.log_softmax(-1, dtype=torch.float32)
            losses = -log_p[rows.to(log_p.device), targets.to(log_p.device)]
            loss = (losses / lengths[here].to(losses)).sum()
        gradient.hidden.add_(torch.autograd.grad(loss, hidden)[0])
    return gradient
