"""Induction scores against patterns worked out by hand and plain loops over model and tokens."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import numpy as np
import polars as pl
import pytest
import rounding
import tiny
import torch
import zoo
from transformers import OPTConfig, OPTForCausalLM

from headcount.artifacts import schemas, storage
from headcount.engine import fitness
from headcount.models import language_model, loading
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel, ordinary_tokens
from headcount.scores import induction

pytestmark = pytest.mark.numerical

SEQUENCES, SEED = 3, 5


# --- prefix matching of a pattern ---


def following(tokens: list[int]) -> list[list[int]]:
    """For each position, those that follow an earlier occurrence of its token."""
    return [
        [k + 1 for k in range(q) if tokens[k] == tokens[q]]  # the definition, by the tokens alone
        for q in range(len(tokens))
    ]


@pytest.mark.parametrize("offset", [0, 1])
def test_a_perfect_induction_head_scores_one_and_a_previous_token_head_none(offset):
    tokens = [99] * offset + [3, 1, 4, 5, 9] * 4
    T = len(tokens)
    attention = torch.zeros(3, T, T)
    for q, keys in enumerate(following(tokens)):
        attention[0, q, keys or [0]] = 1 / max(len(keys), 1)  # shared by all earlier occurrences
        attention[1, q, (keys or [0])[-1]] = 1  # the most recent only
        attention[2, q, max(q - 1, 0)] = 1  # the previous token
    score = induction.prefix_matching_score(attention, 5, 4, offset)
    # A sum over at most T tokens, a mean over fewer positions.
    assert score.tolist() == pytest.approx([1, 1, 0], rel=rounding.gamma(2 * T))


@pytest.mark.parametrize("offset", [0, 1])
def test_a_uniform_head_scores_the_share_of_positions_that_follow(offset):
    tokens = [99] * offset + [3, 1, 4, 5, 9, 2] * 4
    T = len(tokens)
    uniform = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    expected = np.mean([len(following(tokens)[q]) / (q + 1) for q in range(offset + 6, T)])
    score = induction.prefix_matching_score(uniform[None], 6, 4, offset)
    assert score.item() == pytest.approx(expected, rel=rounding.gamma(2 * T + 1))


# --- copying of logits ---


def plain_copying(logits, attended: list[int]) -> float:
    """Copying score of one head; row t holds what it adds to the logits of tokens 0 to t."""
    shares = []
    for t in range(1, len(attended)):
        context = [float(logits[t][s]) for s in range(t + 1)]
        mean = sum(context) / len(context)
        raised = [max(value - mean, 0) for value in context]
        shares.append(raised[attended[t]] / sum(raised) if sum(raised) else 0)
    return sum(shares) / len(shares)


def test_copying_of_logits_worked_out_by_hand():
    #                  t = 1: mean 1, raised 1, 0      t = 2: mean 2, raised 0, 1, 3
    logits = torch.tensor([[[7.0, 0, 0], [2, 0, 50], [-2, 3, 5]]])
    score = induction.copying_score(logits, torch.tensor([[0, 0, 1]]))
    assert score.item() == (1 + 1 / 4) / 2


def test_a_head_that_raises_nothing_copies_nothing():
    score = induction.copying_score(torch.ones(1, 4, 4), torch.zeros(1, 4, dtype=torch.long))
    assert score.item() == 0


def test_copying_of_random_logits_is_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-9, 10, (3, 9, 9), generator=generator).float()
    attention = torch.rand(3, 9, 9, generator=generator).tril()
    score = induction.copying_score(logits, attention.argmax(-1))
    expected = [plain_copying(logits[h], attention[h].argmax(-1).tolist()) for h in range(3)]
    # Sums of whole numbers are exact. Rounding a mean of at most 9 is no more than 81 units of what
    # it is subtracted from, which is a ninth at least; sum, share and mean over positions follow.
    assert score.tolist() == pytest.approx(expected, rel=rounding.gamma(2 * 81 + 9 + 1 + 9))


# --- random tokens ---


def test_ordinary_tokens_are_neither_special_nor_at_the_ends():
    found = ordinary_tokens(tiny.tokenizer(), exclude_fraction=0.1)
    ordinary = [i for i in range(len(tiny.VOCABULARY)) if i not in (0, 1, 2)]  # unk, pad, eos
    assert found.tolist() == ordinary[4:-4]


def test_sequences_are_repeated_distinct_and_seeded(opt):
    first, again, other = (
        inputs(opt, induction.prefix_matching, SEQUENCES, seed) for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again != other
    length = (opt.window - 1) // 4  # 25 tokens four times do not fit
    for tokens in first:
        sequence = tokens[1 : 1 + length]
        assert tokens == [2] + sequence * 4 and len(set(sequence)) == length
    assert inputs(opt, induction.prefix_matching, SEQUENCES + 2, SEED)[:SEQUENCES] == first
    for tokens in inputs(opt, induction.copying, SEQUENCES, SEED):
        assert len(set(tokens)) == len(tokens) == 1 + len(ordinary_tokens(opt.tokenizer, 0.04))


def test_lengths_rise_by_two_where_the_window_allows():
    wide = LanguageModel(OPTForCausalLM(copying_config(positions=400)), tiny.tokenizer())
    prefix = inputs(wide, induction.prefix_matching, 4, SEED)
    assert [len(tokens) for tokens in prefix] == [1 + 4 * n for n in (25, 27, 29, 31)]


# --- models ---


def inputs(model: LanguageModel, function, sequences: int, seed: int, **options) -> list[list[int]]:
    """The token sequences that `function` runs the model on."""
    seen = []

    def keep(_module, arguments):
        if arguments[0].shape[1] > fitness.LENGTH:  # not by which a model is looked at
            seen.append(arguments[0][0].tolist())

    handle = model.hf.get_input_embeddings().register_forward_pre_hook(keep)
    try:
        function(model, sequences, seed, **options)
    finally:
        handle.remove()
    return seen


@contextmanager
def eager(model: LanguageModel):
    implementation = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    yield
    model.hf.set_attn_implementation(implementation)


def patterns(model: LanguageModel, tokens: list[int]) -> list[torch.Tensor]:
    """Attention [H, T, T] of every layer, by transformers' own output."""
    with eager(model), torch.no_grad():
        output = model.hf(torch.tensor([tokens]), output_attentions=True, use_cache=False)
    return [attention[0] for attention in output.attentions]


