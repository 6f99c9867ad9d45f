"""Split-half reliability and the agreement of estimators, against plain loops and simulation."""

import zlib

import numpy as np
import polars as pl
import pytest
from correlated import ABOUT, DOCUMENTS, HEADS, LAYERS, importance_files, plain_overlap
from scipy.stats import spearmanr

from headcount.artifacts import schemas, storage
from headcount.scores import correlation


@pytest.fixture
def study(tmp_path):
    return importance_files(tmp_path)


def plain_halves(contributions, weights, task, splits, seed):
    """Scores [splits, 2, N] of both halves, split by split; contributions and weights [N, n]."""
    n = contributions.shape[1]
    documents = np.tile(np.arange(n), (splits, 1))
    generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
    for order in generator.permuted(documents, axis=1):
        first = [i for i in range(n) if order[i] < n // 2]
        second = [i for i in range(n) if i not in first]
        yield [contributions[:, h].sum(1) / weights[:, h].sum(1) for h in (first, second)]


def test_reliability_equals_a_plain_loop_over_halves(study):
    paths, arrays = study
    found = correlation.reliability(paths, resamples=15, seed=3)
    tasks = ["copa", "boolq", "arc"]
    expected_keys = [(task, shots) for shots in (0, 1, 5) for task in (*tasks, "aggregate")]
    assert found.select("task", "shots").rows() == expected_keys
    for row in found.iter_rows(named=True):
        of_tasks = [
            list(plain_halves(*arrays[task, row["shots"]], task, 15, 3))
            for task in (tasks if row["task"] == "aggregate" else [row["task"]])
        ]
        halves = np.mean(of_tasks, axis=0)  # [splits, 2, N]
        rho = [spearmanr(*pair).statistic for pair in halves]
        overlap = [plain_overlap(*pair) for pair in halves]
        assert row["rho"] == pytest.approx(np.mean(rho))
        expected = np.quantile(rho, [0.025, 0.975])
        assert [row["rho_low"], row["rho_high"]] == pytest.approx(expected)
        assert row["overlap"] == pytest.approx(np.mean(overlap))
        assert row["spearman_brown"] == pytest.approx(2 * np.mean(rho) / (1 + np.mean(rho)))
        assert row["n"] == DOCUMENTS * len(of_tasks) and row["splits"] == 15


def write_importance(path, contributions, task="copa"):
    """An importance artifact from contributions [N, n] of weight 1, N heads of one layer."""
    N, n = contributions.shape
    columns = {
        "layer": np.zeros(N),
        "head": np.arange(N),
        "score": contributions.mean(1),
        "standard_error": np.zeros(N),
        "n": np.full(N, n),
        "contributions": list(contributions),
        "weights": list(np.ones((N, n))),
    }
    made_by = {**ABOUT, "task": task, "shots": 0}
    storage.write(path, columns, schemas.SCHEMAS["importance"], made_by)
    return path


def test_the_stepped_up_value_is_the_rho_with_as_many_other_documents(tmp_path):
    generator = np.random.default_rng(0)
    true = generator.normal(size=(2000, 1))
    one, other = (true + 4 * generator.normal(size=(2000, 20)) for _ in range(2))
    path = write_importance(tmp_path / "one.parquet", one)
    found = correlation.reliability([path], resamples=50, seed=0).row(0, named=True)
    replicated = spearmanr(one.mean(1), other.mean(1)).statistic
    assert found["spearman_brown"] == pytest.approx(replicated, abs=0.03)
    assert found["rho"] < replicated - 0.1  # halves agree less than wholes


def test_noise_does_not_agree_with_itself(tmp_path):
    noise = np.random.default_rng(0).normal(size=(400, 10))
    path = write_importance(tmp_path / "noise.parquet", noise)
    found = correlation.reliability([path], resamples=50, seed=0).row(0, named=True)
    assert abs(found["rho"]) < 0.05 and 0 <= found["spearman_brown"] < 0.1
    assert found["overlap"] == pytest.approx(found["overlap_chance"], abs=0.05)
    # halves of centred documents are opposite: less than nothing in common counts as nothing
    path = write_importance(tmp_path / "opposite.parquet", noise - noise.mean(1, keepdims=True))
    found = correlation.reliability([path], resamples=50, seed=0).row(0, named=True)
    assert found["rho"] < -0.9 and found["spearman_brown"] == 0


def test_constant_scores_have_no_reliability(tmp_path):
    path = write_importance(tmp_path / "flat.parquet", np.ones((5, 4)))
    found = correlation.reliability([path], resamples=10, seed=0).row(0, named=True)
    assert found["rho"] is None and found["spearman_brown"] is None


def test_a_half_that_ranks_nothing_agrees_with_nothing(tmp_path):
    """An accuracy that one document alone changes: the half without it is constant."""
    contributions = np.zeros((5, 6))
    contributions[0, 3] = 1
    path = write_importance(tmp_path / "one.parquet", contributions)
    found = correlation.reliability([path], resamples=10, seed=0).row(0, named=True)
    assert found["rho"] == 0 and found["spearman_brown"] == 0


def test_the_diagonal_of_a_matrix_is_the_stepped_up_reliability(study):
    found = correlation.reliability(study[0], resamples=10, seed=0)
    diagonal = correlation.diagonal(found)
    assert diagonal["rho"].to_list() == found["spearman_brown"].to_list()
    assert diagonal["a"].to_list() == diagonal["b"].to_list() == found["task"].to_list()
    assert diagonal.schema == correlation.cross_task(study[0], resamples=2, seed=0).schema


def test_estimators_are_compared_as_tasks_are(study, tmp_path):
    """The same scores, filed as two tasks and as two estimators, agree as much."""
    paths, arrays = study
    one = paths[1]  # copa at 0 shots
    noisy = arrays["copa", 0][0] + np.random.default_rng(0).normal(size=(LAYERS * HEADS, DOCUMENTS))
    table = pl.read_parquet(one)
    other = table.with_columns(
        contributions=pl.Series(noisy.tolist()),
        score=noisy.sum(1) / arrays["copa", 0][1].sum(1),
    )
    rows = pl.concat(
        [
            table.with_columns(estimator=pl.lit("gradient-token")),
            other.with_columns(estimator=pl.lit("oracle-loss")),
        ]
    )
    path = tmp_path / "estimators.parquet"
    made_by = {**ABOUT, "task": "copa", "shots": 0}
    storage.write(path, rows.to_arrow(), schemas.SCHEMAS["estimators"], made_by)
    found = correlation.cross_estimator([path], resamples=30, seed=5)
    names = ["gradient-token", "oracle-loss"]
    assert found.select("a", "b").rows() == [tuple(names), *((name, name) for name in names)]
    assert set(found.select("component", "task", "shots").rows()) == {("heads", "copa", 0)}

    filed = tmp_path / "other.parquet"
    elsewhere = other.with_columns(shots=pl.lit(1)).to_arrow()
    storage.write(filed, elsewhere, schemas.SCHEMAS["importance"], {})
    as_shots = correlation.cross_shot([one, filed], resamples=30, seed=5)
    statistics = as_shots.columns[as_shots.columns.index("rho") :]
    assert found.row(0, named=True) == {
        **found.row(0, named=True),
        **as_shots.select(statistics).row(0, named=True),
    }
    itself = correlation.reliability([one], resamples=30, seed=5).row(0, named=True)
    assert found["rho"][1] == itself["spearman_brown"]
    assert found["overlap"][1] == itself["overlap"]
    assert found["p_permuted"][1] is None
