"""lm-evaluation-harness's model `headcount`: its HFLM without some heads and FFNs.

    headcount lm-eval --model headcount --model_args \\
        pretrained=PATH,heads=aggregate/5-shot@70,ffns=RANKING.parquet@20 \\
        --tasks copa

HFLM loads the model and the tokenizer, tokenises, truncates, cuts rolling windows and generates.
`headcount.engine` computes log-likelihoods, and shared prefixes once. Softmax is always in float32;
`batch_size` affects generation alone.

lm-eval plans to find models of other packages by the entry point `lm_eval.models`; 0.4.13 does not
read it yet, and its `--include_path` is for tasks alone (EleutherAI/lm-evaluation-harness, issues
1457 and 1621). So `headcount lm-eval` registers this model and then runs lm-eval's own command with
all of its arguments; in Python, importing this module registers it.
"""

import inspect
import logging
from pathlib import Path
from typing import Any

from lm_eval.api.registry import model_registry
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from headcount.artifacts.storage import read_json
from headcount.engine import Masks, log_likelihoods
from headcount.engine.fitness import refuse_unfit
from headcount.engine.removal import without
from headcount.messages import did_you_mean
from headcount.models import checkpoints
from headcount.models.language_model import LanguageModel, PromptError
from headcount.scores import rankings
from headcount.scores.pruning import removal
from headcount.tasks.files import TaskError

logger = logging.getLogger(__name__)


class _Complete:
    """`AutoModelForCausalLM` that refuses an incomplete checkpoint."""

    @staticmethod
    def from_pretrained(path: Path, **loading: Any) -> Any:
        return checkpoints.complete(AutoModelForCausalLM, path, **loading)


class ArgumentError(ValueError):
    """An argument that the model does not take."""


# Arguments that HFLM passes to `from_pretrained`.
LOADING: tuple[str, ...]
LOADING = ("attn_implementation", "cache_dir", "local_files_only", "low_cpu_mem_usage", "token")
LOADING += ("use_safetensors", "variant")


def _check_names(given: dict) -> None:
    """Raise `ArgumentError` for arguments that neither HFLM nor headcount reads."""
    if given.get("mixed_precision_dtype") or given.get("softmax_dtype"):
        raise ArgumentError(
            "headcount takes no mixed_precision_dtype or softmax_dtype: it computes in dtype, "
            "and the softmax in float32"
        )
    known = {*inspect.signature(HFLM.__init__).parameters, *LOADING}
    own = ("heads", "ffns", "artifacts")
    for name in given:
        if name not in known:
            level = ": write heads=RANKING@LEVEL" if name in ("level", "ffns_level") else ""
            hint = level or did_you_mean(name, (*own, *known))
            raise ArgumentError(f"model_args: there is no argument {name}{hint}")


def _studied(artifacts: Path, pretrained: str) -> Path:
    """Return the directory in `artifacts` of the model studied from the source `pretrained`."""
    for path in sorted(artifacts.glob("*/model.json")):
        source = read_json(path)["source"]
        if source == pretrained or Path(source).resolve() == Path(pretrained).resolve():
            return path.parent
    return artifacts / Path(pretrained).name


class HeadcountLM(HFLM):
    """An lm-eval model that runs without the least important heads and FFNs."""

    AUTO_MODEL_CLASS = _Complete

    def __init__(
        self,
        pretrained: Any,
        heads: str | None = None,
        ffns: str | None = None,
        artifacts: str = "artifacts",
        **hflm: Any,
    ) -> None:
        """Remove heads and FFNs by `heads` and `ffns`, each a RANKING@LEVEL.

        RANKING is a Parquet file, or a name below the rankings of a studied model in the directory
        `artifacts`; LEVEL is in percent. A component without one stays whole. All other arguments
        are HFLM's. Raises `RankingError` before the model is loaded when the ranking does not exist
        or the level removes nothing, and after it when the ranking belongs to another model;
        `ModelError` for a checkpoint that lacks weights or a model that headcount cannot compute;
        `ArgumentError` for an unknown argument.
        """
        _check_names(hflm)
        ranking, levels = {}, {"heads": 0.0, "ffns": 0.0}
        for component, text in (("heads", heads), ("ffns", ffns)):
            if text is not None:
                cut = rankings.Cut.parse(text)
                home = _studied(Path(artifacts), pretrained) / "rankings"
                path = rankings.locate(cut.ranking, component, home)
                ranking[component] = rankings.read(path, component, cut.level)
                levels[component] = cut.level
        removed = removal(ranking, levels["heads"], levels["ffns"])
        super().__init__(pretrained, **hflm)
        self._gated = LanguageModel(self.model, self.tokenizer)
        self._gated.window = self.max_length  # an argument of HFLM may have shortened it
        refuse_unfit(self._gated)
        for table in ranking.values():
            rankings.check(table, self._gated.heads, self._gated.ffns, str(pretrained))
        self._masks = Masks.removing(self._gated, [removed])
        self._removed = {"heads_removed": len(removed[0]), "ffns_removed": len(removed[1])}

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        """Return (log-likelihood, is greedy) of each request; an error names its document."""
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        except PromptError as error:
            request = requests[error.index]
            raise TaskError(
                f"{request.task_name}, evaluation document {request.doc_id}, choice "
                f"{request.idx}: {error}"
            ) from error

    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list:
        """Return (log-likelihood, is greedy) of (texts, context tokens, continuation tokens)."""
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

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list:
        with without(self._gated, *self._masks.of(0)):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's cache of answers for a pruned model, since its key lacks the mask."""
        if any(self._removed.values()):
            raise ValueError(
                "--use_cache stores answers by prompt alone, and would return those of another "
                "level: run without it"
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict:
        """Return HFLM's facts for the results file, with the numbers of removed heads and FFNs."""
        return super().get_model_info() | self._removed


# If lm-eval reads entry points, the name is registered already, for this class.
if "headcount" not in model_registry:
    model_registry.register("headcount", target=HeadcountLM)
