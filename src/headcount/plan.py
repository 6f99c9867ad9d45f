"""What a study will cost, before it runs: FLOPs, bytes read, memory and hours of each stage.

The cost of a sweep is that of its matrix products, tokens x passes through a layer x twice the
layer's weights, and of reading the weights where they do not fit in the machine's memory; the
larger of the two times counts. Tokens are estimated from the prompts' characters, so that neither
weights nor tokenizer are needed.

| stage | tokens | passes through a layer |
| --- | --- | --- |
| gradient scores | gold prompts, not shared | 2 (forward, backward), 3 where weights stream |
| oracle of N components | trie | L, and (L + 1) / 2 a component |
| a curve of M masks | trie | M L |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, PreTrainedConfig

from headcount import artifacts, tasks
from headcount.evaluation import split_rows
from headcount.rankings import count_removed

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"
NAMES = {"heads": "heads", "ffns": "FFNs"}
CHARACTERS = 4.2  # a token, of English text in a byte-pair vocabulary of 50,000


@dataclass(frozen=True)
class Machine:
    """What computes: fast memory (bytes), sustained FLOP/s, bytes/s at which weights stream."""

    name: str
    memory: float
    rate: float
    stream: float


MACHINES = (
    Machine("1 GPU of 80 GB", 80e9, 150e12, 3e9),  # half of an A100's bf16 peak; an NVMe disk
    Machine("8 GPUs of 80 GB", 640e9, 150e12, 3e9),  # layers in turn: memory of eight, rate of one
    Machine("CPU node, 64 cores, 512 GB", 512e9, 2e12, 3e9),
)


@dataclass(frozen=True)
class Size:
    """The dimensions of a model that its cost depends on."""

    layers: int
    heads: int
    layer_weights: int
    vocabulary_weights: int
    bytes_per_weight: int

    @classmethod
    def of(cls, config: PreTrainedConfig, dtype: str) -> "Size":
        """From transformers' configuration, by counting the weights of an empty model."""
        import torch
        from transformers import AutoModelForCausalLM

        from headcount.model import LanguageModel

        with torch.device("meta"):
            model = LanguageModel(AutoModelForCausalLM.from_config(config), None)
        return cls(
            layers=model.num_layers,
            heads=model.num_heads,
            layer_weights=sum(p.numel() for p in model.layers[0].parameters()),
            vocabulary_weights=model.hf.get_output_embeddings().weight.numel(),
            bytes_per_weight=getattr(torch, dtype).itemsize,
        )

    @property
    def bytes(self) -> int:
        weights = self.layers * self.layer_weights + self.vocabulary_weights
        return weights * self.bytes_per_weight


@dataclass(frozen=True)
class Stage:
    """One stage of one (task, shots)."""

    task: str
    shots: int
    name: str
    flops: float
    readings: int  # of all weights, where they stream

    def hours(self, size: Size, machine: Machine) -> float:
        streamed = self.readings * size.bytes if size.bytes > machine.memory else 0
        return max(self.flops / machine.rate, streamed / machine.stream) / 3600


def stages(size: Size, prompts: pa.Table, task: str, shots: int, config: dict) -> list[Stage]:
    """The stages of one studied task at one number of shots, as `config` asks for them."""
    calibration, evaluation = (
        split_rows(prompts, split) for split in ("calibration", "evaluation")
    )
    rankings = 2 + 1 + config["random_rankings"]  # own, aggregate; depth; random
    found = []
    for component in ("heads", "ffns"):
        chosen = config["importance"][component]["estimator"]
        number = size.layers * (size.heads if component == "heads" else 1)
        if chosen == "gradient":
            gold = [row for row in calibration if row["gold"]]
            flops = 2 * _flops(size, _tokens(gold, shared=False), size.layers, len(gold))
        else:
            passes = size.layers + number * (size.layers + 1) / 2
            flops = _flops(size, _tokens(calibration), passes, len(calibration) * (number + 1))
        readings = 2 if chosen == "gradient" else 1
        found.append(Stage(task, shots, f"importance of {NAMES[component]}", flops, readings))
    for name, masks in _masks(size, config["levels"]).items():
        many = 1 + rankings * (masks - 1)
        flops = _flops(size, _tokens(evaluation), many * size.layers, len(evaluation) * many)
        found.append(Stage(task, shots, f"pruning of {name}", flops, 1))
    return found


