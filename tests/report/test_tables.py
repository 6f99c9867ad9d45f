"""The tables behind the figures, against plain loops over hand-made artifacts."""

import io
import zlib

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from headcount.artifacts import schemas, storage
from headcount.report import summary, tables
from headcount.scores import curves

MODEL = {"name": "m", "layers": 2, "heads": [5, 5], "ffns": [0, 1]}
HEADS = [(layer, head) for layer in range(2) for head in range(5)]
LEVELS = [0.0, 50.0, 100.0]
DOCUMENTS = 40


def metric(task, order, level):
    """Zeros and ones of every document: worse the more is removed, worst by a random order."""
    rate = 0.9 - level / 100 * {"own": 0.1, "aggregate": 0.3, "depth": 0.5}.get(order, 0.7)
    generator = np.random.default_rng([len(task), len(order), int(level)])
    return (generator.random(DOCUMENTS) < rate).astype(float)


def write_pruning(directory, metric):
    """Two tasks pruned by their own, the aggregate, the depth and two random orders."""
    paths = []
    for task in ("a", "bb"):
        for ranking in (task, "aggregate", "depth", "random-0", "random-1"):
            order = "own" if ranking == task else ranking
            rows = [
                {
                    "ranking": ranking,
                    "heads_level": level,
                    "ffns_level": 0.0,
                    "heads_removed": int(level // 10),
                    "ffns_removed": 0,
                    "doc_id": document,
                    "log_likelihoods": [-1.0],
                    "is_greedy": [True],
                    "metric": value,
                    "results": "{}",
                }
                for level in LEVELS
                for document, value in enumerate(metric(task, order, level))
            ]
            made = {
                "model": MODEL,
                "task": task,
                "shots": 1,
                "component": "heads",
                "order": order.split("-")[0],
                "metric": "acc",
                "chance": 0.25,
                "heldout": False,
                "truncated": 3,
            }
            paths.append(str(directory / f"{task}-{ranking}.parquet"))
            storage.write(paths[-1], rows, schemas.SCHEMAS["pruning"], made)
    return paths


@pytest.fixture
def pruning(tmp_path):
    return write_pruning(tmp_path, metric)


def row(table, **where):
    (found,) = table.filter(**where).iter_rows(named=True)
    return found


def test_values_are_means_over_documents_tasks_and_random_orders(pruning):
    table = tables.head_pruning(pruning, resamples=50, seed=0)
    for level in LEVELS:
        at = {"heads_level": level, "shots": 1}
        own = {task: metric(task, "own", level).mean() for task in ("a", "bb")}
        for task, value in own.items():
            assert row(table, task=task, order="own", **at)["value"] == pytest.approx(value)
        mean = row(table, task=tables.MEAN, order="own", **at)
        assert mean["value"] == pytest.approx(np.mean(list(own.values())))
        assert mean["chance"] == 0.25 and mean["truncated"] == 6
        both = [metric("a", f"random-{i}", level).mean() for i in (0, 1)]
        random = row(table, task="a", order="random", **at)
        assert random["value"] == pytest.approx(np.mean(both))
        assert random["heads_removed"] == level and random["heads_count"] == level // 10


def test_intervals_are_those_of_a_bootstrap_over_documents(pruning):
    table = tables.head_pruning(pruning, resamples=4000, seed=0)
    found = row(table, task="a", order="own", heads_level=50.0)
    values = metric("a", "own", 50.0)
    dropped = metric("a", "own", 0.0) - values
    generator = np.random.default_rng(7)
    means, drops = [], []
    for _ in range(4000):  # document by document, with replacement
        chosen = generator.integers(DOCUMENTS, size=DOCUMENTS)
        means.append(values[chosen].mean())
        drops.append(dropped[chosen].mean())
    assert [found["low"], found["high"]] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.026
    )
    assert [found["drop_low"], found["drop_high"]] == pytest.approx(
        np.percentile(drops, [2.5, 97.5]), abs=0.026
    )
    assert row(table, task="a", order="own", heads_level=0.0)["drop_high"] == 0.0


def test_the_drop_is_paired_with_the_unpruned_model_by_document(tmp_path):
    """What the removal does not change has a drop of exactly 0, however the documents are drawn."""

    def unchanged(task, order, level):
        return metric(task, order, 0.0)

    table = tables.head_pruning(write_pruning(tmp_path, unchanged), resamples=200, seed=0)
    assert {*table["order"]} == {"own", "aggregate", "depth", "random"}
    assert tables.MEAN in {*table["task"]}
    assert (table["high"] - table["low"]).min() > 0.05  # the accuracies themselves vary
    for bound in ("drop_low", "drop", "drop_high"):
        assert table[bound].abs().max() < 1e-12


