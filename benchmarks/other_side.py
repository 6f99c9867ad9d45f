"""What a user would otherwise run: lm-eval's own HFLM, with masks applied by hooks."""

from contextlib import ExitStack, contextmanager

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from headcount.engine import Masks
from headcount.models.language_model import LanguageModel, Prompt


class OtherSide:
    """HFLM around the same weights: fp32, its cache on, in batches of the size that suits it."""

    def __init__(self, model: LanguageModel, batch_size: int = 8):
        self.model = model
        self.lm = HFLM(model.hf, tokenizer=model.tokenizer, batch_size=batch_size)

    def loglikelihoods(self, pairs: list[tuple[str, str]]) -> list[float]:
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        return [score for score, _ in self.lm.loglikelihood(requests, disable_tqdm=True)]

    @contextmanager
    def masked(self, masks: Masks, index: int):
        """Inside, hooks zero what one of the masks removes."""
        with ExitStack() as hooks:
            for layer, part in enumerate(self.model.parts):
                keep = masks.heads[layer][index]
                if not keep.all():
                    gate = keep.repeat_interleave(part.head_dim).float()
                    handle = part.attention_output.register_forward_pre_hook(
                        lambda _m, inputs, gate=gate: (inputs[0] * gate,)
                    )
                    hooks.callback(handle.remove)
                if not masks.ffns[index, layer]:
                    handle = part.ffn_writes.register_forward_hook(
                        lambda _m, _i, output: torch.zeros_like(output)
                    )
                    hooks.callback(handle.remove)
            yield


def gradient_scores(model: LanguageModel, prompts: list[Prompt], batch_size: int, frozen: bool):
    """Head scores by a plain forward and backward pass of the model, after the paper's code.

    Batches are padded; `frozen` says whether the parameters go without gradients.
    """
    model.hf.requires_grad_(not frozen)
    ordered = sorted(prompts, key=lambda prompt: len(prompt.tokens))
    totals = torch.zeros(model.num_layers, model.heads[0])  # all layers have the same
    try:
        for first in range(0, len(ordered), batch_size):
            totals += _batch_scores(model, ordered[first : first + batch_size])
            model.hf.zero_grad(set_to_none=True)
    finally:
        model.hf.requires_grad_(False)
    return totals


def _batch_scores(model: LanguageModel, prompts: list[Prompt]) -> torch.Tensor:
    length = max(len(prompt.tokens) for prompt in prompts)
    tokens = torch.zeros(len(prompts), length, dtype=torch.long)
    labels = torch.full((len(prompts), length), -100)
    for row, prompt in enumerate(prompts):
        end, count = len(prompt.tokens), len(prompt.targets)
        tokens[row, :end] = torch.tensor(prompt.tokens)
        labels[row, end - count : end] = torch.tensor(prompt.targets)
    kept: list[torch.Tensor] = []

    def keep(_module, inputs):
        z = inputs[0].requires_grad_()
        z.retain_grad()
        kept.append(z)

    with ExitStack() as hooks:
        for part in model.parts:
            hooks.callback(part.attention_output.register_forward_pre_hook(keep).remove)
        log_p = model.hf(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
    losses = -log_p.gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels >= 0)
    (losses.sum(1) / (labels >= 0).sum(1)).sum().backward()
    shape = (model.heads[0], model.parts[0].head_dim)
    return torch.stack(
        [(z * z.grad).detach().unflatten(-1, shape).sum(-1).abs().sum((0, 1)) for z in kept]
    )
