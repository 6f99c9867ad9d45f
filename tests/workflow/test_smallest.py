"""The smallest studies have all figures; one that needs more says so in its place."""

import io
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from study import FIGURES

from headcount.artifacts import schemas, storage
from headcount.report import comparison, figures, summary, tables
from headcount.report.catalogue import FIGURES as CATALOGUE
from headcount.scores import correlation

BOOTSTRAP = {"resamples": 20, "seed": 0}


class Small:
    """A part of the finished tiny study: its figures' tables, made as the workflow makes them."""

    def __init__(self, home: Path, directory: Path, tasks, heldout=(), shots=(0,), removes=True):
        self.home, self.directory = home, directory
        self.tasks, self.heldout, self.shots, self.removes = tasks, heldout, shots, removes
        self.aggregates = ["aggregate"] if len(tasks) > 1 else []
        self.compared = [*self.aggregates, "depth"]  # and no random order

    def importance(self, component: str) -> list[str]:
        return [
            f"{self.home}/importance/{task}/{shots}-shot/{component}.parquet"
            for task in self.tasks
            for shots in self.shots
        ]

    def rankings(self, component: str, names: list[str]) -> list[str]:
        return [
            f"{self.home}/rankings/{name}/{shots}-shot/{component}.parquet"
            for name in names
            for shots in self.shots
        ]

    def pruned(self, component: str, task: str, names: list[str]) -> list[str]:
        """Of a study that removes nothing, the rows of the unpruned model alone."""
        found = []
        for shots in self.shots:
            for name in names:
                path = self.home / f"pruning/{task}/{shots}-shot/{component}/by-{name}.parquet"
                if not self.removes:
                    rows = pl.read_parquet(path).filter(heads_level=0.0, ffns_level=0.0).to_arrow()
                    made, schema = storage.provenance(path), schemas.SCHEMAS["pruning"]
                    path = self.directory / path.relative_to(self.home)
                    storage.write(path, rows, schema, made)
                found.append(str(path))
        return found

    def studied(self, component: str) -> list[str]:
        return [
            file
            for task in self.tasks
            for file in self.pruned(component, task, [task, *self.compared])
        ]

    def correlated(self, across: str) -> list[str]:
        found = []
        for component in ("heads", "ffns"):
            rows = getattr(correlation, across)(self.importance(component), **BOOTSTRAP)
            made = {"component": component, "model": {"name": "tiny"}, "documents": 10}
            schema = "reliability" if across == "reliability" else "correlation"
            found.append(f"{self.directory}/{across}-{component}.parquet")
            storage.write(found[-1], rows, schemas.SCHEMAS[schema], made)
        return found

    def tables(self) -> dict[str, pl.DataFrame]:
        moved = [
            file
            for task in self.tasks
            for file in self.pruned("heads", task, ["closest", "farthest"])
            if len(self.tasks) > 1
        ]
        moved += [f for t in self.heldout for f in self.pruned("heads", t, ["aggregate", "depth"])]
        induced = [
            f"{self.home}/induction/{kind}.parquet" for kind in ("prefix_matching", "copying")
        ]
        levels = [0, 25, 50] if self.removes else [0]
        ordered = self.rankings("heads", [*self.tasks, *self.compared])
        made = {
            "head_importance": tables.head_importance(
                self.importance("heads"), self.rankings("heads", self.aggregates)
            ),
            "ffn_importance": tables.ffn_importance(
                self.importance("ffns"), self.rankings("ffns", self.aggregates)
            ),
            "head_pruning": tables.head_pruning(self.studied("heads"), **BOOTSTRAP),
            "ffn_pruning": tables.ffn_pruning(self.studied("ffns"), **BOOTSTRAP),
            "combined_pruning": tables.combined_pruning(self.studied("combined"), **BOOTSTRAP),
            "cross_task": tables.cross_task(
                self.correlated("cross_task"), self.correlated("reliability")
            ),
            "transfer": tables.transfer(self.studied("heads") + moved, **BOOTSTRAP),
            "cross_shot": tables.cross_shot(self.correlated("cross_shot")),
            "induction": tables.induction(*induced, self.rankings("heads", ["aggregate"])),
            "retention": tables.retention(*induced, ordered, levels),
        }
        home = self.directory / "artifacts" / "tiny" / "tables"
        pruning = [f"{name}_pruning" for name in ("head", "ffn", "combined")]
        for name in (*made, "summary"):
            if name == "summary":
                made[name] = tables.summary(*(str(home / f"{part}.parquet") for part in pruning))
            table = made[name].to_arrow()
            storage.write(home / f"{name}.parquet", table, table.schema, {"model": "tiny"})
        return made