def test_the_drops_interval_is_that_of_the_difference_in_every_resample(tmp_path):
    """Three documents are lost: replicate by replicate, with the same draws."""

    def three_lost(task, order, level):
        values = metric(task, order, 0.0)
        values[np.flatnonzero(values)[:3]] -= level > 0
        return values

    table = tables.head_pruning(write_pruning(tmp_path, three_lost), resamples=300, seed=4)
    drops = {}
    for task in ("a", "bb"):
        lost = three_lost(task, "own", 0.0) - three_lost(task, "own", 50.0)
        generator = np.random.default_rng([4, zlib.crc32(task.encode())])
        share = [1 / DOCUMENTS] * DOCUMENTS
        drops[task] = [
            np.repeat(lost, generator.multinomial(DOCUMENTS, share)).mean() for _ in range(300)
        ]
    drops[tables.MEAN] = np.mean([drops["a"], drops["bb"]], axis=0)
    for task, replicates in drops.items():
        found = row(table, task=task, order="own", heads_level=50.0)
        assert found["drop"] == pytest.approx(3 / DOCUMENTS)
        expected = np.percentile(replicates, [2.5, 97.5])
        assert [found["drop_low"], found["drop_high"]] == pytest.approx(expected, abs=1e-12)


def points(drops):
    """A grid: (heads level, FFNs level) -> drop."""
    return pl.DataFrame(
        [
            {"heads_level": h, "ffns_level": f, "heads_removed": h, "ffns_removed": f, "drop": drop}
            | {"shots": 1, "task": tables.MEAN, "order": "own"}
            for (h, f), drop in drops.items()
        ]
    )


@pytest.mark.parametrize(
    "drops,expected",
    [
        ({(0, 0): 0, (10, 0): 0.04, (20, 0): 0.05, (30, 0): 0.051}, (20, 0)),
        ({(0, 0): 0, (10, 0): 0.06, (20, 0): 0.0}, (0, 0)),  # a later recovery does not count
        ({(0, 0): 0, (10, 0): 0, (0, 20): 0, (10, 20): 0.2}, (0, 20)),
        ({(0, 0): 0, (10, 0): 0, (0, 20): 0.2, (10, 20): 0.0}, (10, 0)),
        ({(0, 0): 0, (10, 0): 0, (0, 20): 0, (10, 20): 0.01}, (10, 20)),
    ],
)
def test_as_much_goes_as_stays_within_five_points_all_the_way(drops, expected):
    (found,) = curves.best_levels(points(drops)).iter_rows(named=True)
    assert (found["heads_level"], found["ffns_level"]) == expected


def ranking(path, name, order):
    rows = [
        {"layer": layer, "head": head, "rank": rank, "score": float(rank)}
        for rank, (layer, head) in enumerate(order)
    ]
    made = {"ranking": name, "shots": 0, "component": "heads", "model": MODEL, "documents": 9}
    storage.write(path, rows, schemas.SCHEMAS["rankings"], made)
    return str(path)


@pytest.fixture
def scores(tmp_path):
    """Prefix matching that grows with the head's index, copying in one head alone."""
    paths = []
    for name, values in (("prefix", range(10)), ("copying", [0] * 9 + [2])):
        rows = [
            {"layer": layer, "head": head, "score": value, "standard_error": 0.0, "n": 2}
            for (layer, head), value in zip(HEADS, values, strict=True)
        ]
        paths.append(str(tmp_path / f"{name}.parquet"))
        storage.write(paths[-1], rows, schemas.ROWS["induction"], {})
    return paths


def test_retention_is_the_share_of_the_scores_that_is_left(scores, tmp_path):
    files = [
        ranking(tmp_path / "r1", "aggregate", HEADS),
        ranking(tmp_path / "r2", "a", HEADS),
        ranking(tmp_path / "r3", "bb", HEADS[::-1]),
    ]
    table = tables.retention(*scores, files, levels=[0, 30, 100])

    def share(kind, order, level):
        return row(table, kind=kind, order=order, level=float(level))["share"]

    assert share("prefix matching", "aggregate", 30) == pytest.approx(100 * (45 - 0 - 1 - 2) / 45)
    assert share("copying", "aggregate", 30) == 100
    # own: the mean over the tasks' rankings; bb removes the heads 9, 8 and 7
    assert share("prefix matching", "own", 30) == pytest.approx(100 * (42 / 45 + 21 / 45) / 2)
    assert share("copying", "own", 30) == 50
    assert share("copying", "own", 0) == 100 and share("copying", "own", 100) == 0


def test_induction_heads_are_compared_with_the_aggregate_importance(scores, tmp_path):
    table = tables.induction(*scores, [ranking(tmp_path / "r", "aggregate", HEADS)])
    prefix = table.filter(kind="prefix matching")
    assert prefix["score"].to_list() == list(range(10))
    assert set(prefix["rho"]) == {1.0} and set(prefix["overlap"]) == {1.0}
    assert set(prefix["chance"]) == {0.3}


