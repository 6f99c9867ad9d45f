"""A causal language model whose attention heads and feed-forward networks can be removed.

Transformers' own modelling code runs unchanged. A head is gated at its slice `z` of the *input* of
the attention output projection (in the output the heads are already mixed), an FFN at the output of
its last projection, that is at what it adds to the residual stream. Without a mask no hook is
installed: the model is bit for bit the unmodified one.

| name | shape | where |
| --- | --- | --- |
| z | [rows B, positions T, heads H, head_dim] | input of the attention output projection |
| FFN output | [rows B, positions T, d_model] | output of the FFN's output projection |
| heads mask | [rows B, layers L, heads H] | 1 keeps, 0 removes |
| FFNs mask | [rows B, layers L] | 1 keeps, 0 removes |
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from headcount.artifacts import checkpoint_hash

# Names, inside a decoder layer, of the two projections that write to the residual stream.
# OPT; Llama, Mistral, Qwen, Gemma; GPT-2; GPT-NeoX; Phi.
ATTENTION_OUTPUTS = (
    "self_attn.out_proj",
    "self_attn.o_proj",
    "attn.c_proj",
    "attention.dense",
    "self_attn.dense",
)
FFN_OUTPUTS = ("fc2", "mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2")
FINAL_NORMS = ("final_layer_norm", "norm", "ln_f")  # in the decoder that holds the layers


class ModelError(ValueError):
    """A model that does not load, or whose heads and FFNs cannot be found."""


@dataclass
class Prompt:
    """What is scored: `targets` are the tokens that follow `tokens[: -len(targets) + 1]`.

    `tokens` is the model's input: context and continuation without its last token, cut to the
    window from the left. Its last `len(targets)` positions predict `targets`.
    """

    tokens: list[int]
    targets: list[int]
    truncated: bool


class LanguageModel:
    """A frozen causal language model, its tokenizer, and where its heads and FFNs are."""

    def __init__(self, hf: PreTrainedModel, tokenizer):
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = hf.config.get_text_config()
        decoder, layers = _decoder_layers(hf, config)
        self.attention_outputs = [_submodule(layer, ATTENTION_OUTPUTS) for layer in layers]
        self.ffn_outputs = [_submodule(layer, FFN_OUTPUTS) for layer in layers]
        self.num_layers = len(layers)
        self.num_heads = config.num_attention_heads
        inputs = _in_features(self.attention_outputs[0])
        if inputs % self.num_heads:
            raise ModelError(f"{inputs} inputs of the output projection, {self.num_heads} heads")
        self.head_dim = inputs // self.num_heads
        norms = [getattr(decoder, name, None) for name in (*FINAL_NORMS, "project_out")]
        self.final_norm = nn.Sequential(*filter(None, norms))

    @property
    def device(self) -> torch.device:
        return self.hf.get_input_embeddings().weight.device

    @cached_property
    def window(self) -> int:
        """Longest input in tokens, as lm-eval determines it."""
        return self._lm_eval.max_length

    @cached_property
    def _lm_eval(self):
        """lm-eval's own model around this one, of which only the tokenisation is used."""
        from lm_eval.models.huggingface import HFLM

        class Encoder(HFLM):
            def _loglikelihood_tokens(self, requests, **_):
                return requests

        return Encoder(pretrained=self.hf, tokenizer=self.tokenizer, batch_size=1)

    def encode(self, pairs: list[tuple[str, str]]) -> list[Prompt]:
        """Prompts of (context, continuation) pairs, tokenised and truncated as lm-eval does it."""
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        prompts = []
        for _, context, continuation in self._lm_eval.loglikelihood(requests, disable_tqdm=True):
            whole = context + continuation
            tokens = whole[-(self.window + 1) :][:-1]
            # A continuation longer than the window has no position for its first tokens.
            targets = continuation[-len(tokens) :]
            prompts.append(Prompt(tokens, targets, len(whole) > self.window + 1))
        return prompts

    def head_weight(self, layer: int) -> Tensor:
        """What each head of `layer` writes with: W_O [H, head_dim, d_model], `out = z @ W_O`."""
        projection = self.attention_outputs[layer]
        # nn.Linear stores [out, in], GPT-2's Conv1D stores [in, out].
        weight = projection.weight.T if isinstance(projection, nn.Linear) else projection.weight
        return weight.unflatten(0, (self.num_heads, self.head_dim))

    @contextmanager
    def masked(self, heads: Tensor, ffns: Tensor) -> Iterator[None]:
        """Inside, row b of a batch runs without the components that are 0 in its masks.

        heads: [B, L, H], ffns: [B, L]. Layers in which nothing is removed get no hook.
        """
        hooks = ExitStack()
        with hooks:
            for layer in range(self.num_layers):
                if not heads[:, layer].all():
                    gate = partial(_gate_heads, heads[:, layer])
                    handle = self.attention_outputs[layer].register_forward_pre_hook(gate)
                    hooks.callback(handle.remove)
                if not ffns[:, layer].all():
                    gate = partial(_gate_ffn, ffns[:, layer])
                    handle = self.ffn_outputs[layer].register_forward_hook(gate)
                    hooks.callback(handle.remove)
            yield

    @contextmanager
    def hooked(
        self, attention_input: Callable | None = None, ffn_output: Callable | None = None
    ) -> Iterator[None]:
        """Inside, z passes through `attention_input(layer, z)` and an FFN's output likewise.

        Each function returns what to go on with; z is [B, T, H, head_dim], the output [B, T, d].
        """
        hooks = ExitStack()
        with hooks:
            for layer in range(self.num_layers):
                if attention_input:
                    handle = self.attention_outputs[layer].register_forward_pre_hook(
                        partial(self._on_z, attention_input, layer)
                    )
                    hooks.callback(handle.remove)
                if ffn_output:
                    handle = self.ffn_outputs[layer].register_forward_hook(
                        lambda _module, _inputs, output, layer=layer: ffn_output(layer, output)
                    )
                    hooks.callback(handle.remove)
            yield

    def _on_z(self, function: Callable, layer: int, _module: nn.Module, inputs: tuple) -> tuple:
        z = inputs[0].unflatten(-1, (self.num_heads, self.head_dim))  # [B, T, H, head_dim]
        return (function(layer, z).flatten(-2),)  # [B, T, H * head_dim]

    def logits_at(self, tokens: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Logits [N, vocabulary] at N (row, position) pairs of the batch `tokens` [B, T].

        Rows are padded on the right: under causal attention nothing earlier sees the padding.
        Only the positions asked for reach the unembedding.
        """

        def select(_module: nn.Module, inputs: tuple) -> tuple:
            hidden = inputs[0]  # [B, T, d]
            return (hidden[rows.to(hidden.device), positions.to(hidden.device)][None],)  # [1, N, d]

        handle = self.hf.get_output_embeddings().register_forward_pre_hook(select)
        try:
            return self.hf(input_ids=tokens.to(self.device), use_cache=False).logits[0]
        finally:
            handle.remove()


def _gate_heads(keep: Tensor, _module: nn.Module, inputs: tuple) -> tuple:
    """Zero z of removed heads; keep: [B, H], input: [B, T, H * head_dim]."""
    z = inputs[0].unflatten(-1, (keep.shape[1], -1))  # [B, T, H, head_dim]
    return ((z * keep.to(z)[:, None, :, None]).flatten(-2),)


def _gate_ffn(keep: Tensor, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    """Zero the output [B, T, d] or [B * T, d] of removed FFNs, bias included; keep: [B]."""
    rows = output.reshape(len(keep), -1)  # OPT flattens the positions of its FFN in some versions
    return (rows * keep.to(output)[:, None]).view_as(output)


# --- finding the components ---


def _decoder_layers(hf: PreTrainedModel, config) -> tuple[nn.Module, nn.ModuleList]:
    """The module that holds the decoder layers, and the layers."""
    name = f"{type(hf).__name__} ({config.model_type})"
    if config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder; headcount takes decoder-only models")
    if experts := [n for n, _ in hf.named_modules() if n.rsplit(".", 1)[-1] == "experts"]:
        raise ModelError(f"{name} is a mixture of experts ({experts[0]}), which is not supported")
    for path, module in hf.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == config.num_hidden_layers
            and all(_submodule(layer, ATTENTION_OUTPUTS) for layer in module)
        ):
            if not all(_submodule(layer, FFN_OUTPUTS) for layer in module):
                raise ModelError(
                    f"{name}: no FFN output projection in every layer of {path}; looked for "
                    f"{', '.join(FFN_OUTPUTS)}"
                )
            return hf.get_submodule(path.rpartition(".")[0]), module
    raise ModelError(
        f"{name}: no list of {config.num_hidden_layers} decoder layers that each have an attention "
        f"output projection; looked for {', '.join(ATTENTION_OUTPUTS)}"
    )


def _submodule(layer: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    """The first of the dotted `names` that `layer` has."""
    for name in names:
        try:
            return layer.get_submodule(name)
        except AttributeError:
            continue
    return None


def _in_features(projection: nn.Module) -> int:
    """Input width of an nn.Linear, or of a Conv1D, whose weight is [in, out]."""
    return getattr(projection, "in_features", None) or projection.weight.shape[0]


# --- loading ---


def load(path: str | Path, dtype: str = "float32", device_map: str = "cpu") -> LanguageModel:
    """The model in the directory `path`, placed by accelerate (`device_map`: cpu, cuda, auto...).

    Raises `ModelError` when it does not load or its components are not found.
    """
    try:
        hf = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), device_map=device_map
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelError(f"the model in {path} does not load: {error}") from error
    return LanguageModel(hf, tokenizer)


def resolve(
    source: str, revision: str | None, gguf_file: str | None, converted: str | Path
) -> dict:
    """Turn a model's `source` into a directory that loads fast and offline, and describe it.

    A local directory is used where it lies; of a hub model the snapshot is downloaded and its
    revision pinned; a GGUF checkpoint is converted once to safetensors in `converted`. The
    components are looked for on torch's meta device, without reading a weight.

    Returns path, revision, fingerprint, architecture, layers, heads and window (tokens). Raises
    `ModelError` when the source cannot be had or its components are not found.
    """
    if gguf_file:
        path = _convert_gguf(source, revision, gguf_file, Path(converted))
    elif Path(source).is_dir():
        path = Path(source)
    else:
        path = _download(source, revision)
        revision = path.name  # a snapshot's directory is named by its commit
    try:
        config = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        model = LanguageModel(skeleton, AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model {source}: {error}") from error
    return {
        "source": source,
        "revision": revision,
        "path": str(path),
        "fingerprint": checkpoint_hash(path),
        "architecture": type(skeleton).__name__,
        "layers": model.num_layers,
        "heads": model.num_heads,
    }


def _download(source: str, revision: str | None) -> Path:
    """The hub's snapshot of `source`: weights as safetensors, or PyTorch's where there are none."""
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    other = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "onnx/*", "original/*"]
    try:
        try:
            files = list_repo_files(source, revision=revision)
        except OfflineModeIsEnabled:
            files = []  # the cache holds what an earlier download chose
        if any(name.endswith(".safetensors") for name in files):
            other.append("*.bin")
        return Path(snapshot_download(source, revision=revision, ignore_patterns=other))
    except Exception as error:  # of the hub, of the HTTP library, of the network
        raise ModelError(
            f"models: source: {source} is neither a local directory nor a model of the hub that "
            f"can be reached (revision {revision or 'main'}): {error}"
        ) from error


def _convert_gguf(source: str, revision: str | None, gguf_file: str, target: Path) -> Path:
    """Write the GGUF checkpoint as safetensors to `target`: loading one takes half a minute."""
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, gguf_file=gguf_file, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, gguf_file=gguf_file)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"models: {source}/{gguf_file} does not load: {error}") from error
    # transformers refuses to save a model that remembers its quantisation: build a plain one.
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(type(quantised.config).from_dict(config))
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
