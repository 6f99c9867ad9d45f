"""An exported checkpoint is the pruned model, for code that knows nothing of headcount."""

import copy
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import rounding
import tiny
import torch
from harness import evaluate
from lm_eval.models.huggingface import HFLM
from plain import logits, tolerance
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from headcount.__main__ import main
from headcount.artifacts import schemas, storage
from headcount.engine import Masks
from headcount.engine.removal import without
from headcount.interop import _exported, export
from headcount.models import loading as model_loading
from headcount.models.fingerprint import fingerprint
from headcount.models.language_model import LanguageModel
from headcount.scores import pruning, rankings
from headcount.scores.documents import Evaluation
from headcount.scores.importance import components
from headcount.scores.rankings import Cut


def ranking(model: LanguageModel, component: str, seed: int = 0) -> pl.DataFrame:
    schema = {"layer": pl.Int32, "head": pl.Int32}
    table = pl.DataFrame(components(model, component), schema=schema, orient="row")
    return rankings.random_order(table, seed, 0)


def study(model: LanguageModel, directory):
    """Artifacts of a model called m: rankings of one task, and an aggregate at two shots."""
    facts = {"name": "m", "source": model.hf.name_or_path, "revision": None, "architecture": "X"}
    facts |= {"converted": None, "trust_remote_code": False, "layout": None}
    facts |= {"layers": model.num_layers, "heads": model.heads, "ffns": model.ffns}
    storage.write_json(directory / "m" / "model.json", facts)
    for name in ("task/0-shot", "aggregate/0-shot", "aggregate/5-shot"):
        for component in ("heads", "ffns"):
            path = directory / "m" / "rankings" / name / f"{component}.parquet"
            table = ranking(model, component).to_arrow()
            made = {"ranking": name.split("/")[0], "code": "c0de"}
            storage.write(path, table, schemas.ROWS["rankings"], made)
    return directory


@pytest.fixture
def artifacts_of_opt(opt, tmp_path):
    return study(opt, tmp_path / "artifacts")


@pytest.mark.numerical
def test_plain_transformers_gives_the_pruned_models_logits(model, tmp_path):
    directory = study(model, tmp_path / "artifacts")
    cuts = {"heads": Cut("task", 60), "ffns": Cut("aggregate/5-shot", 34)}
    report = export.export("m", cuts, tmp_path / "out", directory)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    removed = pruning.removal({name: ranking(model, name) for name in cuts}, 60, 34)
    assert (len(removed[0]), len(removed[1])) == (7, 1)
    masks = Masks.removing(model, [removed])

    def pruned(model):
        with without(model, *masks.of(0)):
            return logits(model.hf)

    by_rounding = rounding.bound(model, pruned)
    torch.testing.assert_close(logits(loaded), pruned(model), atol=by_rounding, rtol=0)
    assert (logits(model.hf) - pruned(model)).abs().max() > 100 * by_rounding

    assert report == json.loads((tmp_path / "out" / "headcount.json").read_text()) | {
        "removed": {"heads": removed[0], "ffns": removed[1]},
        "configuration": report["configuration"],
    }
    assert report["compared"]["difference"] <= report["compared"]["bound"] < by_rounding * 1000
    assert report["rankings"]["heads"]["made"]["code"] == "c0de"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- 7 of its 12 attention heads: the least important 60 % by the ranking `task`" in card
    assert "- 1 of its 3 FFNs: the least important 34 % by the ranking `aggregate/5-shot`" in card
    text = "Q: w3 w4 A: yes"
    theirs = AutoTokenizer.from_pretrained(model.hf.name_or_path)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


@pytest.mark.numerical
def test_stock_lm_eval_on_the_export_gives_the_accuracies_of_our_pruning(
    opt, artifacts_of_opt, yaml, task_path, prompts, tmp_path
):
    by = {name: ranking(opt, name) for name in ("heads", "ffns")}
    evaluation = Evaluation(prompts, "evaluation", yaml)  # two shots, eight documents
    rows = pl.DataFrame(pruning.prune(opt, evaluation, {"task": by}, [(50.0, 34.0)])["task"])
    cuts = {"heads": Cut("task", 50), "ffns": Cut("task", 34)}
    export.export("m", cuts, tmp_path / "out", artifacts_of_opt)
    stock = HFLM(str(tmp_path / "out"), device="cpu", batch_size=4)
    reference = evaluate(stock, ["tiny_a"], task_path, num_fewshot=2, limit=8)
    assert reference["results"]["tiny_a"]["acc,none"] == rows["metric"].mean()
    for document, sample in zip(
        rows["log_likelihoods"], reference["samples"]["tiny_a"], strict=True
    ):
        expected = [float(response[0]) for response in sample["filtered_resps"]]
        assert document.to_list() == pytest.approx(expected, abs=tolerance(opt))


def saved(directory):
    """The tensors in the files of a checkpoint, by name."""
    return {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}