def test_the_matrix_of_tasks_has_their_reliability_on_its_diagonal(tmp_path):
    files = {"correlation": [], "reliability": []}
    for component in ("heads", "ffns"):
        pair = {"a": "x", "b": "y", "shots_a": 0, "shots_b": 0, "rho": 0.5, "overlap_chance": 0.3}
        itself = {"task": "x", "shots": 0, "n": 9, "splits": 3, "rho": 0.6, "overlap_chance": 0.3}
        itself |= {"spearman_brown": 0.75, "spearman_brown_low": 0.1, "overlap": 0.8}
        for name, one in (("correlation", pair), ("reliability", itself)):
            files[name].append(str(tmp_path / f"{name}-{component}.parquet"))
            made = {"component": component, "model": MODEL, "documents": 9}
            storage.write(files[name][-1], [one], schemas.SCHEMAS[name], made)
    table = tables.cross_task(**files)
    for component in ("heads", "ffns"):
        assert row(table, component=component, b="y")["rho"] == 0.5
        found = row(table, component=component, a="x", b="x")
        assert (found["rho"], found["rho_low"], found["overlap"]) == (0.75, 0.1, 0.8)
        assert found["shots_a"] == found["shots_b"] == 0


def test_the_terminal_summary_tells_what_the_table_holds(pruning, tmp_path):
    home = tmp_path / "artifacts" / "m" / "tables"
    made = {"model": "m"}
    pruned = tables.head_pruning(pruning, resamples=20, seed=0)
    for name in ("head_pruning", "ffn_pruning", "combined_pruning"):
        table = pruned.to_arrow()
        storage.write(home / f"{name}.parquet", table, table.schema, made)
    files = [
        str(home / f"{n}.parquet") for n in ("head_pruning", "ffn_pruning", "combined_pruning")
    ]
    table = tables.summary(*files)
    storage.write(home / "summary.parquet", table.to_arrow(), table.to_arrow().schema, made)
    console = Console(width=160, record=True, file=io.StringIO())
    summary.show(tmp_path / "artifacts", console)
    text = console.export_text()
    own = row(table, component="heads", order="own")
    line = next(line for line in text.splitlines() if " heads " in line)
    lost = [f"{100 * own[name] + 0.0:.1f}" for name in ("drop", "drop_low", "drop_high")]
    expected = [f"{own['unpruned']:.3f}", f"{own['heads_removed']:.0f}"]
    expected += [lost[0], f"{own['area']:.2f}"]
    assert line.split()[2:6] == expected and line.split()[-1] == "70"
    assert f"[{lost[1]}, {lost[2]}]" in text
    assert f"{own['area_low']:.2f}-{own['area_high']:.2f}" in text
    assert "a, 1-shot: 3 prompts are cut" in text and "figures" in text
    with pytest.raises(summary.NoSummaryError, match="headcount run"):
        summary.show(tmp_path / "nothing")


def test_the_area_is_the_mean_metric_over_what_is_removed(pruning):
    table = tables.head_pruning(pruning, resamples=300, seed=0)
    rows = table.filter(task="a", order="own").sort("heads_removed")
    values = rows["value"].to_list()
    trapezoids = (values[0] + values[1]) / 2 * 0.5 + (values[1] + values[2]) / 2 * 0.5
    assert rows["area"].to_list() == pytest.approx([trapezoids / values[0]] * 3)
    assert (rows["area_low"] <= rows["area"]).all() and (rows["area"] <= rows["area_high"]).all()


def test_a_curve_that_never_falls_has_an_area_of_one(tmp_path):
    files = write_pruning(tmp_path, lambda task, order, level: metric(task, order, 0.0))
    table = tables.head_pruning(files, resamples=50, seed=0).filter(order="own")
    for name in ("area", "area_low", "area_high"):
        assert table[name].to_list() == pytest.approx([1.0] * table.height)
    assert set(table["heads_removable_low"]) == {100.0}


def test_what_is_removable_has_the_interval_of_its_resamples():
    """In a replicate that loses six points at half, nothing can be removed; in others, half."""
    levels = np.array([[0.0, 0.0], [50.0, 0.0]])
    replicates = np.array([[0.9] * 100, [0.84] * 10 + [0.9] * 90])
    found = curves.max_removable(curves.Curve(levels, replicates[:, -1], replicates), levels)
    assert found["heads_removable_low"] == 0.0 and found["heads_removable_high"] == 50.0
    assert found["ffns_removable_low"] == found["ffns_removable_high"] == 0.0


def test_a_drop_of_exactly_five_points_is_within():
    """0.9 - 0.85 is 0.05 and a rounding error more."""
    drop = 0.9 - 0.85
    assert drop > curves.TOLERANCE
    points = pl.DataFrame(
        {
            "heads_level": [0.0, 50.0, 90.0],
            "ffns_level": [0.0, 0.0, 0.0],
            "heads_removed": [0.0, 50.0, 90.0],
            "ffns_removed": [0.0, 0.0, 0.0],
            "drop": [0.0, drop, 0.0501],
            "shots": 1,
            "task": tables.MEAN,
            "order": "own",
        }
    )
    assert curves.best_levels(points)["heads_level"].item() == 50
