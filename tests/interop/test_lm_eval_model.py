"""lm-eval's `--model headcount`: unpruned it is HFLM, pruned it is HFLM with weights of zero."""

import functools
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import tiny
import torch
from harness import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from plain import tolerance
from transformers import AutoModelForCausalLM

from headcount.__main__ import main
from headcount.artifacts import schemas, storage
from headcount.interop.lm_eval_model import ArgumentError, HeadcountLM
from headcount.models import loading as model_loading
from headcount.scores import rankings
from headcount.scores.rankings import RankingError

pytestmark = pytest.mark.numerical

REPOSITORY = Path(__file__).parents[2]
OPT_MINI = REPOSITORY / "workflow" / "resources" / "opt-mini"
SHAPE = [(layer, head) for layer in range(3) for head in range(4)]  # of the tiny models


def write_ranking(path, components):
    """A ranking in which the components are removed in a random order."""
    table = pl.DataFrame(components, schema={"layer": pl.Int32, "head": pl.Int32}, orient="row")
    order = rankings.random_order(table, seed=0, index=0)
    storage.write(path, order.to_arrow(), schemas.ROWS["rankings"], {})
    return str(path)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return write_ranking(tmp_path_factory.mktemp("ranking") / "heads.parquet", SHAPE)


@pytest.fixture(scope="module")
def ffns(tmp_path_factory):
    components = [(layer, None) for layer in range(3)]
    return write_ranking(tmp_path_factory.mktemp("ranking") / "ffns.parquet", components)


@pytest.fixture(scope="module", params=["opt", "llama"])
def family(request, tmp_path_factory):
    return str(tiny.save_model(tmp_path_factory.mktemp(request.param), request.param))


def by_hand(path, heads, ffns):
    """Stock HFLM on a copy of the model whose removed components have weights of zero."""
    model = AutoModelForCausalLM.from_pretrained(path)
    width = 32 // 4
    decoder = model.model.decoder if hasattr(model.model, "decoder") else model.model
    with torch.no_grad():
        for layer, head in heads:
            attention = decoder.layers[layer].self_attn
            output = getattr(attention, "out_proj", None) or attention.o_proj
            output.weight[:, head * width : (head + 1) * width] = 0
        for layer in ffns:
            block = decoder.layers[layer]
            output = getattr(block, "fc2", None) or block.mlp.down_proj
            for parameter in output.parameters():
                parameter.zero_()
    return HFLM(model, tokenizer=tiny.tokenizer(), batch_size=4)


@functools.cache
def tolerance_of(path):
    return tolerance(model_loading.load(path))


def assert_same_answers(ours, theirs, task, path):
    allowed = tolerance_of(path)
    for mine, sample in zip(ours["samples"][task], theirs["samples"][task], strict=True):
        for (ll, greedy), (expected, as_greedy) in zip(
            mine["filtered_resps"], sample["filtered_resps"], strict=True
        ):
            assert float(ll) == pytest.approx(float(expected), abs=allowed)
            assert greedy == as_greedy
    assert ours["results"][task] == theirs["results"][task]


