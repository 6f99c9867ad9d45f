"""The cost of a study before it runs: FLOPs, bytes read, memory and hours of each stage.

A sweep costs as much as its matrix products: tokens x passes through a layer x twice the remaining
weights of the layer. Weights that do not fit in the machine's memory are read from disk, and then
also hidden states that exceed the study's `memory`. Nothing overlaps, so that times add up. Tokens
are estimated from the prompts' characters: neither weights nor tokenizer are needed.

| stage | tokens | passes through a layer | states that wait |
| --- | --- | --- | --- |
| gradient scores | gold prompts, not shared | 2 L (forward, backward), 3 L from disk | L |
| oracle of N components | trie | L, and (L + 1) / 2 a component | N + 1 |
| a curve of M masks | trie | M L at most | M |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from headcount.artifacts import schemas, storage
from headcount.messages import duration, unit
from headcount.scores.rankings import count_removed
from headcount.study.machines import MACHINES, Machine, here
from headcount.tasks import loading, prompts as task_prompts
from headcount.tasks.prompts import split_rows

if TYPE_CHECKING:  # importing it takes seconds, at every start of a study
    from transformers import PreTrainedConfig

NAMES = {"heads": "heads", "ffns": "FFNs", "combined": "both"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # per weight
CHARACTERS = 4.2  # per token of English text, with a byte-pair vocabulary of 50,000


@dataclass(frozen=True)
class Size:
    """The dimensions of a model that decide its cost."""

    layers: int
    heads: int  # of all layers
    ffns: int  # layers that have an FFN
    d_model: int
    attention_weights: int  # of all layers
    ffn_weights: int  # of all layers, with norms and everything else except attention
    vocabulary_weights: int
    bytes_per_weight: int

    @classmethod
    def of(
        cls,
        config: "PreTrainedConfig",
        dtype: str,
        trust_remote_code: bool = False,
        layout: dict[str, str] | None = None,
    ) -> "Size":
        """Return the size by transformers' configuration, counting weights of an empty model."""
        import torch
        from transformers import AutoModelForCausalLM

        from headcount.models.families import Layout
        from headcount.models.language_model import LanguageModel

        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            model = LanguageModel(empty, None, layout=Layout(**layout) if layout else None)
        return cls.resolved(model.facts, dtype)

    @classmethod
    def resolved(cls, facts: dict, dtype: str) -> "Size":
        """Return the size by the facts of a resolved model."""
        return cls(
            layers=facts["layers"],
            heads=sum(facts["heads"]),
            ffns=len(facts["ffns"]),
            d_model=facts["d_model"],
            **{f"{part}_weights": number for part, number in facts["weights"].items()},
            bytes_per_weight=BYTES[dtype],
        )

    @property
    def layer_weights(self) -> int:
        """The weights of a layer, on average."""
        return (self.attention_weights + self.ffn_weights) // self.layers

    @property
    def bytes(self) -> int:
        weights = self.attention_weights + self.ffn_weights + self.vocabulary_weights
        return weights * self.bytes_per_weight

    @property
    def state(self) -> int:
        """The bytes of a token's hidden state."""
        return self.d_model * self.bytes_per_weight

    def flops(self, tokens: float, passes: float, scored: float) -> float:
        """Return the FLOPs of tokens that pass whole layers, and of scored ones, unembedded."""
        return 2 * (tokens * passes * self.layer_weights + scored * self.vocabulary_weights)


@dataclass(frozen=True)
class Stage:
    """The cost of one stage of a task at one number of shots."""

    task: str
    shots: int
    name: str
    flops: float
    readings: int  # of streamed weights
    held: float  # bytes of hidden states between layers, if weights stream
    moved: float  # bytes written and read if these go to disk
    recomputed: float = 0  # additional FLOPs if weights stream

    def read(self, size: Size, machine: Machine, memory: float) -> float:
        """Return the bytes from and to disk of a sweep with `memory` bytes beside the weights.

        As with `device_map: auto`, weights that do not fit are read, others stay. Half of `memory`
        bounds the states.
        """
        streamed = max(0, size.bytes + memory - machine.memory)
        if not streamed:
            return 0
        return self.readings * streamed + (self.moved if self.held > memory / 2 else 0)

    def hours(self, size: Size, machine: Machine, memory: float) -> float:
        """Return the hours of a job with `memory` bytes beside the weights."""
        read = self.read(size, machine, memory)
        flops = self.flops + (self.recomputed if read else 0)
        return (flops / machine.rate + read / machine.stream) / 3600


