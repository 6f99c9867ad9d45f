"""Rankings against orders worked out by hand, by Python's sort, and in exact integers."""

import polars as pl
import pytest

from headcount.artifacts import schemas, storage
from headcount.scores import rankings


def heads(layers: int, per_layer: int, scores: list[float] | None = None) -> pl.DataFrame:
    pairs = [(layer, head) for layer in range(layers) for head in range(per_layer)]
    return pl.DataFrame(
        {
            "layer": [layer for layer, _ in pairs],
            "head": [head for _, head in pairs],
            "score": scores or [0.0] * len(pairs),
        },
        schema={"layer": pl.Int32, "head": pl.Int32, "score": pl.Float64},
    )


def ffns(layers: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"layer": range(layers), "head": [None] * layers, "score": [0.0] * layers},
        schema={"layer": pl.Int32, "head": pl.Int32, "score": pl.Float64},
    )


def order(ranking: pl.DataFrame) -> list[tuple]:
    return ranking.select("layer", "head").rows()


def test_rank_is_ascending_with_ties_by_layer_and_head():
    # Given in reverse: the order of the rows must not decide a tie.
    table = heads(2, 3, [0.5, 0.1, 0.5, -2.0, 0.1, 0.1]).reverse()
    ranking = rankings.rank(table)
    assert order(ranking) == [(1, 0), (0, 1), (1, 1), (1, 2), (0, 0), (0, 2)]
    assert ranking["rank"].to_list() == [0, 1, 2, 3, 4, 5]
    assert ranking["score"].to_list() == sorted(table["score"])


def test_negative_zero_ties_with_zero():
    assert order(rankings.rank(heads(1, 3, [0.0, -0.0, 0.0]))) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_its_head(score):
    with pytest.raises(FloatingPointError, match="layer 1, head 0"):
        rankings.rank(heads(2, 2, [1, 2, score, 3]))


@pytest.mark.parametrize("components", [heads(2, 3), ffns(4)])
def test_every_ranking_is_an_artifact(components, tmp_path):
    for ranking in (
        rankings.rank(components),
        rankings.depth(components),
        rankings.random_order(components, seed=0, index=0),
    ):
        storage.write(tmp_path / "r.parquet", ranking.to_arrow(), schemas.ROWS["rankings"], {})
        assert pl.read_parquet(tmp_path / "r.parquet").rows() == ranking.rows()


def test_aggregate_is_the_mean_over_tasks_whatever_the_order_of_the_rows():
    a, b = heads(1, 3, [1, 2, 3]), heads(1, 3, [4, 0, 8])
    mean = rankings.aggregate([a, b.reverse()])
    assert mean.rows() == [(0, 0, 2.5), (0, 1, 1.0), (0, 2, 5.5)]
    assert order(rankings.rank(mean)) == [(0, 1), (0, 0), (0, 2)]


def test_aggregate_refuses_other_components():
    with pytest.raises(ValueError, match="same components"):
        rankings.aggregate([heads(1, 3), heads(3, 1)])
    with pytest.raises(ValueError, match="no table"):
        rankings.aggregate([])


def test_depth_removes_the_top_layer_first():
    expected = [(2, 0), (2, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert order(rankings.depth(heads(3, 2).sample(fraction=1, shuffle=True, seed=1))) == expected
    assert order(rankings.depth(ffns(3))) == [(2, None), (1, None), (0, None)]


def test_random_orders_are_seeded_and_differ():
    components = heads(8, 8)
    first = rankings.random_order(components, seed=3, index=0)
    assert order(first) == order(rankings.random_order(components.reverse(), seed=3, index=0))
    assert sorted(order(first)) == order(components)
    others = [
        rankings.random_order(components, seed=3, index=1),
        rankings.random_order(components, seed=4, index=0),
    ]
    assert all(order(other) != order(first) for other in others)


def test_heads_and_ffns_have_random_streams_of_their_own():
    one_head_a_layer = rankings.random_order(heads(64, 1), seed=0, index=0)
    ffn_order = rankings.random_order(ffns(64), seed=0, index=0)
    assert one_head_a_layer["layer"].to_list() != ffn_order["layer"].to_list()


def test_random_orders_are_uniform():
    """Each of 4 components comes first in about a quarter of 400 orders (6 standard deviations)."""
    firsts = [order(rankings.random_order(ffns(4), seed=0, index=i))[0][0] for i in range(400)]
    assert all(abs(firsts.count(layer) - 100) < 52 for layer in range(4))


@pytest.mark.parametrize("total", [1, 7, 10, 48, 1000])
def test_removed_counts_are_exact(total):
    ranking = rankings.depth(ffns(total))
    for tenths in range(0, 1001):  # levels 0, 0.1 ... 100, in exact integers
        assert rankings.least_important(ranking, tenths / 10).height == tenths * total // 1000


def test_removed_are_the_least_important_in_order():
    ranking = rankings.rank(heads(1, 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]))
    gone = rankings.least_important(ranking.reverse(), 70)
    assert gone["head"].to_list() == [9, 8, 7, 6, 5, 4, 3]


@pytest.mark.parametrize("level", [-1, 100.1, float("nan")])
def test_a_level_outside_0_to_100_is_refused(level):
    with pytest.raises(ValueError, match="pruning level"):
        rankings.least_important(rankings.depth(ffns(4)), level)
