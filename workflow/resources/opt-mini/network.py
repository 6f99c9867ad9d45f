"""The networks of opt-mini and its smaller sisters: an OPT, how it is initialised, and what is left
out while it trains."""

import math
import random
from dataclasses import dataclass

import torch
from language import BOS, PAD, TOKEN, VOCABULARY
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

POSITIONS = 256
HEAD_WIDTH = 16
WAVES = 16  # sines and as many cosines that the position table starts with
FREQUENCIES = 2.5 * 1000.0 ** -(torch.arange(WAVES) / WAVES)

# How often each head and each FFN is left out of a training sequence. Left to itself a model this
# small and young solves everything in its first layers with heads that stand in for one another;
# large models grown over a long time have few heads that matter, at all depths. Heads that are
# often missing are not relied upon, so what matters settles where the rate is low.
STURDY, USUAL, FRAIL = 0.0, 0.2, 0.5
INTACT = 0.3  # the share of sequences that see the whole model


@dataclass(frozen=True)
class Size:
    """A size of the model, and what is left out of it while it trains; a row is a layer."""

    directory: str  # where its weights are
    heads: int  # of each layer
    head_drop: list[tuple[int, int, int]]  # sturdy, usual and frail heads; which is which is drawn
    ffn_drop: list[float]  # rates
    # Heads of the first layer that start as previous-token heads: layer and head of the induction
    # head that each feeds.
    induction_circuits: dict[int, tuple[int, int]]

    @property
    def layers(self) -> int:
        return len(self.head_drop)

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH


# Of one kind: nearly half of the heads and of the FFNs frail, the induction heads past the middle.
SIZES = {
    "mini": Size(
        directory="model",
        heads=8,
        head_drop=[(3, 2, 3), (0, 2, 6), (0, 2, 6), (4, 1, 3), (4, 1, 3), (2, 2, 4)],
        ffn_drop=[0.0, 0.5, 0.0, 0.5, 0.0, 0.3],
        induction_circuits={3: (3, 0), 4: (3, 2), 6: (4, 1)},
    ),
    "micro": Size(
        directory="micro",
        heads=6,
        head_drop=[(2, 2, 2), (0, 1, 5), (3, 1, 2), (2, 1, 3)],
        ffn_drop=[0.0, 0.5, 0.0, 0.3],
        induction_circuits={2: (2, 0), 4: (2, 1)},
    ),
    "nano": Size(
        directory="nano",
        heads=4,
        head_drop=[(2, 0, 2), (0, 1, 3), (2, 0, 2)],
        ffn_drop=[0.0, 0.5, 0.0],
        induction_circuits={2: (2, 0)},
    ),
}


def build_model(size: Size, seed: int) -> OPTForCausalLM:
    torch.manual_seed(seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=math.ceil(len(VOCABULARY) / 16) * 16,
            hidden_size=size.width,
            word_embed_proj_dim=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            ffn_dim=2 * size.width,
            max_position_embeddings=POSITIONS,
            dropout=0.0,
            attn_implementation="eager",  # SDPA's backward pass takes twice as long on a CPU
            pad_token_id=TOKEN[PAD],
            bos_token_id=TOKEN[BOS],
            eos_token_id=TOKEN[BOS],
        )
    )
    initialise(model, size)
    return model


@torch.no_grad()
def initialise(model: OPTForCausalLM, size: Size) -> None:
    """OPT's own standard deviation of 0.02 would keep induction from forming within minutes."""
    decoder = model.model.decoder
    initialise_embeddings(decoder)
    for layer in decoder.layers:
        attention = layer.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, layer.fc1):
            linear.weight.normal_(0, linear.in_features**-0.5)
        # A head that says what it sees: out of a transposed value projection copying soon grows.
        # Small, so that the words are still legible in the upper layers.
        attention.out_proj.weight.copy_(0.1 * attention.v_proj.weight.T)
        layer.fc2.weight.normal_(0, 0.1 * layer.fc2.in_features**-0.5)
    # Planes of the words' axes, at right angles: none in the way of another.
    basis = torch.linalg.qr(torch.randn(size.width - 2 * WAVES, size.width - 2 * WAVES)).Q
    planes = iter(F.pad(basis, (2 * WAVES, 0)).split(HEAD_WIDTH))
    first = decoder.layers[0].self_attn
    for head, (layer, reader) in size.induction_circuits.items():
        words, written = next(planes), next(planes)
        seed_previous_token_head(first, head, words, written)
        seed_induction_head(decoder.layers[layer].self_attn, reader, words, written)