def stages(size: Size, prompts: pa.Table, task: str, shots: int, config: dict) -> list[Stage]:
    """Return the stages of one studied task at one number of shots, by `config`."""
    scored = split_rows(prompts, config["importance"]["documents"])
    evaluation = split_rows(prompts, "evaluation")
    found = []
    for component in ("heads", "ffns"):
        name = f"importance of {NAMES[component]}"
        if config["importance"][component]["estimator"] == "gradient":
            found.append(_gradients(size, scored, (task, shots, name)))
        else:
            number = size.heads if component == "heads" else size.ffns
            found.append(_oracle(size, scored, number, (task, shots, name)))
    rankings = 2 + 1 + config["random_rankings"]  # own, aggregate; depth; random
    for what, removals in _removals(size, config["levels"]).items():
        name = f"pruning of {what}"
        found.append(_curve(size, evaluation, removals, rankings, (task, shots, name)))
    return found


def _gradients(size: Size, scored: list[dict], name: tuple[str, int, str]) -> Stage:
    gold = [row for row in scored if row["gold"]]
    tokens, state = _tokens(gold, shared=False), size.state
    forward = size.flops(tokens, size.layers, len(gold))
    # A layer's input is written once and read twice, forward and backward; a gradient is written
    # and read once.
    held, moved = tokens * size.layers * state, 5 * tokens * size.layers * state
    return Stage(*name, 2 * forward, 2, held, moved, recomputed=forward)


def _oracle(size: Size, scored: list[dict], components: int, name: tuple[str, int, str]) -> Stage:
    tokens, states = _tokens(scored), components + 1
    passes = size.layers + components * (size.layers + 1) / 2
    flops = size.flops(tokens, passes, len(scored) * states)
    held, moved = tokens * states * size.state, 2 * tokens * passes * size.state
    return Stage(*name, flops, 1, held, moved)


def _curve(
    size: Size,
    evaluation: list[dict],
    removals: set[tuple],
    rankings: int,
    name: tuple[str, int, str],
) -> Stage:
    """Return a curve's stage; `removals` are numbers of heads and FFNs; rankings share (0, 0)."""
    tokens = _tokens(evaluation)
    flops, masks = 0.0, 0
    for heads, ffns in removals:
        gone = heads / size.heads * size.attention_weights + ffns / size.ffns * size.ffn_weights
        layers = size.layers - gone / size.layer_weights  # the equivalent of whole ones
        times = rankings if heads or ffns else 1
        flops += times * size.flops(tokens, layers, len(evaluation))
        masks += times
    held = tokens * masks * size.state
    return Stage(*name, flops, 1, held, 2 * held * size.layers)


def _removals(size: Size, levels: dict) -> dict[str, set[tuple]]:
    """Return the distinct numbers of heads and FFNs that the levels of each curve remove."""

    def counts(heads: list[float], ffns: list[float]) -> set[tuple]:
        return {
            (count_removed(h, size.heads), count_removed(f, size.ffns))
            for h, f in product(heads, ffns)
        }

    both = levels["combined"]
    return {
        "heads": counts(levels["heads"], [0]),
        "FFNs": counts([0], levels["ffns"]),
        "both": counts(both["heads"], both["ffns"]),
    }


def _tokens(rows: list[dict], shared: bool = True) -> float:
    """Return the tokens of the prompts; if shared, a document's context counts once."""
    contexts = {(row["doc_id"], row["context"]): len(row["context"]) for row in rows}
    characters = sum(len(row["continuation"]) for row in rows)
    characters += sum(contexts.values() if shared else (len(row["context"]) for row in rows))
    return characters / CHARACTERS


