"""Idea 5, gradients without weight gradients: of the loss with respect to components' outputs.

The parameters are frozen, the graph of a layer begins at the hidden states that enter it. It is
kept until the backward pass where memory allows; else the layer's input alone is kept, and the
layer is computed once more. So a model that streams from disk is read twice, forward and backward.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headcount.model import LanguageModel, Prompt
from headcount.sweep.attention import packed
from headcount.sweep.layers import Passage, is_offloaded, leave, outside, resident, through
from headcount.sweep.memory import Budget
from headcount.sweep.states import States
from headcount.sweep.trie import Block, blocks


@dataclass
class Graph:
    """One layer's computation of one block, from hidden states [1, N, d] to hidden states."""

    hidden: Tensor  # before the layer
    activation: Tensor  # the component's output: z [1, N, H, e], or what the FFN adds
    out: Tensor  # after the layer


def gate_gradients(
    model: LanguageModel, prompts: Sequence[Prompt], component: str
) -> Iterator[tuple[int, Block, Tensor]]:
    """<A_t, d loss / d A_t>, the derivative of the loss by a gate on each component's output.

    loss(y|x) = -(1/|y|) sum_j log p(y_j | x, y_<j) of each prompt. A is z of each head
    (`component="heads"`) or what each FFN adds to the residual stream ("ffns"). Prompts are packed
    without sharing. Yields (layer, block, products [N, H] or [N, 1], float32).
    """
    budget = Budget.of(model)
    longest = max(len(prompt.tokens) for prompt in prompts)
    streams = is_offloaded(model)
    keep = not streams and longest <= budget.graph_rows
    # A backward pass holds a gradient beside each activation.
    rows = budget.graph_rows if keep else max(1, budget.rows // 2)
    packing = blocks(prompts, rows, share=False)
    with packed(model):
        for wave in [packing] if streams else [[block] for block in packing]:
            with States(budget.states) as held:
                yield from _wave(model, wave, component, keep, held, budget)


def _wave(
    model: LanguageModel,
    wave: list[Block],
    component: str,
    keep: bool,
    held: States,
    budget: Budget,
) -> Iterator[tuple[int, Block, Tensor]]:
    """Forward, loss, backward, each layer by layer."""
    passages: list[Passage] = []
    graphs: dict[tuple[int, int], Graph] = {}
    last = model.num_layers
    with torch.no_grad(), resident(*outside(model)):
        for i, block in enumerate(wave):
            hidden, passage = Passage.begin(model, block)
            held.put((0, i), hidden)
            passages.append(passage)
    for layer in range(last):
        with torch.set_grad_enabled(keep), resident(*model.layers[layer].modules()):
            for i, passage in enumerate(passages):
                hidden = held.get((layer, i)).view(-1, model.d_model)
                graph = _graph(model, layer, hidden, passage, component)
                held.put((layer + 1, i), graph.out[0].detach())
                if keep:
                    graphs[layer, i] = graph
    with resident(*outside(model)):
        for i, block in enumerate(wave):
            hidden = held.get((last, i)).view(-1, model.d_model)  # [S, d]
            held.drop((last, i))
            held.put(("gradient", i), _loss_gradient(model, hidden, block, budget))
    for layer in reversed(range(last)):
        with torch.enable_grad(), resident(*model.layers[layer].modules()):
            for i, block in enumerate(wave):
                hidden = held.get((layer, i)).view(-1, model.d_model)
                graph = graphs.pop((layer, i), None)
                graph = graph or _graph(model, layer, hidden, passages[i], component)
                gradient = held.get(("gradient", i)).view_as(graph.out)
                held.drop(("gradient", i))
                held.drop((layer, i))
                wanted = [graph.activation, graph.hidden] if layer else [graph.activation]
                of_activation, *of_hidden = torch.autograd.grad(graph.out, wanted, gradient)
                if layer:
                    held.put(("gradient", i), of_hidden[0][0])
                yield layer, block, _products(graph, of_activation, passages[i])


def _graph(
    model: LanguageModel, layer: int, hidden: Tensor, passage: Passage, component: str
) -> Graph:
    """Run a layer on hidden states [N, d]; with gradients enabled, remember how."""
    caught: list[Tensor] = []

    def catch(_layer: int, activation: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            activation.requires_grad_()
        caught.append(activation)
        return activation

    # The embeddings below the first layer are frozen as well.
    hidden = hidden[None].detach().requires_grad_(layer > 0)  # [1, N, d]
    hook = {"attention_input": catch} if component == "heads" else {"ffn_output": catch}
    everything = torch.ones(model.num_heads, dtype=torch.bool)
    with model.hooked(**hook, layers=[layer]):
        out = through(model, layer, hidden, passage, everything, ffn=True)
    return Graph(hidden, caught[0], out)


def _products(graph: Graph, of_activation: Tensor, passage: Passage) -> Tensor:
    """<A_t, d loss / d A_t> [N, H] or [N, 1]; zero where the last layer was not computed."""
    # A: z [1, N, H, e], or [1, N, d], which OPT flattens; in the last layer S instead of N.
    products = (graph.activation.detach().float() * of_activation.float()).sum(-1)
    products = products.reshape(graph.out.shape[1], -1)
    whole = products.new_zeros(len(passage.block), products.shape[1])
    tokens = slice(None) if len(whole) == len(products) else passage.block.scored.to(whole.device)
    whole[tokens] = products
    return whole


def _loss_gradient(model: LanguageModel, hidden: Tensor, block: Block, budget: Budget) -> Tensor:
    """d loss / d hidden [S, d] after the last layer, of the sum of the prompts' losses."""
    gradient = torch.zeros_like(hidden)
    lengths = torch.bincount(block.prompts)[block.prompts]  # [targets] of the prompt of each
    together = max(1, budget.logits // 2)  # logits, and as many gradients
    for part, here, rows, targets in block.scored_in_parts(together):
        with torch.enable_grad():
            scored = hidden[part].detach().requires_grad_()  # [s, d]
            log_p = leave(model, scored).log_softmax(-1, dtype=torch.float32)  # [s, vocabulary]
            losses = -log_p[rows.to(log_p.device), targets.to(log_p.device)]
            loss = (losses / lengths[here].to(losses)).sum()
        gradient[part] = torch.autograd.grad(loss, scored)[0]
    return gradient
