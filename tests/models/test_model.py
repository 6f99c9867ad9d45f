"""Heads and FFNs are found, and removing one is what zeroing the weights by hand is."""

import pytest
import tiny
from lm_eval.api.instance import Instance
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM, OPTConfig, T5Config

import headcount as hc
from headcount.interop.lm_eval_model import HeadcountLM
from headcount.models import language_model, loading
from headcount.tasks.files import TaskError


def small(config):
    return AutoModelForCausalLM.from_config(config)


def test_a_model_without_attention_is_refused_with_what_was_looked_for():
    config = AutoConfig.for_model(
        "mamba", vocab_size=48, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    with pytest.raises(language_model.ModelError, match=r"looked for .*self_attn\.o_proj"):
        language_model.LanguageModel(small(config), tiny.tokenizer())


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(vocab_size=48, d_model=32, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(language_model.ModelError, match="T5"):
        loading.resolve(str(tmp_path), None, None, tmp_path)


def test_resolve_describes_a_local_checkpoint_without_loading_weights(checkpoint, tmp_path):
    facts = loading.resolve(str(checkpoint), None, None, tmp_path)
    assert (facts["layers"], facts["heads"], facts["ffns"]) == (3, [4, 4, 4], [0, 1, 2])
    assert facts["architecture"] == "OPTForCausalLM"
    assert facts["path"] == str(checkpoint)


def test_a_source_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(language_model.ModelError, match="no/such-model"):
        loading.resolve("no/such-model", None, None, tmp_path)


def test_a_directory_that_holds_no_model_is_named(tmp_path):
    OPTConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(language_model.ModelError, match=str(tmp_path)):
        loading.load(tmp_path)


def test_a_user_may_say_where_heads_and_ffns_are(checkpoint):
    named = {"attention_output": "self_attn.out_proj", "ffn_output": "fc2"}
    model, found = loading.load(checkpoint, layout=named), loading.load(checkpoint)
    assert (model.heads, model.ffns) == (found.heads, found.ffns) == ([4, 4, 4], [0, 1, 2])
    for name in named:
        with pytest.raises(language_model.ModelError, match="looked for nowhere"):
            loading.load(checkpoint, layout=named | {name: "nowhere.proj"})


@pytest.fixture(scope="module")
def without_bos(checkpoint):
    """The tiny OPT with a tokenizer that begins no sequence with a token of its own."""
    model = loading.load(checkpoint)
    model.tokenizer = tiny.tokenizer()
    model.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    return model


@pytest.mark.parametrize("context", ["\n", " \t ", "   "])
def test_a_context_of_white_space_predicts_nothing(without_bos, context):
    """lm-eval counts it to the continuation, and stops with an AssertionError."""
    pairs = [("w1 w2", " w3"), ("", "w3"), (context, "w3 w4")]
    assert [len(prompt.tokens) for prompt in without_bos.encode(pairs[:2])] == [2, 1]
    with pytest.raises(language_model.PromptError, match="the context has no tokens") as refusal:
        without_bos.encode(pairs)
    assert refusal.value.index == 2
    for estimator in ("gradient-token", "oracle-loss"):
        with pytest.raises(language_model.PromptError, match="the context has no tokens"):
            hc.score(without_bos, pairs, "ffns", estimator)
    asked = [Instance("loglikelihood", {}, pair, i, ("piqa", 7, 1)) for i, pair in enumerate(pairs)]
    model = HeadcountLM(without_bos.hf, tokenizer=without_bos.tokenizer)
    with pytest.raises(TaskError, match="piqa, evaluation document 7, choice 2: the context has"):
        model.loglikelihood(asked)


def test_a_tokenizer_with_bos_makes_a_context_of_white_space(checkpoint):
    model = loading.load(checkpoint)
    (prompt,) = model.encode([(" ", "w3 w4")])
    assert len(prompt.tokens) == len(prompt.targets) == 2
