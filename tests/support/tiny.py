"""A study small enough for a test: random models, a word-level tokenizer, lm-eval tasks."""

import json
import random
from pathlib import Path

import invented
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM as Auto,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WORDS = [f"w{i}" for i in range(40)]
VOCABULARY = ["<unk>", "<pad>", "</s>", "Q:", "A:", "yes", "no", "maybe", *WORDS]

SIZE = {"vocab_size": len(VOCABULARY), "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
OPT = {
    **SIZE,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
COMMON = {
    **SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}  # two query heads to a key-value head
WINDOW = {"sliding_window": 6}  # shorter than the tests' prompts
CONFIGS = {
    "opt": OPTConfig(**OPT, word_embed_proj_dim=32),
    # Norms after the sums, embeddings narrower than the residual stream.
    "opt_350m": OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "gpt2": GPT2Config(  # one projection for queries, keys and values, Conv1D
        **SIZE, n_embd=32, n_layer=3, n_head=4, n_positions=64, resid_pdrop=0, attn_pdrop=0
    ),
    "gpt_neox": GPTNeoXConfig(**COMMON),  # attention and FFN in parallel
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, **WINDOW),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=12),  # 4 heads of 12 in a stream of 32
    # Every second layer has a sliding window, norms after the blocks, squashed scores and logits.
    "gemma2": Gemma2Config(**GROUPED, **WINDOW, head_dim=8, query_pre_attn_scalar=8),
    "gemma3": Gemma3TextConfig(
        **GROUPED, **WINDOW, head_dim=8, query_pre_attn_scalar=8, sliding_window_pattern=2
    ),
    "phi": PhiConfig(**COMMON, resid_pdrop=0.0),
    "phi3": Phi3Config(**GROUPED, resid_pdrop=0.0),  # one projection for queries, keys and values
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words separated by white space; a sequence begins with </s>, as OPT's do."""
    words = models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>")
    fast = Tokenizer(words)
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_special(fast)


def _with_special(fast: Tokenizer) -> PreTrainedTokenizerFast:
    fast.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>", **special)


def text_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of invented sentences: it encodes any text; a sequence begins with </s>."""
    draw = random.Random(0)
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<unk>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([invented.sentence(draw) for _ in range(500)], trainer)
    return _with_special(fast)


def save_model(directory: Path, family: str = "opt", seed: int = 0) -> Path:
    """A tiny random model of words."""
    return _save(directory, CONFIGS[family], tokenizer(), seed)


def save_reader(directory: Path) -> Path:
    """A tiny random OPT that reads text, in a window of 1,024 tokens."""
    reader = text_tokenizer()
    size = {"vocab_size": len(reader), "max_position_embeddings": 1024, "num_hidden_layers": 5}
    return _save(directory, OPTConfig(**{**OPT, **size}, word_embed_proj_dim=32), reader, seed=0)


def _save(directory: Path, config, tokenizer: PreTrainedTokenizerFast, seed: int) -> Path:
    """A random model with weights far larger than usual, so that every component has an effect."""
    torch.manual_seed(seed)
    model = Auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3 if parameter.dim() > 1 else 0.1)
            if "norm" in name and "bias" not in name and not config.model_type.startswith("gemma"):
                parameter += 1  # Gemma's norms add it themselves
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_tasks(
    directory: Path, names: tuple[str, ...] = ("tiny_a", "tiny_b"), root: Path | None = None
) -> Path:
    """Multiple-choice tasks of random words: 24 documents to train on, 12 to evaluate.

    Choices are one or two words long, so that prompts share inputs in some documents only. With
    `root` the tasks name their data relative to it.
    """
    for name in names:
        draw = random.Random(name)
        for split, size in (("train", 24), ("validation", 12)):
            lines = []
            for i in range(size):
                choices = [" ".join(draw.sample(WORDS, draw.choice([1, 1, 2]))) for _ in range(3)]
                doc = {
                    "id": f"{split}-{i}",
                    "question": " ".join(draw.choices(WORDS, k=draw.randint(2, 6))),
                    "choices": choices,
                    "answer": draw.randrange(3),
                }
                lines.append(json.dumps(doc))
            data = directory / "data" / name / f"{split}.jsonl"
            data.parent.mkdir(parents=True, exist_ok=True)
            data.write_text("\n".join(lines) + "\n")
        home = directory / "data" / name
        if root:
            home = home.relative_to(root)
        files = {split: str(home / f"{split}.jsonl") for split in ("train", "validation")}
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "output_type": "multiple_choice",
            "training_split": "train",
            "validation_split": "validation",
            "fewshot_split": "train",
            "doc_to_text": "Q: {{question}} A:",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm")
            ],
            "metadata": {"version": 1.0},
        }
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return directory


def spoil(directory: Path) -> None:
    """Make a weight of a saved model's layer 1 not a number."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if ".1." in name and "out_proj.weight" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