VARIANTS = {  # what a study has -> the figures that it is too small for
    "one task": ({"tasks": ["tiny_a"], "shots": (0, 2)}, {"cross_task", "transfer"}),
    "one task and one held out": (
        {"tasks": ["tiny_a"], "heldout": ["tiny_c"]},
        {"cross_task", "cross_shot"},
    ),
    "two tasks": ({"tasks": ["tiny_a", "tiny_b"]}, {"cross_shot"}),
    "nothing removed": (
        {"tasks": ["tiny_a", "tiny_b"], "shots": (0, 2), "removes": False},
        {"head_pruning", "ffn_pruning", "combined_pruning", "transfer", "retention", "summary"},
    ),
    "all of it": (
        {"tasks": ["tiny_a"], "removes": False},
        FIGURES - {"head_importance", "ffn_importance", "induction"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_figure_that_needs_more_says_so_in_its_place(finished, tmp_path, variant):
    study, too_small = VARIANTS[variant]
    made = Small(finished.directory / "artifacts" / "tiny", tmp_path, **study).tables()
    assert set(made) == FIGURES
    for name, table in made.items():
        for page in CATALOGUE[name].pages:
            path = tmp_path / f"{page}.svg"
            figures.save(getattr(figures, page)(table), [path])
            assert (">needs " in path.read_text()) == (name in too_small), page
        drawn = pl.read_parquet(finished.directory / f"artifacts/tiny/tables/{name}.parquet")
        assert dict(table.schema) == dict(drawn.schema), name

    console = Console(width=100, record=True, file=io.StringIO())
    summary.show(tmp_path / "artifacts", console)
    text = console.export_text()
    assert ("nothing to sum up" in text) == ("summary" in too_small)

    groups = comparison.findings(tmp_path / "artifacts" / "tiny" / "tables")
    of_pairs = [found for group in groups for found in group if found.section == "6.1.1"]
    assert len(of_pairs) == 6
    if "cross_task" in too_small:
        assert {found.verdict for found in of_pairs} == {comparison.UNDECIDED}
        assert all("needs two tasks" in found.study for found in of_pairs)


def test_of_two_tasks_the_closest_is_drawn_and_not_again_as_the_farthest(finished, tmp_path):
    home = finished.directory / "artifacts" / "tiny"
    table = Small(home, tmp_path, ["tiny_a", "tiny_b"], ["tiny_c"]).tables()["transfer"]
    assert set(table["order"]) == {"own", "closest", "aggregate", "depth"}
    closest = table.filter(order="closest").select("task", "ranking").unique()
    pairs = {("tiny_a", "tiny_b"), ("tiny_b", "tiny_a"), ("mean over tasks", "closest")}
    assert set(closest.rows()) == pairs
    figures.transfer(table).save(str(tmp_path / "transfer.svg"))
    assert "the only other task" in (tmp_path / "transfer.svg").read_text()


@pytest.mark.slow
def test_a_study_of_one_task_at_one_number_of_shots_runs_to_its_end(finished, tmp_path):
    """Without a task held out, a random order, or a level at which anything is removed."""
    study = finished.copy(tmp_path / "study")
    study.configure(
        tasks=["tiny_a"],
        heldout_tasks=[],
        shots=[0],
        levels={"heads": [0], "ffns": [0], "combined": {"heads": [0], "ffns": [0]}},
        random_rankings=0,
    )
    jobs = study.stale()
    assert jobs["prune"] == 3 and "prune_transfer" not in jobs
    assert {f"draw_{name}" for name in FIGURES} <= set(jobs)
    result = study.run()
    assert result.returncode == 0, result.stdout
    home = study.directory / "artifacts" / "tiny"
    drawn = {name: (home / "figures" / f"{name}.svg").read_text() for name in FIGURES}
    too_small = {name for name, svg in drawn.items() if ">needs " in svg}
    assert too_small == VARIANTS["all of it"][1]
    asked = study.run("artifacts/tiny/pruning/tiny_a/0-shot/heads/by-closest.parquet", "-n")
    assert "This study does not make:" in asked.stdout and "did you mean" in asked.stdout
