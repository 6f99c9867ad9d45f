"""lm-evaluation-harness's model `headcount`: its HFLM without some heads and FFNs.

    headcount lm-eval --model headcount --model_args \\
        pretrained=PATH,heads=RANKING.parquet,level=70,ffns=RANKING.parquet,ffns_level=20 \\
        --tasks copa

HFLM loads the model and the tokenizer, tokenises, truncates, cuts rolling windows and generates.
Log-likelihoods are computed by `headcount.sweep`, which runs what prompts share once. Softmax is
always in float32; `batch_size` counts for generation alone.

lm-eval (0.4.13) imports no models from outside its package, neither by an entry point nor by
`--include_path`, which is read for tasks alone (EleutherAI/lm-evaluation-harness, issues 1457 and
1621). So `headcount lm-eval` registers this one and then is lm-eval's own command, with all of its
arguments; in Python, importing this module registers it.
"""

import logging

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from headcount import checkpoints, rankings
from headcount.model import LanguageModel, PromptError
from headcount.pruning import removal
from headcount.rankings import RankingError
from headcount.sweep import Masks, log_likelihoods
from headcount.sweep.removal import without
from headcount.task_files import TaskError

logger = logging.getLogger(__name__)


class _Complete:
    """Loads as `AutoModelForCausalLM` does, and refuses a checkpoint that is not whole."""

    @staticmethod
    def from_pretrained(path, **loading):
        return checkpoints.complete(AutoModelForCausalLM, path, **loading)


@register_model("headcount")
class HeadcountLM(HFLM):
    """An lm-eval model that runs without the least important heads and FFNs."""

    AUTO_MODEL_CLASS = _Complete

    def __init__(
        self,
        pretrained,
        heads: str | None = None,
        level: float | None = None,
        ffns: str | None = None,
        ffns_level: float | None = None,
        **hflm,
    ):
        """Remove `level` percent of the heads and `ffns_level` percent of the FFNs.

        `heads` and `ffns` are Parquet files of rankings; without one nothing of the kind is
        removed. All other arguments are HFLM's. Raises `RankingError` before the model is loaded
        when a file is no ranking or a level is missing or not a percentage, and after it when the
        ranking is another model's, and `ModelError` when the checkpoint lacks weights.
        """
        if hflm.get("mixed_precision_dtype") or hflm.get("softmax_dtype"):
            raise ValueError(
                "headcount takes no mixed_precision_dtype or softmax_dtype: it computes in dtype, "
                "and the softmax in float32"
            )
        ranking = {}
        for component, path, cut in (("heads", heads, level), ("ffns", ffns, ffns_level)):
            name = "level" if component == "heads" else "ffns_level"
            if (path is None) != (cut is None):
                raise RankingError(f"{component}=RANKING and {name}=PERCENT go together: give both")
            if path is not None:
                ranking[component] = rankings.read(path, component, cut)
        removed = removal(ranking, level or 0, ffns_level or 0)
        super().__init__(pretrained, **hflm)
        self._gated = LanguageModel(self.model, self.tokenizer)
        self._gated.window = self.max_length  # an argument of HFLM's may have shortened it
        for table in ranking.values():
            rankings.check(table, self._gated.heads, self._gated.ffns, str(pretrained))
        self._masks = Masks.removing(self._gated, [removed])
        self._removed = {"heads_removed": len(removed[0]), "ffns_removed": len(removed[1])}

    def loglikelihood(self, requests, disable_tqdm=False):
        """(log-likelihood, is greedy) of each request, with its name where it has none."""
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        except PromptError as error:
            request = requests[error.index]
            raise TaskError(
                f"{request.task_name}, evaluation document {request.doc_id}, choice "
                f"{request.idx}: {error}"
            ) from error

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        """(log-likelihood, is greedy) of each (texts, context tokens, continuation tokens)."""
        if not requests:
            return []
        prompts = self._gated.prompts([tokens for _, *tokens in requests])
        if truncated := sum(prompt.truncated for prompt in prompts):
            logger.warning(
                "%d of %d requests are cut from the left to the model's window of %d tokens",
                truncated,
                len(prompts),
                self.max_length,
            )
        sums, greedy = log_likelihoods(self._gated, prompts, self._masks)  # [1, requests]
        return list(zip(sums[0].tolist(), greedy[0].tolist(), strict=True))

    def generate_until(self, requests, disable_tqdm=False):
        with without(self._gated, *self._masks.of(0)):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def set_cache_hook(self, cache_hook) -> None:
        """Refuse lm-eval's cache of answers for a pruned model, since it does not know the mask."""
        if any(self._removed.values()):
            raise ValueError(
                "--use_cache keeps answers by their prompt alone: those of another level would "
                "come back as this one's; run without it"
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict:
        """HFLM's facts for the results file, and how many heads and FFNs are removed."""
        return super().get_model_info() | self._removed