def with_dtypes(opt, source, config, of_layers, shards=1):
    """A copy of a model whose layers are stored in some types, under a configuration's `dtype`."""
    hf = copy.deepcopy(opt.hf).to(of_layers[0])
    for layer, dtype in zip(hf.model.decoder.layers, of_layers, strict=True):
        layer.to(dtype)
    # A number that float16 does not hold, and one that bfloat16 rounds.
    hf.model.decoder.layers[2].fc1.weight[0, :2] = torch.tensor([7e4, 1 + 2**-9])
    hf.save_pretrained(source, max_shard_size="20KB" if shards > 1 else "1GB")
    assert len([*source.glob("*.safetensors")]) >= shards
    opt.tokenizer.save_pretrained(source)
    described = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(described | {"dtype": config}))


FULL, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    "config,of_layers,shards,loaded_as",
    [
        ("float16", [BRAIN] * 3, 1, BRAIN),  # infinite in float16
        ("float32", [BRAIN] * 3, 1, FULL),  # nothing is lost, and the configuration is kept
        ("bfloat16", [FULL] * 3, 2, FULL),  # rounded in bfloat16
        ("float16", [HALF, HALF, FULL], 2, FULL),
        ("bfloat16", [FULL, BRAIN, FULL], 1, FULL),
    ],
)
def test_weights_keep_the_dtypes_that_they_are_stored_in(
    opt, artifacts_of_opt, tmp_path, config, of_layers, shards, loaded_as
):
    with_dtypes(opt, tmp_path / "stored", config, of_layers, shards)
    path = artifacts_of_opt / "m" / "model.json"
    storage.write_json(path, storage.read_json(path) | {"source": str(tmp_path / "stored")})
    export.export("m", {"heads": Cut("task", 0)}, tmp_path / "out", artifacts_of_opt)
    before, after = saved(tmp_path / "stored"), saved(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in before.items():  # 0 %: bit for bit
        assert after[name].dtype == weight.dtype and torch.equal(after[name], weight), name
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # as its configuration says
    assert loaded.dtype == loaded_as
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight.double(), before[name].double()), name


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["headcount", "export", *map(str, arguments)])
    main()


def test_each_component_is_cut_at_its_own_level(artifacts_of_opt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # artifacts/ is where a study runs
    out = tmp_path / "deep" / "out"
    cuts = ["--ffns", "task@34", "--heads", "task@50"]
    command(monkeypatch, "--model", "m", *cuts, out)
    report = json.loads((out / "headcount.json").read_text())
    assert {name: cut["level"] for name, cut in report["rankings"].items()} == {
        "ffns": 34,
        "heads": 50,
    }
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]  # nothing left beside