def test_unpruned_equals_hflm_on_the_embedded_tasks_and_their_group(monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # the tasks name their data from there
    arguments = {"num_fewshot": 1, "limit": 10}
    ours, theirs = (
        evaluate(
            get_model(name)(
                str(OPT_MINI / "model"), device="cpu", dtype="float32", batch_size=batch_size
            ),
            ["mini"],
            OPT_MINI / "tasks",
            **arguments,
        )
        for name, batch_size in (("headcount", 1), ("hf", 8))
    )
    assert len(ours["samples"]) == 10
    for task in ours["samples"]:
        assert_same_answers(ours, theirs, task, OPT_MINI / "model")
    assert ours["groups"] == theirs["groups"]
    assert 0 < ours["groups"]["mini"]["acc,none"] < 1


@pytest.mark.parametrize("level,ffns_level", [(50, None), (None, 67), (25, 34), (100, 100)])
def test_pruned_equals_hflm_with_zeroed_weights(family, task_path, heads, ffns, level, ffns_level):
    arguments = {"device": "cpu"}
    if level is not None:
        arguments |= {"heads": f"{heads}@{level}"}
    if ffns_level is not None:
        arguments |= {"ffns": f"{ffns}@{ffns_level}"}
    model = HeadcountLM(family, **arguments)
    order = pl.read_parquet(heads).head(12 * (level or 0) // 100)
    layers = pl.read_parquet(ffns)["layer"].to_list()[: 3 * (ffns_level or 0) // 100]
    theirs = by_hand(family, order.select("layer", "head").rows(), layers)
    run = {"num_fewshot": 2, "limit": 8}
    assert_same_answers(
        evaluate(model, ["tiny_a"], task_path, **run),
        evaluate(theirs, ["tiny_a"], task_path, **run),
        "tiny_a",
        family,
    )
    facts = model.get_model_info()
    assert (facts["heads_removed"], facts["ffns_removed"]) == (order.height, len(layers))


def test_a_shorter_window_cuts_contexts_as_hflm_does(family, task_path, caplog):
    run = {"num_fewshot": 5, "limit": 4}
    ours = HeadcountLM(family, device="cpu", max_length=20)
    theirs = HFLM(family, device="cpu", max_length=20)
    assert_same_answers(
        evaluate(ours, ["tiny_a"], task_path, **run),
        evaluate(theirs, ["tiny_a"], task_path, **run),
        "tiny_a",
        family,
    )
    assert "12 of 12 requests are cut" in caplog.text


def generation(context):
    arguments = (context, {"until": ["</s>"], "max_gen_toks": 6, "do_sample": False})
    return Instance("generate_until", {}, arguments, 0)


def test_generation_without_any_head_of_the_first_layer(family, tmp_path):
    """The cache that generation keeps counts its positions in the first layer."""
    first = [(0, head) for head in range(4)]
    rest = [component for component in SHAPE if component[0]]
    table = pl.DataFrame(
        [
            {"layer": layer, "head": head, "rank": rank, "score": 0.0}
            for rank, (layer, head) in enumerate(first + rest)
        ],
    )
    storage.write(tmp_path / "r.parquet", table.to_arrow(), schemas.ROWS["rankings"], {})
    contexts = [generation(f"Q: w{i} w{i + 1} w{i + 5} A:") for i in range(5)]
    model = HeadcountLM(family, device="cpu", heads=f"{tmp_path}/r.parquet@34")
    assert model.generate_until(contexts, disable_tqdm=True) == by_hand(
        family, first, []
    ).generate_until(contexts, disable_tqdm=True)


def test_generation_and_rolling_windows_honour_the_mask(family, heads, ffns):
    removed = {"heads": f"{heads}@50", "ffns": f"{ffns}@34"}
    pruned = HeadcountLM(family, device="cpu", batch_size=2, **removed)
    whole = HeadcountLM(family, device="cpu", batch_size=2)
    order = pl.read_parquet(heads).head(6).select("layer", "head").rows()
    zeroed = by_hand(family, order, pl.read_parquet(ffns)["layer"].to_list()[:1])

    contexts = [generation(f"Q: w{i} w{i + 1} A:") for i in range(5)]
    answers = pruned.generate_until(contexts, disable_tqdm=True)
    assert answers == zeroed.generate_until(contexts, disable_tqdm=True)
    unpruned = HFLM(family, device="cpu", batch_size=2)
    assert whole.generate_until(contexts, disable_tqdm=True) == unpruned.generate_until(
        contexts, disable_tqdm=True
    )
    assert answers != whole.generate_until(contexts, disable_tqdm=True)

    words = tiny.WORDS * 4  # 160, in windows of 64
    long = Instance("loglikelihood_rolling", {}, (" ".join(words),), 0)
    [ours] = pruned.loglikelihood_rolling([long], disable_tqdm=True)
    [theirs] = zeroed.loglikelihood_rolling([long], disable_tqdm=True)
    assert ours == pytest.approx(theirs, abs=len(words) * tolerance_of(family))
    [unpruned] = whole.loglikelihood_rolling([long], disable_tqdm=True)
    assert abs(ours - unpruned) > 100 * len(words) * tolerance_of(family)


def test_an_answer_cache_that_ignores_the_mask_is_refused(family, heads, tmp_path):
    with pytest.raises(ValueError, match="--use_cache"):
        CachingLM(HeadcountLM(family, device="cpu", heads=f"{heads}@50"), str(tmp_path / "a.db"))
    CachingLM(HeadcountLM(family, device="cpu"), str(tmp_path / "b.db"))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"heads": "HEADS"}, "is not RANKING@LEVEL: give a ranking and a level in percent"),
        ({"heads": "HEADS@170"}, "is not RANKING@LEVEL: give a ranking and a level in percent"),
        ({"heads": "HEADS@0.7"}, "0.7 % of 12 heads removes none: did you mean 70"),
        ({"heads": "FFNS@50"}, "ranks ffns, not heads"),
        ({"heads": "nowhere.parquet@50"}, "heads: nowhere.parquet is not a Parquet"),
        ({"heads": "aggregate/5-shot@50"}, "the ranking 'aggregate/5-shot' does not exist"),
        ({"heads": "NO_RANKING@50"}, "is not a ranking, it has no column rank"),
        ({"heads": "OTHER@50"}, "ranking of 2 heads .* which has 12 in 3 layers"),
        ({"head": "HEADS@50"}, "there is no argument head: did you mean heads"),
        ({"heads": "HEADS@50", "level": 50}, "no argument level: write heads=RANKING@LEVEL"),
        ({"softmax_dtype": "float32"}, "no mixed_precision_dtype or softmax_dtype"),
    ],
)
def test_bad_arguments_are_named(family, heads, ffns, tmp_path, arguments, message):
    pl.DataFrame({"layer": [0], "head": [0], "score": [0.0]}).write_parquet(tmp_path / "scores")
    files = {
        "HEADS": heads,
        "FFNS": ffns,
        "NO_RANKING": str(tmp_path / "scores"),
        "OTHER": write_ranking(tmp_path / "other", [(0, 0), (0, 1)]),
    }
    named = {key: str(value).partition("@") for key, value in arguments.items()}
    arguments = {
        key: files.get(name, name) + at + level for key, (name, at, level) in named.items()
    }
    with pytest.raises(ValueError, match=message) as raised:
        HeadcountLM(family, device="cpu", **arguments)
    assert isinstance(raised.value, RankingError | ArgumentError)


