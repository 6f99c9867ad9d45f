"""A study of invented numbers, of any size, with all the artifacts that the explorer shows."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from headcount.artifacts import schemas, storage
from headcount.report import tables
from headcount.report.explorer import Files
from headcount.scores import correlation, pruning, rankings

METRIC = {"metric": "acc", "chance": 0.5}
BOOTSTRAP = {"resamples": 10, "seed": 0}


@dataclass(frozen=True)
class Size:
    """What there is of everything; `levels` are percentages of heads and of FFNs."""

    layers: int = 3
    heads: int = 4
    tasks: tuple[str, ...] = ("anagrams", "capitals", "verbs")
    heldout: tuple[str, ...] = ("sums",)
    shots: tuple[int, ...] = (0, 2)
    levels: tuple[int, ...] = (0, 25, 50, 75)
    documents: int = 30
    random: int = 2
    induction: bool = True
    estimators: tuple[str, ...] = ()  # beside the study's own
    context: str = "Question {}?"
    truncated: int = 0  # prompts cut to the model's window


class Invented:
    """Writes the artifacts below `directory` and keeps their paths in `files`."""

    def __init__(self, directory: Path, size: Size):
        self.directory, self.size = directory, size
        self.draw = np.random.default_rng(0)
        self.model = {
            "name": "invented",
            "architecture": "OPTForCausalLM",
            "layers": size.layers,
            "heads": [size.heads] * size.layers,
            "ffns": list(range(size.layers)),
        }
        self.importance = self._importance()
        self.pruning = self._pruning()
        self.files = Files(
            importance=list(self.importance.values()),
            estimators=self._estimators(),
            controls=self._controls(),
            induction=self._induction() if size.induction else [],
            pruning=[path for paths in self.pruning.values() for path in paths],
            prompts=self._prompts(),
            tables=self._tables(),
        )

    def write(self, path: str, rows, schema: str | None, **made) -> str:
        table = pl.DataFrame(rows).to_arrow() if schema is None else rows
        expected = table.schema if schema is None else schemas.SCHEMAS[schema]
        storage.write(self.directory / path, table, expected, {"model": self.model, **made})
        return str(self.directory / path)

    def _scores(self, component: str) -> dict:
        pairs = rankings.components(component, self.model["heads"], self.model["ffns"])
        score = self.draw.lognormal(0, 1.5, len(pairs))
        return {
            "layer": [layer for layer, _ in pairs],
            "head": [head for _, head in pairs],
            "score": score,
            "standard_error": score / 10,
            "n": [1] * len(pairs),
            "contributions": score[:, None].tolist(),
            "weights": [[1.0]] * len(pairs),
        }

    def _importance(self) -> dict[tuple, str]:
        estimator = {"heads": "gradient-token", "ffns": "oracle-task"}
        return {
            (component, task, shots): self.write(
                f"importance/{task}/{shots}-shot/{component}.parquet",
                self._scores(component),
                "importance",
                component=component,
                task=task,
                shots=shots,
                estimator=estimator[component],
            )
            for component, task, shots in product(estimator, self.size.tasks, self.size.shots)
        }

    def _estimators(self) -> list[str]:
        made = []
        if self.size.estimators:
            for component, task, shots in self.importance:
                rows = [
                    pl.DataFrame(self._scores(component)).with_columns(estimator=pl.lit(name))
                    for name in self.size.estimators
                ]
                table = pl.concat(rows).to_arrow()
                path = f"estimators/{task}/{shots}-shot/{component}.parquet"
                about = {"component": component, "task": task, "shots": shots}
                made.append(self.write(path, table, "estimators", **about))
        return made

    def _controls(self) -> list[str]:
        made = []
        for component, shots in product(("heads", "ffns"), self.size.shots):
            pairs = rankings.components(component, self.model["heads"], self.model["ffns"])
            schema = {"layer": pl.Int32, "head": pl.Int32}
            frame = pl.DataFrame(pairs, schema, orient="row")
            orders = {"depth": rankings.depth(frame)}
            for i in range(self.size.random):
                orders[f"random-{i}"] = rankings.random_order(frame, 0, i)
            for name, ranking in orders.items():
                path = f"rankings/{name}/{shots}-shot/{component}.parquet"
                about = {"component": component, "shots": shots, "ranking": name}
                made.append(self.write(path, ranking.to_arrow(), "rankings", **about))
        return made

    def _induction(self) -> list[str]:
        columns = ["layer", "head", "score", "standard_error", "n"]
        return [
            self.write(
                f"induction/{kind}.parquet",
                pl.DataFrame(self._scores("heads")).select(columns).to_arrow(),
                "induction",
                kind=kind,
            )
            for kind in ("prefix_matching", "copying")
        ]

    # --- prompts and pruning: a document has two choices, of which the first is right ---

    def _prompts(self) -> list[str]:
        made = []
        for task, shots in product((*self.size.tasks, *self.size.heldout), self.size.shots):
            rows = [
                {
                    "split": "evaluation",
                    "doc_id": document,
                    "choice": choice,
                    "context": self.size.context.format(document),
                    "continuation": f" {name}-{document}",
                    "gold": choice == 0,
                    "query_in_examples": False,
                    "doc": json.dumps({}) if choice == 0 else None,
                }
                for document in range(self.size.documents)
                for choice, name in enumerate(("right", "wrong"))
            ]
            path = f"tasks/{task}/{shots}-shot/evaluation.parquet"
            about = {"task": task, "shots": shots, "split": "evaluation", "remarks": []}
            made.append(self.write(path, rows, "tasks", **about))
        return made

    def _pruning(self) -> dict[str, list[str]]:
        """Component -> files; "transfer" has those that only its table shows."""
        size = self.size
        shared = [*(["aggregate"] if len(size.tasks) > 1 else []), "depth"]
        shared += [f"random-{i}" for i in range(size.random)]
        made: dict[str, list[str]] = {"heads": [], "ffns": [], "combined": [], "transfer": []}
        for task, shots in product(size.tasks, size.shots):
            for component in ("heads", "ffns", "combined"):
                for name in (task, *shared):
                    made[component].append(self._pruned(task, shots, component, name))
        for task, shots in product(size.heldout, size.shots):
            made["transfer"] += [self._pruned(task, shots, "heads", name) for name in shared]
        return made

    def _pruned(self, task: str, shots: int, component: str, ranking: str) -> str:
        """Document i is lost above a level of its own, a later one by the task's own ranking."""
        heads = self.size.levels if component != "ffns" else (0,)
        ffns = self.size.levels if component != "heads" else (0,)
        robust = 20 if ranking == task else 0
        rows = []
        for (of_heads, of_ffns), document in product(
            product(heads, ffns), range(self.size.documents)
        ):
            right = max(of_heads, of_ffns) <= robust + 90 * document / self.size.documents
            likelihoods = [-1.25 - document / 100, -2.5] if right else [-3.75, -2.5]
            rows.append(
                {
                    "ranking": ranking,
                    "heads_level": float(of_heads),
                    "ffns_level": float(of_ffns),
                    "heads_removed": of_heads * self.size.layers * self.size.heads // 100,
                    "ffns_removed": of_ffns * self.size.layers // 100,
                    "doc_id": document,
                    "log_likelihoods": likelihoods,
                    "is_greedy": [right, False],
                    "metric": float(right),
                    "results": "{}",
                }
            )
        about = {"task": task, "shots": shots, "component": component, "ranking": ranking}
        heldout = task in self.size.heldout
        path = f"pruning/{task}/{shots}-shot/{component}/by-{ranking}.parquet"
        about |= {"heldout": heldout, "truncated": self.size.truncated}
        about["order"] = pruning.order(ranking, task)
        return self.write(path, rows, "pruning", **about, **METRIC)

    # --- the tables of the figures ---

    def _tables(self) -> dict[str, str]:
        pruned = self.pruning
        made = {
            "head_pruning": tables.head_pruning(pruned["heads"], **BOOTSTRAP),
            "ffn_pruning": tables.ffn_pruning(pruned["ffns"], **BOOTSTRAP),
            "combined_pruning": tables.combined_pruning(pruned["combined"], **BOOTSTRAP),
            "transfer": tables.transfer(pruned["heads"] + pruned["transfer"], **BOOTSTRAP),
            "cross_task": self._pairs(across_shots=False),
            "cross_shot": self._pairs(across_shots=True),
        }
        paths = {
            name: self.write(f"tables/{name}.parquet", table, None) for name, table in made.items()
        }
        parts = [paths[f"{name}_pruning"] for name in ("head", "ffn", "combined")]
        paths["summary"] = self.write("tables/summary.parquet", tables.summary(*parts), None)
        return paths

    def _pairs(self, across_shots: bool) -> pl.DataFrame:
        """Every pair, and every task with itself, as the two tables have them."""
        schema = pl.Schema(schemas.SCHEMAS["correlation"])
        rows = []
        for (component, a, at), (other, b, then) in product(self.importance, repeat=2):
            same = a == b if across_shots else at == then
            ordered = at < then if across_shots else a <= b
            if component != other or not (same and ordered):
                continue
            scores = [
                storage.frame(self.importance[key], ["layer", "head", "score"])
                for key in ((component, a, at), (component, b, then))
            ]
            found = correlation.agreement(*scores)
            row = {"a": a, "b": b, "shots_a": at, "shots_b": then, "rho": found.rho}
            row |= {"rho_low": found.rho - 0.1, "rho_high": found.rho + 0.1}
            row |= {"overlap": found.overlap, "overlap_chance": found.chance}
            rows.append({"component": component, **row})
        table = pl.DataFrame(rows, {"component": pl.String, **schema})
        return table if across_shots or len(self.size.tasks) > 1 else table.clear()