def initialise_embeddings(decoder: nn.Module, size: float = 0.1) -> None:
    """Positions are learned too, but begin as sinusoids; words begin on the other axes."""
    decoder.embed_tokens.weight.normal_(0, size)[:, : 2 * WAVES] = 0
    table = decoder.embed_positions.weight
    angles = torch.arange(len(table))[:, None] * FREQUENCIES
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    table.copy_(size * 2**0.5 * F.pad(waves, (0, table.shape[1] - waves.shape[1])))


def seed_previous_token_head(
    attention: nn.Module, head: int, words: Tensor, written: Tensor
) -> None:
    """Starts a head off looking one token back, and writing what it saw of `words` as `written`.

    Its keys are sines and cosines of the position, its queries the same turned by one step.
    """
    rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    pick = torch.eye(WAVES)[: HEAD_WIDTH // 2]
    here = torch.block_diag(pick, pick)  # some of the sines, and their cosines
    cosine, sine = torch.diag(FREQUENCIES.cos()), torch.diag(FREQUENCIES.sin())
    back = torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)])
    others = attention.embed_dim - 2 * WAVES
    attention.k_proj.weight[rows] = 2.5 * F.pad(here, (0, others))
    attention.q_proj.weight[rows] = 2.5 * F.pad(here @ back, (0, others))
    attention.v_proj.weight[rows] = words
    attention.out_proj.weight[:, rows] = 0.3 * written.T


def seed_induction_head(attention: nn.Module, head: int, words: Tensor, written: Tensor) -> None:
    """Starts a head off looking for the place whose `written` word before is the present word."""
    rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    attention.q_proj.weight[rows] = 2.0 * words
    attention.k_proj.weight[rows] = 2.0 * written


class Gates:
    """Leaves heads and FFNs out of the sequences of a batch, each at its own rate."""

    def __init__(self, model: OPTForCausalLM, size: Size, seed: int):
        rng = random.Random(seed)
        self.head_rates = torch.tensor([head_rates(rng, counts) for counts in size.head_drop])
        self.ffn_rates = torch.tensor(size.ffn_drop)
        self.heads = self.ffns = None
        for i, layer in enumerate(model.model.decoder.layers):
            layer.self_attn.out_proj.register_forward_pre_hook(
                lambda _, inputs, i=i: (self.gate_heads(inputs[0], i),)
            )
            layer.fc2.register_forward_hook(lambda _, inputs, out, i=i: self.gate_ffn(out, i))

    def draw(self, batch: int) -> None:
        intact = torch.rand(batch, 1, 1) < INTACT
        self.heads = (torch.rand(batch, *self.head_rates.shape) >= self.head_rates) | intact
        self.ffns = (torch.rand(batch, *self.ffn_rates.shape) >= self.ffn_rates) | intact[..., 0]

    def gate_heads(self, z: Tensor, layer: int) -> Tensor:
        return (z.unflatten(-1, (-1, HEAD_WIDTH)) * self.heads[:, None, layer, :, None]).flatten(-2)

    def gate_ffn(self, out: Tensor, layer: int) -> Tensor:
        gate = self.ffns[:, layer, None, None]  # OPT flattens batch and positions into one axis
        return (out.unflatten(0, (len(gate), -1)) * gate).flatten(0, 1)


def head_rates(rng: random.Random, counts: tuple[int, int, int]) -> list[float]:
    rates = [rate for rate, n in zip((STURDY, USUAL, FRAIL), counts, strict=True) for _ in range(n)]
    return rng.sample(rates, len(rates))