def _masks(size: Size, levels: dict) -> dict[str, int]:
    """Different masks of each curve of one ranking, the unpruned model included."""
    heads, ffns = size.layers * size.heads, size.layers

    def different(percentages: Sequence[float], total: int) -> int:
        return len({count_removed(level, total) for level in percentages})

    both = levels["combined"]
    return {
        "heads": different(levels["heads"], heads),
        "FFNs": different(levels["ffns"], ffns),
        "both": different(both["heads"], heads) * different(both["ffns"], ffns),
    }


def _tokens(rows: list[dict], shared: bool = True) -> float:
    """Tokens of the prompts; shared: the context of a document once for all its choices."""
    contexts = {(row["doc_id"], row["context"]): len(row["context"]) for row in rows}
    characters = sum(len(row["continuation"]) for row in rows)
    characters += sum(contexts.values() if shared else (len(row["context"]) for row in rows))
    return characters / CHARACTERS


def _flops(size: Size, tokens: float, passes: float, scored: float) -> float:
    return 2 * (tokens * passes * size.layer_weights + scored * size.vocabulary_weights)


# --- the study ---


def read_config(path: Path) -> dict:
    """A study's configuration with the defaults of the schema filled in."""
    schema = yaml.safe_load(SCHEMA.read_text())
    return _with_defaults(yaml.safe_load(path.read_text()), schema, schema["$defs"])


def _with_defaults(value, schema: dict, definitions: dict):
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | schema
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    absent = {k: s["default"] for k, s in properties.items() if k not in value and "default" in s}
    others = schema.get("additionalProperties") or {}
    return {
        key: _with_defaults(inner, properties.get(key, others), definitions)
        for key, inner in (value | absent).items()
    }


def show(config: dict, directory: Path, console: Console | None = None) -> None:
    """Print the cost of the study in `config`, whose defaults are filled in.

    Prompts are read from the artifacts in `directory` where they are, else prepared. Raises
    `tasks.TaskError` when a task cannot be prepared, `OSError` when a model has no configuration.
    """
    console = console or Console()
    for name, model in config["models"].items():
        size = Size.of(AutoConfig.from_pretrained(model["source"]), model["dtype"])
        console.print(
            f"[bold]{name}[/bold]: {size.layers} layers, {size.layers * size.heads} heads, "
            f"{size.bytes / 1e9:.1f} GB of weights in {model['dtype']}; "
            f"at most {model['memory'] / 1e3:g} GB beside them"
        )
        found = [
            stage
            for task in tasks.expand(config["tasks"], config["task_path"])
            for shots in config["shots"]
            for stage in stages(size, _prompts(task, shots, config, directory), task, shots, config)
        ]
        console.print(_table(found, size))


def _prompts(task: str, shots: int, config: dict, directory: Path) -> pa.Table:
    path = directory / "tasks" / task / f"{shots}-shot.parquet"
    if path.exists():
        return artifacts.read(path)
    limits = tasks.Limits(**config["limits"])
    task_yaml = tasks.find(task, config["task_path"])
    rows = tasks.prepare(task_yaml, shots, limits, config["seed"], config["datasets"])
    return pa.Table.from_pylist(rows, artifacts.SCHEMAS["tasks"])


def _table(found: list[Stage], size: Size) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="hours of one job on each machine; weights are read again for a sweep where they "
        f"do not fit; tokens estimated at {CHARACTERS} characters",
    )
    for column in ("task", "shots", "stage", "PFLOP", "GB read", *(m.name for m in MACHINES)):
        table.add_column(column, justify="left" if column in ("task", "stage") else "right")
    for stage in found:
        hours = [f"{stage.hours(size, machine):.2f}" for machine in MACHINES]
        read = f"{stage.readings * size.bytes / 1e9:.0f}"
        table.add_row(
            stage.task, str(stage.shots), stage.name, f"{stage.flops / 1e15:.1f}", read, *hours
        )
    total = [f"{sum(stage.hours(size, machine) for stage in found):.1f}" for machine in MACHINES]
    flops = sum(stage.flops for stage in found) / 1e15
    read = sum(stage.readings for stage in found) * size.bytes / 1e9
    table.add_section()
    table.add_row("all", "", "", f"{flops:.1f}", f"{read:.0f}", *total)
    return table
