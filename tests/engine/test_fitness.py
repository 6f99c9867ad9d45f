"""Models whose numbers would not be their own are refused by name, wherever one asks for them."""

import polars as pl
import pytest
import tiny
import zoo
from plain import random_prompts
from torch import nn
from torch.nn import functional as F

import headcount as hc
from headcount.engine import ablation
from headcount.interop.lm_eval_model import HeadcountLM
from headcount.models.families import ModelError
from headcount.models.language_model import LanguageModel
from headcount.scores import induction
from headcount.verification import verdict

pytestmark = pytest.mark.numerical

PAIRS = [("w1 w2 w3", "w4 w5")]


class Bypassed(nn.Linear):
    """A projection whose weights are used, and which is not called: no hook and no `forward`."""

    def __call__(self, hidden):
        return F.linear(hidden, self.weight, self.bias)


def bidirectional():
    return LanguageModel(zoo.build("qwen3", is_causal=False), tiny.tokenizer())


def routed_across_tokens():
    return LanguageModel(zoo.build("doge", is_moe=True), tiny.tokenizer())


def sliced():
    hf = zoo.build("bloom", slow_but_exact=True, pretraining_tp=2)
    settled = type(hf)(hf.config)  # which reads both settings when it is made
    settled.load_state_dict(hf.state_dict())
    return LanguageModel(settled, tiny.tokenizer())


def bypassed_heads():
    model = LanguageModel(zoo.build("mistral"), tiny.tokenizer())
    model.parts[0].attention_output.__class__ = Bypassed
    return model


def bypassed_unembedding():
    model = LanguageModel(zoo.build("lfm2"), tiny.tokenizer())
    model.hf.get_output_embeddings().__class__ = Bypassed
    return model


REFUSALS = {
    bidirectional: r"Qwen3ForCausalLM \(qwen3\) is not causal: the result of layer 0",
    routed_across_tokens: r"DogeForCausalLM \(doge\) is not causal: the result of layer 0",
    sliced: r"BloomForCausalLM \(bloom\): self_attention.dense of layer 0 is called 0 times",
    bypassed_heads: r"\(mistral\): self_attn.o_proj of layer 0 is called 0 times",
    bypassed_unembedding: r"\(lfm2\): the unembedding is called 0 times",
}
ASKING = {
    "prune": lambda model: hc.prune(model, PAIRS, ffns=all_ffns(model), levels=[50]),
    "gradients": lambda model: hc.score(model, PAIRS, "ffns"),
    "oracle": lambda model: hc.score(model, PAIRS, "ffns", "oracle-loss"),
    "verify": verdict.verify,
    "prefix matching": lambda model: induction.prefix_matching(model, 2, seed=0),
    "copying": lambda model: induction.copying(model, 2, seed=0),
    "stand-ins": lambda model: ablation.fit(model, random_prompts(2), "mean", seed=0),
}


def all_ffns(model):
    scores = [(layer, None, 1.0) for layer in model.ffns]
    schema = {"layer": pl.Int32, "head": pl.Int32, "score": pl.Float64}
    return pl.DataFrame(scores, schema=schema, orient="row")


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("unfit", REFUSALS, ids=lambda unfit: unfit.__name__)
def test_a_model_whose_numbers_would_be_wrong_is_refused_by_name(unfit, ask):
    with pytest.raises(ModelError, match=REFUSALS[unfit]):
        ASKING[ask](unfit())


@pytest.mark.parametrize("unfit", [bidirectional, sliced], ids=lambda unfit: unfit.__name__)
def test_lm_eval_is_given_no_such_model(unfit):
    with pytest.raises(ModelError, match=REFUSALS[unfit]):
        HeadcountLM(unfit().hf, tokenizer=tiny.tokenizer())
