"""The costs that a plan adds up are those of the sweep's own trees of states."""

import io
import re
from pathlib import Path

import gguf
import pytest
import yaml
from rich.console import Console
from study import STUDY
from transformers import AutoConfig

from headcount import messages
from headcount.engine import Masks
from headcount.engine.sharing import tree
from headcount.study import configuration, machines, model_checks, plan, resources


@pytest.fixture
def size(checkpoint):
    return plan.Size.of(AutoConfig.from_pretrained(checkpoint), "float32")


@pytest.fixture
def config(tmp_path, task_path, checkpoint):
    path = tmp_path / "config.yaml"
    models = {"tiny": {"source": str(checkpoint)}}
    study = {**STUDY, "models": models, "task_path": str(task_path), "heldout_tasks": []}
    study["artifacts"] = str(tmp_path)
    path.write_text(yaml.safe_dump(study))
    return configuration.read(path)


def test_a_size_counts_the_weights(size, opt):
    layer = sum(p.numel() for p in opt.layers[0].parameters())
    assert (size.layers, size.heads, size.layer_weights) == (3, 12, layer)
    assert size.vocabulary_weights == opt.hf.lm_head.weight.numel()


def test_defaults_of_the_schema_are_filled_in(config):
    assert config["ablation"] == "zero" and config["models"]["tiny"]["memory"] == 1000
    assert config["importance"]["heads"]["estimator"] == "gradient"
    assert config["induction"] == {"sequences": 2, "exclude_fraction": 0.04}


def test_stages_cost_what_the_trees_of_states_cost(size, config, opt, prompts):
    config["importance"]["heads"]["estimator"] = "oracle"
    found = {s.name: s for s in plan.stages(size, prompts, "tiny_a", 2, config)}
    removals = [([], []), *(([(index // 4, index % 4)], []) for index in range(12))]
    rows = plan.split_rows(prompts, "calibration")
    passes = tree(Masks.removing(opt, removals)).passes
    scored = len(rows) * 13
    expected = 2 * plan._tokens(rows) * passes * size.layer_weights
    expected += 2 * scored * size.vocabulary_weights
    assert found["importance of heads"].flops == pytest.approx(expected)
    assert found["importance of heads"].held == plan._tokens(rows) * 13 * opt.d_model * 4


def test_a_curve_costs_what_its_masks_keep(size, config, opt, prompts):
    # 0, 25, 50 % of 12 heads by own, aggregate, depth and one random ranking: the whole is common.
    found = {s.name: s for s in plan.stages(size, prompts, "tiny_a", 2, config)}
    rows = plan.split_rows(prompts, "evaluation")
    attention = sum(p.numel() for p in opt.parts[0].attention.parameters())
    layers = 9 * size.layers * size.layer_weights - 4 * (0.25 + 0.5) * size.layers * attention
    expected = 2 * plan._tokens(rows) * layers + 2 * len(rows) * 9 * size.vocabulary_weights
    assert found["pruning of heads"].flops == pytest.approx(expected)


def test_what_does_not_fit_is_read_from_disk(size):
    stage = plan.Stage("task", 0, "", flops=1e6, readings=2, held=10, moved=50, recomputed=1e6)
    large = machines.Machine("large", memory=size.bytes + 100, rate=1e3, stream=1)
    small = machines.Machine("small", memory=size.bytes, rate=1e3, stream=1)
    assert stage.hours(size, large, memory=18) == pytest.approx(1e3 / 3600)
    assert stage.read(size, small, memory=20) == 2 * 20
    assert stage.read(size, small, memory=18) == 2 * 18 + 50  # states that do not fit
    assert stage.hours(size, small, memory=20) == pytest.approx((2e3 + 40) / 3600)


def test_a_job_is_allowed_more_than_it_is_planned_to_take(size):
    entry = {"gpus": 0, "threads": 2, "mem_mb": 2000, "memory": 1000}
    assert resources.minutes(size, entry) == 11  # of a model that weighs nothing
    rate = machines.MACHINES[2].rate / 64
    hour = plan.Stage("task", 0, "", flops=2 * rate * 3600, readings=1, held=0, moved=0)
    assert resources.minutes(size, entry, [hour, hour]) == 11 + 2 * 120
    assert resources.minutes(size, entry | {"threads": 4}, [hour]) == 11 + 60
    assert resources.minutes(size, entry | {"gpus": 1}, [hour]) == 11


def test_a_job_is_given_memory_by_the_size_of_its_model():
    entry = {"mem_mb": None, "memory": 500, "gpus": 0, "device_map": "cpu"}
    weights = 14e9
    assert resources.megabytes(weights, entry) == 14000 + 500 + resources.START_MB
    assert resources.megabytes(weights, entry | {"device_map": "disk"}) == 500 + resources.START_MB
    on_gpu = entry | {"device_map": "auto", "gpus": 1}
    assert resources.megabytes(weights, on_gpu) == 500 + resources.START_MB
    beyond = weights - machines.MACHINES[0].memory + 200e9  # what the GPU does not hold
    assert resources.megabytes(weights + 200e9, on_gpu) == pytest.approx(
        beyond / 1e6 + 1500, abs=100
    )
    assert resources.megabytes(weights, entry | {"mem_mb": 3000}) == 3000


def test_the_size_of_a_model_that_is_not_resolved_is_that_of_its_files(checkpoint):
    files = [*Path(checkpoint).glob("*.safetensors")]
    assert model_checks.stored(checkpoint) == sum(file.stat().st_size for file in files) > 0
    assert model_checks.stored("somebody/a-model-of-the-hub") is None


def test_a_plan_begins_with_the_whole_and_has_stages_on_request(config):
    out = io.StringIO()
    plan.show(config, console=Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert re.match(r"tiny: [\d.]+ [MG]FLOP in all; [\d.]+ kB of weights in float32", lines[0])
    assert "here, " in out.getvalue() and "pruning" not in out.getvalue()
    assert max(map(len, lines)) <= 80
    plan.show(config, with_stages=True, console=Console(file=out, width=80))
    for words in ("tiny_a", "tiny_b", "importance of FFNs", "pruning of both"):
        assert words in out.getvalue()
    assert out.getvalue().count("pruning of heads") == 4  # two tasks, two numbers of shots
    assert max(map(len, out.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(
    "hours,shown",
    [(0.0001, "< 2 s"), (0.01, "36 s"), (0.1, "6.0 min"), (20, "20 h"), (1000, "42 days")],
)
def test_a_time_has_the_unit_that_suits_it(hours, shown):
    assert messages.duration(hours) == shown


def test_a_gguf_model_is_planned_from_its_header(config, tmp_path, checkpoint):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(64)
    writer.add_vocab_size(48)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tiny = config["models"]["tiny"] | {"source": str(tmp_path), "gguf_file": "m.gguf"}
    out = io.StringIO()
    plan.show(config | {"models": {"tiny": tiny}}, console=Console(file=out, width=80))
    assert "3 layers, 12 heads, 3 FFNs" in out.getvalue()