def head_outputs(projection, inputs: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Output [T, d] of each head: the projection of its slice alone, less its bias."""
    outputs = []
    for h in range(heads):
        alone = torch.zeros_like(inputs)
        part = slice(h * inputs.shape[-1] // heads, (h + 1) * inputs.shape[-1] // heads)
        alone[:, part] = inputs[:, part]
        outputs.append(projection(alone) - projection(torch.zeros_like(inputs)))
    return outputs


def check(found: pl.DataFrame, plain: Callable, model: LanguageModel) -> None:
    """`plain(model)` has the scores of each sequence, heads in the order (layer, head)."""
    expected = plain(model)
    by_rounding = rounding.bound(model, plain)
    pairs = [(i, h) for i, H in enumerate(model.heads) for h in range(H)]
    assert found.select("layer", "head").rows() == pairs
    assert found["score"].to_list() == pytest.approx(np.mean(expected, 0), abs=by_rounding)
    error = np.std(expected, 0, ddof=1) / len(expected) ** 0.5  # moves by no more than the scores
    assert found["standard_error"].to_list() == pytest.approx(error, abs=by_rounding)
    assert found["n"].to_list() == [len(expected)] * len(pairs)


def test_prefix_matching_is_a_plain_loop_over_attention(model):
    sequences = inputs(model, induction.prefix_matching, SEQUENCES, SEED)

    def plain(model):
        expected = []
        for tokens in sequences:
            length = (len(tokens) - 1) // 4
            queries, keys = range(1 + length, len(tokens)), following(tokens)
            expected.append(
                [
                    np.mean([attention[h, q, keys[q]].sum().item() for q in queries])
                    for attention in patterns(model, tokens)
                    for h in range(model.heads[0])
                ]
            )
        return expected

    check(induction.prefix_matching(model, SEQUENCES, SEED), plain, model)


# The final norm, or what OPT-350m has instead, by its name in transformers.
BETWEEN = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"), "model.norm"),
    **{"gemma3_text": "model.norm", "phi": "model.final_layernorm", "gpt2": "transformer.ln_f"},
    **{"gpt_neox": "gpt_neox.final_layer_norm", "opt": "model.decoder.final_layer_norm"},
    **{"xglm": "model.layer_norm", "biogpt": "biogpt.layer_norm", "mpt": "transformer.norm_f"},
}


def between(model: LanguageModel) -> torch.nn.Module:
    """What OPT-350m, or another model, puts between its last layer and the unembedding."""
    path = BETWEEN[model.hf.config.model_type]
    before = getattr(model.hf.config, "do_layer_norm_before", True)
    return model.hf.get_submodule(path if before else "model.decoder.project_out")


@pytest.mark.parametrize("model_type", ["xglm", "biogpt", "mpt"])
def test_copying_goes_through_a_final_norm_of_any_name(model_type):
    model = LanguageModel(zoo.build(model_type), tiny.tokenizer())
    with torch.no_grad():
        between(model).weight.normal_(1, 0.5)
    model.window = 64
    sequences = inputs(model, induction.copying, SEQUENCES, SEED)
    found = induction.copying(model, SEQUENCES, SEED)["score"].to_numpy()
    expected = np.mean(plain_copying_of_heads(model, sequences), axis=0)
    assert found == pytest.approx(expected, abs=1e-4)
    without = LanguageModel(model.hf, model.tokenizer)
    with language_model.replaced({between(model): lambda hidden: hidden}):
        bare = np.mean(plain_copying_of_heads(without, sequences), axis=0)
    assert abs(bare - expected).max() > 1e-3  # it matters


@pytest.mark.parametrize(
    "model_type", ["lfm2", "modernbert-decoder", "minicpm3", "recurrent_gemma"]
)
def test_the_final_norm_is_what_the_model_does_with_its_last_state(model_type):
    """By a forward pass of the unmodified model whose last layer leaves another state."""
    model = LanguageModel(zoo.build(model_type), tiny.tokenizer())
    state = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    read = []
    hooks = [
        model.layers[-1].register_forward_hook(
            lambda _m, _i, out: (state, *out[1:]) if isinstance(out, tuple) else state
        ),
        model.hf.get_output_embeddings().register_forward_pre_hook(
            lambda _m, inputs: read.append(inputs[0])
        ),
    ]
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([[2, 9, 4, 7, 5]]), use_cache=False)
        for hook in hooks:
            hook.remove()
        found = induction.final_norm(model)(state)
    factor = (read[0].norm() / found.norm()).item()  # MiniCPM divides by a constant
    torch.testing.assert_close(factor * found, read[0], atol=1e-4, rtol=1e-4)
    assert (found - state).norm() > 0.1 * state.norm()


def test_copying_is_refused_where_streams_are_mixed_before_the_unembedding():
    model = LanguageModel(zoo.build("qwen4_exp_text"), tiny.tokenizer())
    with pytest.raises(ModelError, match=r"\(qwen4_exp_text\): what lies between the last layer"):
        induction.copying(model, SEQUENCES, SEED)


def test_copying_is_a_plain_loop_over_heads(model):
    sequences = inputs(model, induction.copying, SEQUENCES, SEED)
    plain = partial(plain_copying_of_heads, sequences=sequences)
    check(induction.copying(model, SEQUENCES, SEED), plain, model)


def plain_copying_of_heads(model: LanguageModel, sequences: list[list[int]]) -> list[list[float]]:
    expected = []
    for tokens in sequences:
        z, scores = {}, []
        hooks = [
            projection.register_forward_pre_hook(
                lambda _, args, z=z, i=i: z.update({i: args[0][0]})
            )
            for i, projection in enumerate(part.attention_output for part in model.parts)
        ]
        attentions = patterns(model, tokens)
        for hook in hooks:
            hook.remove()
        for i, projection in enumerate(part.attention_output for part in model.parts):
            for h, output in enumerate(head_outputs(projection, z[i], model.heads[i])):
                unembedding = model.hf.get_output_embeddings().weight  # without a bias, as of Phi
                logits = between(model)(output) @ unembedding.T
                context = logits[1:, tokens[1:]]  # BOS, at position 0, is no candidate
                attended = attentions[i][h, 1:, 1:].argmax(-1).tolist()
                scores.append(plain_copying(context, attended))
        expected.append(scores)
    return expected


def test_the_variant_embedding_is_the_code_of_the_paper(opt):
    """Every layer on the embeddings; the current position's value; softmax, without final norm."""
    seen = inputs(opt, induction.copying, SEQUENCES, SEED, variant="embedding")[::2]  # two passes
    found = induction.copying(opt, SEQUENCES, SEED, variant="embedding")
    check(found, partial(plain_copying_of_embeddings, sequences=seen), opt)


@torch.no_grad()
def plain_copying_of_embeddings(
    opt: LanguageModel, sequences: list[list[int]]
) -> list[list[float]]:
    decoder = opt.hf.model.decoder
    expected = []
    for tokens in sequences:
        ids = torch.tensor([tokens])
        embeddings = decoder.embed_tokens(ids)
        embeddings = embeddings + decoder.embed_positions(torch.ones_like(ids), 0)
        causal = torch.full((len(tokens),) * 2, float("-inf")).triu(1)[None, None]
        scores = []
        for layer in decoder.layers:
            hidden = layer.self_attn_layer_norm(embeddings)
            with eager(opt):
                attention = layer.self_attn(hidden, attention_mask=causal)[1][0]
            value = layer.self_attn.v_proj(hidden)[0]
            outputs = head_outputs(layer.self_attn.out_proj, value, opt.heads[0])
            for h, output in enumerate(outputs):
                probabilities = opt.hf.lm_head(output).softmax(-1)[:, tokens]
                scores.append(plain_copying(probabilities, attention[h].argmax(-1).tolist()))
        expected.append(scores)
    return expected


def test_the_variant_embedding_runs_on_every_family(model):
    found = induction.copying(model, SEQUENCES, SEED, variant="embedding")
    assert found["score"].is_between(0, 1).all() and found["score"].max() > 0


def copying_config(positions: int) -> OPTConfig:
    return OPTConfig(
        **tiny.SIZE,
        hidden_size=96,
        word_embed_proj_dim=96,
        ffn_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )


def test_a_head_that_copies_scores_one_and_one_that_suppresses_none():
    """Two heads that attend to their own token: the first raises its logit, the second lowers it.

    Token i is the i-th unit vector, so that a head of width 48 can carry all 48 tokens.
    """
    model = LanguageModel(OPTForCausalLM(copying_config(positions=100)), tiny.tokenizer())
    size, half = len(tiny.VOCABULARY), 48
    assert size <= half
    decoder = model.hf.model.decoder
    attention = decoder.layers[0].self_attn
    with torch.no_grad():
        for parameter in decoder.layers[0].parameters():
            parameter.zero_()
        decoder.layers[0].self_attn_layer_norm.weight.fill_(1)
        decoder.embed_positions.weight.zero_()
        decoder.embed_tokens.weight.zero_()
        decoder.embed_tokens.weight[range(size), range(size)] = 1
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            for h in range(2):
                projection.weight[range(h * half, (h + 1) * half), range(half)] = 3
        attention.out_proj.weight[range(half), range(half)] = 1  # head 0
        attention.out_proj.weight[range(half), range(half, 2 * half)] = -1  # head 1
    scores = induction.copying(model, 2, SEED)["score"].to_list()
    assert scores == [1, 0]  # nothing but the token itself is above the mean, or below it


def test_scores_are_artifacts(opt, tmp_path):
    for function in (induction.prefix_matching, induction.copying):
        found = function(opt, SEQUENCES, SEED)
        path = tmp_path / "i.parquet"
        storage.write(path, found.to_arrow(), schemas.ROWS["induction"], {})
        assert pl.read_parquet(path).rows() == found.rows()


def test_the_model_is_left_as_it_was(opt):
    tokens = torch.arange(3, 20)[None]
    before = opt.hf(tokens).logits
    induction.prefix_matching(opt, 2, SEED)
    induction.copying(opt, 2, SEED, variant="embedding")
    assert opt.hf.config._attn_implementation == "sdpa"
    assert torch.equal(opt.hf(tokens).logits, before)


def test_scores_that_are_not_finite_name_model_and_layer(checkpoint):

    broken = loading.load(checkpoint)
    broken.hf.model.decoder.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    for function in (induction.prefix_matching, induction.copying):
        with pytest.raises(FloatingPointError, match=rf"{checkpoint.name}.*layer 1"):
            function(broken, 2, SEED)


def test_what_cannot_be_done_is_refused(opt):
    with pytest.raises(ValueError, match="variant 'embeddings'"):
        induction.copying(opt, 2, SEED, variant="embeddings")
    with pytest.raises(ValueError, match="at least 2"):
        induction.prefix_matching(opt, 1, SEED)
    with pytest.raises(ValueError, match="too few to repeat"):
        induction.prefix_matching(opt, 2, SEED, exclude_fraction=0.5)