@pytest.mark.parametrize(
    "arguments,message",
    [
        ("--model m --heads task OUT", "'task' is not RANKING@LEVEL.*such as aggregate/5-shot@70"),
        ("--model m --heads task@ OUT", "'task@' is not RANKING@LEVEL"),
        ("--model m --heads task@101 OUT", "'task@101' is not RANKING@LEVEL"),
        ("--model m OUT", "say what to remove: --heads RANKING@LEVEL"),
        ("--model mm --heads task@50 OUT", r"no model 'mm' in .*\(there: m\): did you mean m\?"),
        ("--model m --heads tsk@50 OUT", "'tsk' does not exist: .*aggregate/0-shot, .*task/0"),
        (
            "--model m --heads aggregate@50 OUT",
            "several numbers of shots: .* aggregate/0-shot, aggregate/5-shot$",
        ),
        ("--model m --heads no.parquet@50 OUT", "heads: no.parquet is not a Parquet file"),
        ("--model m --heads task@0.7 OUT", "0.7 % of 12 heads removes none: did you mean 70"),
        ("--model m --ffns task@5 OUT", "5 % of 3 ffns removes none: 33.4 % removes one"),
        ("--model m --ffns task@34 FULL", "FULL exists and is not an empty directory"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_loaded(
    artifacts_of_opt, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_loading, "load", None)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "precious").touch()
    with pytest.raises(SystemExit, match=message):
        command(monkeypatch, *arguments.split())
    assert not (tmp_path / "OUT").exists()
    assert [path.name for path in (tmp_path / "FULL").iterdir()] == ["precious"]


def test_what_was_pruned_with_stand_ins_is_refused(artifacts_of_opt, tmp_path, monkeypatch):
    monkeypatch.setattr(model_loading, "load", None)
    path = artifacts_of_opt / "m" / "pruning" / "task" / "0-shot" / "heads" / "by-task.parquet"
    rows = schemas.ROWS["rankings"].empty_table()
    made = {"made_of": {"parameters": {"ablation": {"kind": "resample", "seed": 0}}}}
    storage.write(path, rows, schemas.ROWS["rankings"], made)
    with pytest.raises(export.ExportError, match=r"by-task\.parquet was .* `ablation: resample`"):
        export.export("m", {"heads": Cut("task", 50)}, tmp_path / "out", artifacts_of_opt)


def test_a_model_that_changed_since_it_was_studied_is_refused(
    opt, artifacts_of_opt, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_loading, "load", None)
    source = tmp_path / "source"
    shutil.copytree(opt.hf.name_or_path, source)
    path = artifacts_of_opt / "m" / "model.json"
    studied = {"source": str(source), "fingerprint": fingerprint(source)}
    storage.write_json(path, storage.read_json(path) | studied)
    tiny.save_model(source, seed=1)
    with pytest.raises(export.ExportError, match=r"source does not have the fingerprint .* as m"):
        export.export("m", {"heads": Cut("task", 50)}, tmp_path / "out", artifacts_of_opt)


@pytest.mark.parametrize("family", ["opt", "llama"])  # llama: smaller tensors are tried before
def test_what_is_not_the_studied_model_is_refused_and_leaves_nothing(
    all_models, tmp_path, monkeypatch, family
):
    """An export that forgets a head and the FFN."""
    directory = study(all_models[family], tmp_path / "artifacts")
    zero = export.zero
    monkeypatch.setattr(export, "zero", lambda model, gone: zero(model, (gone[0][1:], ())))
    cuts = {"heads": Cut("task", 80), "ffns": Cut("task", 34)}
    with pytest.raises(export.ExportError, match=r"m \(X\).*off by .*, where rounding explains"):
        export.export("m", cuts, tmp_path / "out", directory)
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]


def test_a_tokenizer_that_reads_otherwise_is_refused(opt, artifacts_of_opt, tmp_path, monkeypatch):
    def save(tokenizer, directory):
        text = (opt_files / "tokenizer.json").read_text()
        (directory / "tokenizer.json").write_text(text.replace('"w7"', '"w77"'))
        shutil.copy(opt_files / "tokenizer_config.json", directory)

    opt_files = Path(opt.hf.name_or_path)
    monkeypatch.setattr(type(opt.tokenizer), "save_pretrained", save)
    with pytest.raises(export.ExportError, match=r"its tokenizer encodes .* differently"):
        export.export("m", {"heads": Cut("task", 50)}, tmp_path / "out", artifacts_of_opt)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_what_does_not_fit_into_memory_is_compared_from_disk(
    all_models, tmp_path, monkeypatch, family
):
    directory = study(all_models[family], tmp_path / "artifacts")
    cuts = {"heads": Cut("task", 80), "ffns": Cut("task", 34)}
    here = export.export("m", cuts, tmp_path / "here", directory)
    placed = []
    load = model_loading.load
    monkeypatch.setattr(_exported, "get_max_memory", lambda: {"cpu": 1000})
    monkeypatch.setattr(
        model_loading, "load", lambda *a, **k: placed.append(k.get("device_map")) or load(*a, **k)
    )
    there = export.export("m", cuts, tmp_path / "there", directory)
    assert placed == ["disk", None, "disk"]  # only what is written is held, as it is stored
    assert there["configuration"] == here["configuration"]
    weights = saved(tmp_path / "here"), saved(tmp_path / "there")
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_code_of_the_checkpoint_and_settings_of_generation_go_along(
    all_models, tmp_path, monkeypatch
):
    """A Llama with code of its own, whose generation has a temperature and does not draw."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = tmp_path / "source"
    shutil.copytree(all_models["llama"].hf.name_or_path, source)
    names = {"AutoConfig": "configuration_my.Mine", "AutoModelForCausalLM": "modeling_my.My"}
    described = json.loads((source / "config.json").read_text())
    described |= {"model_type": "my", "auto_map": names}
    (source / "config.json").write_text(json.dumps(described))
    (source / "configuration_my.py").write_text(
        "from transformers import LlamaConfig\nclass Mine(LlamaConfig):\n    model_type = 'my'\n"
    )
    (source / "modeling_my.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_my import Mine\n"
        "class My(LlamaForCausalLM):\n    config_class = Mine\n"
    )
    generation = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "max_length": 7}
    (source / "generation_config.json").write_text(json.dumps(generation))
    directory = study(all_models["llama"], tmp_path / "artifacts")
    path = directory / "m" / "model.json"
    trusted = {"source": str(source), "trust_remote_code": True}
    storage.write_json(path, storage.read_json(path) | trusted)
    removed = {"heads": Cut("task", 60), "ffns": Cut("task", 34)}
    export.export("m", removed, tmp_path / "out", directory)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == "My"
    assert (
        generation.items()
        <= json.loads((tmp_path / "out" / "generation_config.json").read_text()).items()
    )


def test_an_export_that_fails_leaves_nothing(artifacts_of_opt, tmp_path, monkeypatch):
    def fail(report):
        raise OSError("disk full")

    monkeypatch.setattr(export, "card", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export("m", {"heads": Cut("task", 50)}, tmp_path / "out", artifacts_of_opt)
    shutil.rmtree(artifacts_of_opt)
    assert list(tmp_path.iterdir()) == []
