"""The network of opt-mini: an OPT, how it is initialised, and what is left out while it trains."""

import math
import random

import torch
from language import BOS, PAD, TOKEN, VOCABULARY
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

LAYERS, HEADS, WIDTH, FFN_WIDTH, POSITIONS = 6, 8, 128, 256, 256
WAVES = 16  # sines and as many cosines that the position table starts with
FREQUENCIES = 2.5 * 1000.0 ** -(torch.arange(WAVES) / WAVES)

# How often each head and each FFN is left out of a training sequence. Left to itself a model this
# small and young solves everything in its first layers with heads that stand in for one another;
# large models grown over a long time have few heads that matter, at all depths. Heads that are
# often missing are not relied upon, so what matters settles where the rate is low.
STURDY, USUAL, FRAIL = 0.0, 0.2, 0.5
HEAD_DROP = [  # sturdy, usual and frail heads of each layer; which is which is drawn
    (3, 2, 3),
    (0, 2, 6),
    (0, 2, 6),
    (4, 1, 3),
    (4, 1, 3),
    (2, 2, 4),
]
FFN_DROP = [0.0, 0.5, 0.0, 0.5, 0.0, 0.3]
# Heads of the first layer that start as previous-token heads, and the induction heads they feed.
INDUCTION_CIRCUITS = {3: (3, 0), 4: (3, 2), 6: (4, 1)}
INTACT = 0.3  # the share of sequences that see the whole model


def build_model(seed: int) -> OPTForCausalLM:
    torch.manual_seed(seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=math.ceil(len(VOCABULARY) / 16) * 16,
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            ffn_dim=FFN_WIDTH,
            max_position_embeddings=POSITIONS,
            dropout=0.0,
            attn_implementation="eager",  # SDPA's backward pass takes twice as long on a CPU
            pad_token_id=TOKEN[PAD],
            bos_token_id=TOKEN[BOS],
            eos_token_id=TOKEN[BOS],
        )
    )
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: OPTForCausalLM) -> None:
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
    basis = torch.linalg.qr(torch.randn(WIDTH - 2 * WAVES, WIDTH - 2 * WAVES)).Q
    planes = iter(F.pad(basis, (2 * WAVES, 0)).split(WIDTH // HEADS))
    first = decoder.layers[0].self_attn
    for head, (layer, reader) in INDUCTION_CIRCUITS.items():
        words, written = next(planes), next(planes)
        seed_previous_token_head(first, head, words, written)
        seed_induction_head(decoder.layers[layer].self_attn, reader, words, written)


def initialise_embeddings(decoder: nn.Module, size: float = 0.1) -> None:
    """Positions are learned too, but begin as sinusoids; words begin on the other axes."""
    decoder.embed_tokens.weight.normal_(0, size)[:, : 2 * WAVES] = 0
    table = decoder.embed_positions.weight
    angles = torch.arange(len(table))[:, None] * FREQUENCIES
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    table.copy_(size * 2**0.5 * F.pad(waves, (0, WIDTH - waves.shape[1])))


def seed_previous_token_head(
    attention: nn.Module, head: int, words: Tensor, written: Tensor
) -> None:
    """Starts a head off looking one token back, and writing what it saw of `words` as `written`.

    Its keys are sines and cosines of the position, its queries the same turned by one step.
    """
    size = WIDTH // HEADS
    rows = slice(head * size, (head + 1) * size)
    pick = torch.eye(WAVES)[: size // 2]
    here = torch.block_diag(pick, pick)  # some of the sines, and their cosines
    cosine, sine = torch.diag(FREQUENCIES.cos()), torch.diag(FREQUENCIES.sin())
    back = torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)])
    attention.k_proj.weight[rows] = 2.5 * F.pad(here, (0, WIDTH - 2 * WAVES))
    attention.q_proj.weight[rows] = 2.5 * F.pad(here @ back, (0, WIDTH - 2 * WAVES))
    attention.v_proj.weight[rows] = words
    attention.out_proj.weight[:, rows] = 0.3 * written.T


def seed_induction_head(attention: nn.Module, head: int, words: Tensor, written: Tensor) -> None:
    """Starts a head off looking for the place whose `written` word before is the present word."""
    size = WIDTH // HEADS
    rows = slice(head * size, (head + 1) * size)
    attention.q_proj.weight[rows] = 2.0 * words
    attention.k_proj.weight[rows] = 2.0 * written


class Gates:
    """Leaves heads and FFNs out of the sequences of a batch, each at its own rate."""

    def __init__(self, model: OPTForCausalLM, seed: int):
        rng = random.Random(seed)
        self.rates = torch.tensor([head_rates(rng, counts) for counts in HEAD_DROP])
        self.heads = self.ffns = None
        for i, layer in enumerate(model.model.decoder.layers):
            layer.self_attn.out_proj.register_forward_pre_hook(
                lambda _, inputs, i=i: (self.gate_heads(inputs[0], i),)
            )
            layer.fc2.register_forward_hook(lambda _, inputs, out, i=i: self.gate_ffn(out, i))

    def draw(self, batch: int) -> None:
        intact = torch.rand(batch, 1, 1) < INTACT
        self.heads = (torch.rand(batch, LAYERS, HEADS) >= self.rates) | intact
        self.ffns = (torch.rand(batch, LAYERS) >= torch.tensor(FFN_DROP)) | intact[..., 0]

    def gate_heads(self, z: Tensor, layer: int) -> Tensor:
        return (z.unflatten(-1, (HEADS, -1)) * self.heads[:, None, layer, :, None]).flatten(-2)

    def gate_ffn(self, out: Tensor, layer: int) -> Tensor:
        gate = self.ffns[:, layer, None, None]  # OPT flattens batch and positions into one axis
        return (out.unflatten(0, (len(gate), -1)) * gate).flatten(0, 1)


def head_rates(rng: random.Random, counts: tuple[int, int, int]) -> list[float]:
    rates = [rate for rate, n in zip((STURDY, USUAL, FRAIL), counts, strict=True) for _ in range(n)]
    return rng.sample(rates, len(rates))
