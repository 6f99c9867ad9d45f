"""Correlations against scipy, bootstrap against a plain loop, the mistake of the paper's code."""

import zlib
from itertools import permutations, product

import numpy as np
import polars as pl
import pytest
from correlated import ABOUT, DOCUMENTS, HEADS, LAYERS, importance_files, plain_overlap
from scipy.stats import permutation_test, spearmanr

from headcount.artifacts import schemas, storage
from headcount.scores import correlation


def table(scores: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"layer": np.arange(len(scores)), "head": 0, "score": scores})


@pytest.fixture
def study(tmp_path):
    return importance_files(tmp_path)


def plain_scores(arrays: dict, name: str, shots: int, times: dict[str, np.ndarray]) -> np.ndarray:
    """Scores [N] of a task or the aggregate; document i of a task counts times[task][i]."""
    if name == "aggregate":
        tasks = list(dict.fromkeys(task for task, _ in arrays))
        return np.mean([plain_scores(arrays, task, shots, times) for task in tasks], axis=0)
    contributions, weights = arrays[name, shots]
    drawn = np.repeat(
        np.arange(DOCUMENTS), times[name]
    )  # the resample itself, document by document
    return contributions[:, drawn].sum(1) / weights[:, drawn].sum(1)


def expected_row(arrays: dict, a: str, b: str, shots_a: int, shots_b: int, resamples, seed) -> dict:
    """A row of the artifact, replicate by replicate, with scipy's rho."""
    draws = {}
    for task in {task for task, _ in arrays}:
        generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
        draws[task] = generator.multinomial(DOCUMENTS, [1 / DOCUMENTS] * DOCUMENTS, resamples)
    whole = {task: np.ones(DOCUMENTS, dtype=int) for task in draws}
    rho, overlap = [], []
    for times in [whole, *({t: draws[t][i] for t in draws} for i in range(resamples))]:
        x, y = plain_scores(arrays, a, shots_a, times), plain_scores(arrays, b, shots_b, times)
        rho.append(spearmanr(x, y).statistic)
        overlap.append(plain_overlap(x, y))
    return {
        "rho": rho[0],
        "rho_low": np.quantile(rho[1:], 0.025),
        "rho_high": np.quantile(rho[1:], 0.975),
        "overlap": overlap[0],
        "overlap_low": np.quantile(overlap[1:], 0.025),
        "overlap_high": np.quantile(overlap[1:], 0.975),
        "overlap_chance": round(0.3 * LAYERS * HEADS) / (LAYERS * HEADS),
    }


def check_rows(found: pl.DataFrame, arrays: dict, resamples: int, seed: int) -> None:
    for row in found.iter_rows(named=True):
        pair = row["a"], row["b"], row["shots_a"], row["shots_b"]
        expected = expected_row(arrays, *pair, resamples, seed)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12), pair


# --- rho ---