# --- the study ---


def show(config: dict, with_stages: bool = False, console: Console | None = None) -> None:
    """Print the cost of each model of the study in `config`, as `configuration` reads it.

    Prompts are read from the study's artifacts if they exist, else prepared. Raises `TaskError`
    when a task cannot be prepared, `ModelError` when a model has no configuration or its components
    are not found.
    """
    console = console or Console()
    machines = (here(), *MACHINES)
    for name, model in config["models"].items():
        size = size_of(model)
        memory = model["memory"] * 2**20
        found = list(stages_of(size, config))
        flops = sum(stage.flops for stage in found)
        console.print(
            f"[bold]{name}[/bold]: {unit(flops, 'FLOP')} in all; {unit(size.bytes, 'B')} of weights"
            f" in {model['dtype']}\n{size.layers} layers, {size.heads} heads, {size.ffns} FFNs; at "
            f"most {unit(memory, 'B')} beside the weights",
            highlight=False,
        )
        console.print(_times(found, size, memory, machines))
        if with_stages:
            console.print(_table(found, size, memory, machines[0]))
    console.print(
        f"Arithmetic and weights read from disk alone, of one job at a time; tokens estimated at "
        f"{CHARACTERS} characters. Jobs take a second or two more to start.",
        highlight=False,
    )


def size_of(model: dict) -> Size:
    """Return the size of a model, by its entry in the configuration; no weight is read.

    Raises `ModelError` when it has no configuration or its components are not found.
    """
    from headcount.models import conversion

    trust = model["trust_remote_code"]
    described = conversion.configuration(
        model["source"], model["revision"], model["gguf_file"], trust
    )
    return Size.of(described, model["dtype"], trust, model["layout"])


def stages_of(size: Size, config: dict) -> Iterator[Stage]:
    """Yield every stage of every studied task at every number of shots."""
    for task in loading.expand(config["tasks"], config["task_path"]):
        for shots in config["shots"]:
            yield from stages(size, _prompts(task, shots, config), task, shots, config)


def _prompts(task: str, shots: int, config: dict) -> pa.Table:
    """Return the prompts of the documents that are scored, and of those that are evaluated."""
    splits = sorted({config["importance"]["documents"], "evaluation"})
    directory = Path(config["artifacts"], "tasks", task, f"{shots}-shot")
    files = [directory / f"{split}.parquet" for split in splits]
    if all(path.exists() for path in files):
        return storage.read(*files)
    limits = task_prompts.Limits(**config["limits"])
    yaml = loading.find(task, config["task_path"])
    rows = task_prompts.prepare(
        yaml, shots, limits, config["seed"], config["datasets"], splits=splits
    )
    return pa.Table.from_pylist(rows, schemas.ROWS["tasks"])


def _times(found: list[Stage], size: Size, memory: float, machines: Sequence[Machine]) -> Table:
    """Return a table of the times on each machine; `memory` in bytes, beside the weights."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("machine", "time", "read from disk"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    for machine in machines:
        hours = sum(stage.hours(size, machine, memory) for stage in found)
        read = sum(stage.read(size, machine, memory) for stage in found)
        table.add_row(machine.name, duration(hours), unit(read, "B") if read else "-")
    return table


def _table(found: list[Stage], size: Size, memory: float, machine: Machine) -> Table:
    """Return a table of the stages; `memory` in bytes, beside the weights."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="states: hidden states of all prompts and masks",
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("task", "shots", "stage", "work", "states", "from disk", "here"):
        table.add_column(column, justify="left" if column in ("task", "stage") else "right")
    for stage in found:
        read = stage.read(size, machine, memory)
        table.add_row(
            stage.task,
            str(stage.shots),
            stage.name,
            unit(stage.flops, "FLOP"),
            unit(stage.held, "B"),
            unit(read, "B") if read else "-",
            duration(stage.hours(size, machine, memory)),
        )
    return table