def test_the_command_is_lm_evals_own_with_one_model_more(
    checkpoint, task_path, heads, monkeypatch, capsys
):
    # Its index of lm-eval's 13,000 task files takes longer than all the rest.
    alone = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", alone)

    def run(level):
        given = f"pretrained={checkpoint},heads={heads}@{level}"
        command = f"headcount lm-eval --model headcount --model_args {given} --tasks tiny_a"
        options = f"--include_path {task_path} --limit 8 --device cpu"
        monkeypatch.setattr("sys.argv", [*command.split(), *options.split()])
        main()

    run(level=50)
    table = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    [value] = [cells[7] for cells in table if len(cells) > 7 and cells[5].strip() == "acc"]
    model = HeadcountLM(str(checkpoint), heads=f"{heads}@50", device="cpu")
    reference = evaluate(model, ["tiny_a"], task_path, limit=8)
    # The table has four decimals.
    assert float(value) == pytest.approx(reference["results"]["tiny_a"]["acc,none"], abs=5e-5)
    with pytest.raises(SystemExit, match=r"headcount: .*@500' is not RANKING@LEVEL"):
        run(level=500)


ENTRY_POINT = """
import sys, tomllib
from importlib.metadata import EntryPoint
from lm_eval.api.registry import get_model, model_registry

group = "lm_eval.models"
points = tomllib.load(open(sys.argv[1], "rb"))["project"]["entry-points"][group]
for name, value in points.items():
    model_registry.register(name, target=EntryPoint(name, value, group))
print(get_model("headcount").__name__)
"""


@pytest.mark.slow
def test_an_lm_eval_that_reads_entry_points_finds_the_model():
    command = [sys.executable, "-c", ENTRY_POINT, REPOSITORY / "pyproject.toml"]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.stdout == "HeadcountLM\n", result.stderr