def test_the_mistake_of_the_papers_code_is_not_repeated():
    """Correlating argsort indices gives about 0 for scores that agree (rho .95)."""
    generator = np.random.default_rng(0)
    a = generator.normal(size=2000)
    b = a + 0.3 * generator.normal(size=2000)
    true = spearmanr(a, b).statistic
    mistaken = spearmanr(np.argsort(a), np.argsort(b)).statistic
    assert true == pytest.approx(0.95, abs=0.01)
    assert abs(mistaken) < 0.1
    assert correlation.agreement(table(a), table(b)).rho == pytest.approx(true, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_rho_with_ties_is_scipys(seed):
    a, b = np.random.default_rng(seed).integers(0, 4, size=(2, 30)).astype(float)
    rho = correlation.agreement(table(a), table(b)).rho
    assert rho == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_rho_of_constant_scores_is_not_defined():
    assert correlation.agreement(table(np.ones(10)), table(np.arange(10.0))).rho is None


def test_rows_are_matched_by_component():
    a, b = table(np.array([3.0, 1, 2])), table(np.array([30.0, 10, 20]))
    assert correlation.agreement(a, b.sort("score")).rho == pytest.approx(1)
    with pytest.raises(ValueError, match="same components"):
        correlation.agreement(a, b.head(2))


# --- overlap ---


def test_overlap_of_the_top_30_percent():
    a = np.arange(10.0)  # most important: 7, 8, 9
    b = np.array([0, 0, 0, 0, 0, 0, 9, 8, 7, 0.0])  # 6, 7, 8
    found = correlation.agreement(table(a), table(b))
    assert (found.overlap, found.chance) == (pytest.approx(2 / 3), 0.3)


def test_overlap_breaks_ties_as_a_ranking_does():
    a, b = np.random.default_rng(0).integers(0, 3, size=(2, 200)).astype(float)
    found = correlation.agreement(table(a), table(b))
    assert found.overlap == pytest.approx(plain_overlap(a, b))


def test_the_top_is_never_empty():
    found = correlation.agreement(table(np.array([1.0])), table(np.array([2.0])))
    assert (found.overlap, found.chance) == (1, 1)


# --- tables ---


def test_cross_task_equals_a_plain_bootstrap(study):
    paths, arrays = study
    found = correlation.cross_task(paths, resamples=40, seed=7)
    names = ["copa", "boolq", "arc"]
    pairs = [("copa", "boolq"), ("copa", "arc"), ("boolq", "arc")]
    pairs += [(name, "aggregate") for name in names]
    expected = [(*pair, shots, shots) for shots in (0, 1, 5) for pair in pairs]
    assert found.select("a", "b", "shots_a", "shots_b").rows() == expected
    check_rows(found, arrays, resamples=40, seed=7)


def test_cross_shot_equals_a_plain_bootstrap_with_the_same_documents_at_all_shots(study):
    paths, arrays = study
    found = correlation.cross_shot(paths, resamples=40, seed=7)
    names = ["copa", "boolq", "arc", "aggregate"]
    expected = [(name, name, a, b) for name in names for a, b in ((0, 1), (0, 5), (1, 5))]
    assert found.select("a", "b", "shots_a", "shots_b").rows() == expected
    check_rows(found, arrays, resamples=40, seed=7)


def test_tables_are_artifacts(study, tmp_path):
    for function in (correlation.cross_task, correlation.cross_shot):
        found = function(study[0], resamples=3, seed=0)
        schema = schemas.SCHEMAS["correlation"]
        storage.write(tmp_path / "c.parquet", found.to_arrow(), schema, {})
        assert pl.read_parquet(tmp_path / "c.parquet").rows() == found.rows()


def test_a_task_keeps_its_interval_when_others_leave(study):
    paths, _ = study
    everyone = correlation.cross_shot(paths, resamples=20, seed=0)
    alone = correlation.cross_shot(paths[3:6], resamples=20, seed=0)
    boolq = pl.col("a") == "boolq"
    assert alone.filter(boolq).rows() == everyone.filter(boolq).rows()


def test_a_task_alone_has_no_pair_and_is_its_own_aggregate(study):
    alone = study[0][:3]
    options = {"resamples": 5, "seed": 0}
    assert correlation.cross_task(alone, **options).is_empty()
    assert set(correlation.cross_shot(alone, **options)["a"]) == {"copa"}
    assert set(correlation.reliability(alone, **options)["task"]) == {"copa"}


def test_constant_scores_have_no_rho_and_no_interval(tmp_path):
    paths = []
    for task, step in (("flat", 0.0), ("steep", 1.0)):
        columns = {"layer": [0, 1], "head": [None, None], "score": [0, step]}
        columns |= {"standard_error": [0, 0], "n": [2, 2]}
        columns |= {"contributions": [[0.0, 0.0], [step, step]], "weights": [[1.0, 1.0]] * 2}
        paths.append(tmp_path / f"{task}.parquet")
        made_by = {**ABOUT, "task": task, "shots": 0}
        storage.write(paths[-1], columns, schemas.SCHEMAS["importance"], made_by)
    row = correlation.cross_task(paths, resamples=10, seed=0).row(0, named=True)
    assert [row[name] for name in ("rho", "rho_low", "rho_high")] == [None] * 3
    assert row["overlap"] == 1.0


def test_missing_and_double_files_are_refused(study):
    paths, _ = study
    with pytest.raises(ValueError, match="the importance of task arc at 1 shots is missing"):
        correlation.cross_task(paths[:-1], resamples=0, seed=0)
    with pytest.raises(ValueError, match="both copa at 5 shots"):
        correlation.cross_shot([*paths, paths[0]], resamples=0, seed=0)


# --- permutation ---


def compared(x, y, layers, count, seed=0):
    """What a row of the artifact says of the scores x, y [N] beside permuted ones."""
    ranked = [correlation._ranked(scores[None]) for scores in (x, y)]
    return correlation._compared(*ranked, correlation._Baseline(layers, count, seed))


@pytest.mark.parametrize("seed", range(4))
def test_all_permutations_of_few_components_give_scipys_exact_p_value(seed):
    x, y = np.random.default_rng(seed).integers(0, 5, size=(2, 6)).astype(float)  # with ties
    found = compared(x, y, np.arange(6), count=720)
    exact = permutation_test(
        (y,),
        lambda permuted: abs(spearmanr(x, permuted).statistic),  # both sides at once
        permutation_type="pairings",
        alternative="greater",
    )
    assert found["p_permuted"] == pytest.approx(exact.pvalue, abs=1e-12)
    plain = [spearmanr(x, y[list(order)]).statistic for order in permutations(range(6))]
    expected = np.quantile(plain, [0.025, 0.975])
    assert [found["permuted_low"], found["permuted_high"]] == pytest.approx(expected, abs=1e-12)
    assert "p_within_layers" not in found  # one component a layer: there is nothing to permute


def test_random_permutations_of_many_components_come_close_to_scipys_p_value():
    generator = np.random.default_rng(1)
    x = generator.normal(size=48)
    y = x + 2.5 * generator.normal(size=48)
    found = compared(x, y, np.repeat(np.arange(6), 8), count=4000)
    assert 0.02 < spearmanr(x, y).pvalue < 0.2
    assert found["p_permuted"] == pytest.approx(spearmanr(x, y).pvalue, abs=0.015)
    # under independence rho has the variance 1 / (N - 1)
    expected = np.array([-1.96, 1.96]) / 47**0.5
    assert [found["permuted_low"], found["permuted_high"]] == pytest.approx(expected, abs=0.02)


def test_what_the_layers_alone_have_in_common_is_no_agreement_of_heads():
    generator = np.random.default_rng(2)
    layers = np.repeat(np.arange(6), 8)
    x, y = 10 * layers + generator.normal(size=(2, 48))
    found = compared(x, y, layers, count=500)
    assert found["rho"] > 0.9 and found["p_permuted"] == pytest.approx(1 / 501)
    assert found["p_within_layers"] > 0.05
    assert found["within_layers_low"] <= found["rho"] <= found["within_layers_high"]


def test_permutations_within_layers_are_all_those_and_no_others():
    orders = correlation._permutations(np.array([0, 0, 0, 1, 1, 1]), 3000, seed=0)
    assert orders[0].tolist() == list(range(6))
    expected = {(*a, *(3 + np.array(b))) for a, b in product(permutations(range(3)), repeat=2)}
    assert set(map(tuple, orders.tolist())) == expected


def test_a_p_value_is_never_zero():
    x = np.arange(48.0)
    assert compared(x, x, np.arange(48), count=99)["p_permuted"] == 1 / 100


# --- transfer ---


def test_closest_and_farthest():
    order = {
        "a": [1, 2, 3, 4],
        "b": [1, 2, 4, 3],
        "c": [2, 1, 3, 4],
        "d": [4, 3, 2, 1],
        "e": [1] * 4,
    }
    scores = {
        task: pl.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "score": of_task})
        for task, of_task in order.items()
    }

    def without(*tasks):
        return {task: of_task for task, of_task in scores.items() if task not in tasks}

    assert correlation.closest_and_farthest(without("e"), "a") == ("b", "d")  # b and c are as close
    assert correlation.closest_and_farthest(without("e"), "d") == ("b", "a")
    assert correlation.closest_and_farthest(scores, "a") == ("b", "e")  # undefined is the lowest
    with pytest.raises(ValueError, match="'a' has no other task"):
        correlation.closest_and_farthest({"a": scores["a"]}, "a")
