"""Each finding of the paper: holds, does not hold, or not enough data, from hand-made tables."""

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy.stats import norm, spearmanr, ttest_1samp

from headcount.artifacts import storage
from headcount.report import comparison, paper, summary
from headcount.report.comparison import finding as findings
from headcount.report.comparison.finding import FAILS, HOLDS, UNDECIDED, Interval
from headcount.report.tables import MEAN

HEADS, FFNS = 100, 10  # of the model that is pruned: a level is a count


def point(heads, ffns, drop, low, high, shots=0, order="own", task=MEAN):
    counts = {"heads_count": heads, "ffns_count": ffns // 10}
    shares = {"heads_removed": float(heads), "ffns_removed": float(ffns)}
    where = {"shots": shots, "task": task, "order": order, "heldout": task.startswith("unseen")}
    return where | counts | shares | {"drop": drop, "drop_low": low, "drop_high": high}


def pair(a, b, shots_a, shots_b, rho, low, high, component="heads", overlap=(0.5, 0.4, 0.6)):
    names = {"a": a, "b": b, "shots_a": shots_a, "shots_b": shots_b, "component": component}
    names |= dict(zip(("overlap", "overlap_low", "overlap_high"), overlap, strict=True))
    return names | {"rho": rho, "rho_low": low, "rho_high": high, "overlap_chance": 0.3}


def importance(task, shots, scores, heads=1, error=0.01, estimator="oracle-task"):
    """A task's scores by (layer, head); of FFNs with one head a layer."""
    return [
        {"shots": shots, "task": task, "layer": i // heads, "head": i % heads, "score": float(x)}
        | {"standard_error": error, "estimator": estimator}
        for i, x in enumerate(scores)
    ]


def induced(kind, scores, error=0.001, heads=2):
    return [
        {"kind": kind, "shots": 0, "layer": i // heads, "head": i % heads, "score": float(x)}
        | {"standard_error": error}
        for i, x in enumerate(scores)
    ]


WHOLE = point(0, 0, 0.0, 0.0, 0.0)
LAYERS = np.arange(8)
MIDDLE = [1, 1, 5, 6, 7, 8, 1, 1]  # of eight layers: 2 to 5 are the middle half
RISING = [0.01 * layer for layer in LAYERS]
GENERATOR = np.random.default_rng(0)
NOISE = {task: GENERATOR.normal(size=8) for task in "abc"}
GOOD = {
    "head_pruning": [WHOLE, point(40, 0, 0.0, -0.01, 0.02), point(70, 0, 0.03, 0.01, 0.05)],
    "ffn_pruning": [
        *(WHOLE | {"shots": shots} for shots in (0, 1)),
        point(0, 20, 0.03, 0.01, 0.05),
        point(0, 10, 0.03, 0.01, 0.05, shots=1),
        point(0, 20, 0.4, 0.3, 0.5, shots=1),
    ],
    "combined_pruning": [
        WHOLE,
        point(70, 20, 0.03, 0.01, 0.05),
        point(70, 20, 0.08, 0.06, 0.1, order="aggregate"),
    ],
    "cross_task": [
        pair("a", "b", 0, 0, 0.5, 0.1, 0.7),
        pair("a", "c", 0, 0, 0.3, 0.01, 0.4, overlap=(0.7, 0.6, 0.8)),
        pair("a", "a", 0, 0, -0.9, -1.0, -0.8),  # with itself: no pair
        pair("a", "b", 0, 0, -0.9, -1.0, -0.8, component="ffns"),
        pair("a", "b", 1, 1, 0.5, -0.1, 0.7),
        pair("a", "aggregate", 0, 0, 0.9, 0.8, 1.0),
        pair("b", "aggregate", 0, 0, 0.7, 0.6, 0.8),
        pair("a", "aggregate", 1, 1, -0.9, -1.0, -0.8),
    ],
    "cross_shot": [
        pair(task, task, shots_a, shots_b, rho, rho, rho)
        for task, rhos in (("a", (0.3, 0.5, 0.9)), ("b", (0.2, 0.4, 0.7)), ("c", (0.4, 0.4, 0.7)))
        for (shots_a, shots_b), rho in zip(((0, 1), (0, 5), (1, 5)), rhos, strict=True)
    ],
    "transfer": [
        row
        for shots in (0, 1)
        for task, far in (("a", 0.01), ("b", 0.02), ("c", 0.03))
        for order, drop in (("closest", 0.9 if shots else 0.0), ("farthest", far))
        for row in (
            point(0, 0, 0.0, 0.0, 0.0, shots, order, task),
            point(50, 0, drop, 0.0, 0.0, shots, order, task),
            point(70, 0, 0.9, 0.8, 1.0, shots, order, task),
        )
    ],
    "head_importance": [
        row
        for shots in (0, 1, 5)
        for task, scores in (
            *((task, np.repeat(MIDDLE, 2) + shots * np.arange(16)) for task in "abc"),
            ("aggregate", range(16)),
        )
        for row in importance(task, shots, scores, heads=2)
    ],
    "ffn_importance": [
        row
        for shots in (0, 5)
        for task in "abc"
        for row in importance(task, shots, RISING + 0.001 * NOISE[task])
    ],
    # One head after another: layers 5 to 7 match prefixes, 6 and 7 copy.
    "induction": induced("prefix matching", [0.1] * 10 + [0.9, 0.1, 0.9, 0.1, 0.9, 0.1])
    + induced("copying", [0.3] * 12 + [0.9] * 4),
    "summary": [
        {"component": c, "order": order, "shots": s, "heads_removed": 50.0, "ffns_removed": 30.0}
        for c in ("heads", "ffns", "both")
        for order in ("own", "aggregate")
        for s in (0, 1, 5)
    ],
}


def write(directory, **tables):
    home = directory / "m" / "tables"
    home.mkdir(parents=True, exist_ok=True)
    for name, rows in (GOOD | tables).items():
        table = pl.DataFrame(rows, infer_schema_length=None).to_arrow()
        storage.write(home / f"{name}.parquet", table, table.schema, {"model": "m"})
    return home


def finding(directory, words, **tables):
    if "head_importance" in tables:  # of other tasks and shots than those that are compared
        tables |= {"cross_shot": [pair("a", "a", 7, 8, 0.5, 0.4, 0.6)]}
    groups = comparison.findings(write(directory, **tables))
    (found,) = (f for group in groups for f in group if f.claim.startswith(words))
    return found


# --- intervals and verdicts ---


def test_the_interval_over_tasks_is_students():
    values = [0.1, 0.4, 0.25, 0.3]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert findings.over_tasks(values) == pytest.approx((np.mean(values), *expected))
    assert findings.over_tasks([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert findings.over_tasks([0.5]) is None


@pytest.mark.parametrize(
    "bounds,expected",
    [
        ([(0.1, 0.3), (0.2, 0.5)], HOLDS),
        ([(0.1, 0.3), (0.2, 0.6)], UNDECIDED),
        ([(0.1, 0.6), (0.51, 0.6)], FAILS),
        ([(0.1, 0.3), (np.nan, np.nan)], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_a_verdict_is_that_of_all_intervals(bounds, expected):
    intervals = [Interval(low, low, high) for low, high in bounds]
    assert findings.at_most(intervals, 0.5) == expected
    assert findings.at_least([-interval for interval in intervals], -0.5) == expected


# --- how much can be removed ---


@pytest.mark.parametrize(
    "points,expected",
    [
        ([(40, 0.0, -0.01, 0.02), (70, 0.03, 0.01, 0.05)], HOLDS),
        ([(40, 0.0, -0.01, 0.02), (70, 0.03, 0.01, 0.051)], UNDECIDED),
        ([(40, 0.0, -0.01, 0.02), (70, 0.08, 0.051, 0.10)], FAILS),
        ([(40, 0.08, 0.051, 0.10), (70, 0.03, 0.01, 0.05)], FAILS),  # a later recovery is no use
        ([(40, 0.0, -0.01, 0.02), (70, 0.03, 0.01, 0.05), (90, 0.5, 0.4, 0.6)], HOLDS),
        ([(40, 0.0, -0.01, 0.02), (90, 0.5, 0.4, 0.6)], UNDECIDED),  # 70 % was not tried
    ],
)
def test_heads_that_go_for_five_points(points, expected, tmp_path):
    rows = [WHOLE, *(point(heads, 0, *drop) for heads, *drop in points)]
    others = [point(70, 0, 0.9, 0.9, 0.9, order="depth"), point(70, 0, 0.9, 0.9, 0.9, task="a")]
    found = finding(
        tmp_path, "0-shot: 70 % of the heads can be removed", head_pruning=rows + others
    )
    assert found.verdict == expected
    assert found.study.startswith("50 %")
    at = [f"{100 * drop:.1f} points" for heads, drop, *_ in points if heads == 70]
    assert all(text in found.study for text in at)


@pytest.mark.parametrize("shots,level", [(0, 20), (1, 10), (5, 10)])
def test_ffns_that_go_for_five_points(shots, level, tmp_path):
    words = f"{shots}-shot: {level} % of the FFNs can be removed"
    rows = [WHOLE | {"shots": shots}, point(0, level, 0.03, 0.01, 0.05, shots)]
    rows.append(point(0, 30, 0.4, 0.3, 0.5, shots))  # beyond the paper's level
    found = finding(tmp_path, words, ffn_pruning=rows)
    assert (found.section, found.verdict) == ("5.2", HOLDS)
    assert found.study == f"30 %; at {level} %: 3.0 points [1.0, 5.0]"
    rows[1] = point(0, level, 0.2, 0.1, 0.3, shots)
    assert finding(tmp_path, words, ffn_pruning=rows).verdict == FAILS


@pytest.mark.parametrize("order,by", [("own", "own rankings"), ("aggregate", "the aggregate")])
@pytest.mark.parametrize("shots,heads,ffns,cost", [(0, 70, 20, 5), (1, 70, 10, 6), (5, 60, 20, 4)])
def test_heads_and_ffns_together(shots, heads, ffns, cost, order, by, tmp_path):
    words = (
        f"{shots}-shot: {heads}+{ffns} % of heads+FFNs can be removed for {cost} points, by {by}"
    )
    other = point(heads, ffns, 0.5, 0.4, 0.6, shots, {"own": "aggregate"}.get(order, "own"))
    for low, high, expected in (
        (cost - 2, cost, HOLDS),
        (cost - 2, cost + 1, UNDECIDED),
        (cost + 0.1, cost + 1, FAILS),
    ):
        worse = point(40, 10, 0.5, 0.4, 0.6, shots, order)  # elsewhere on the grid
        at = point(heads, ffns, cost / 100, low / 100, high / 100, shots, order)
        assert finding(tmp_path, words, combined_pruning=[at, worse, other]).verdict == expected
    off_grid = [point(40, 10, 0.0, 0.0, 0.0, shots, order)]
    found = finding(tmp_path, words, combined_pruning=off_grid)
    assert (found.verdict, found.study) == (
        UNDECIDED,
        f"50+30 %; {heads}+{ffns} % is not on its grid",
    )
    elsewhere = [point(heads, ffns, 0.0, 0.0, 0.0, shots=2)]
    found = finding(tmp_path, words, combined_pruning=elsewhere)
    assert (found.verdict, found.study) == (UNDECIDED, f"no {shots}-shot")
    found = finding(tmp_path, words, combined_pruning=[other])
    assert found.verdict == UNDECIDED and found.study == "needs two tasks"


def test_ten_percent_of_six_ffns_is_none(tmp_path):
    rows = [point(0, 0, 0.0, 0.0, 0.0, shots=1), point(70, 0, 0.0, 0.0, 0.0, shots=1)]
    rows.append(rows[-1] | {"ffns_count": 1, "ffns_removed": 100 / 6})
    found = finding(
        tmp_path,
        "1-shot: 70+10 % of heads+FFNs can be removed for 6 points, by own",
        combined_pruning=rows,
    )
    assert found.verdict == UNDECIDED


def test_nothing_removed_is_not_enough_data(tmp_path):
    found = finding(tmp_path, "0-shot: 70 % of the heads", head_pruning=[WHOLE], summary=SUMMARY_2)
    assert (found.verdict, found.study) == (
        UNDECIDED,
        "nothing removed; 70 % is not one of its levels",
    )


SUMMARY_2 = [row | {"shots": 2} for row in GOOD["summary"]]


# --- by whose ranking ---


def test_other_tasks_rankings_do_no_harm_up_to_half(tmp_path):
    words = "0-shot: other tasks' rankings do no harm up to 50 %"
    found = finding(tmp_path, words)
    low, high = ttest_1samp([0.01, 0.02, 0.03], 0).confidence_interval(0.95)
    assert found.verdict == HOLDS and high < 0.05
    text = f"2.0 points [{100 * low:.1f}, {100 * high:.1f}]"
    assert found.study == f"by the farthest task's, at 50 %: {text}"
    earlier = [point(20, 0, 0.5, 0.4, 0.6, 0, "farthest", task) for task in "abc"]
    assert finding(tmp_path, words, transfer=GOOD["transfer"] + earlier).verdict == FAILS
    one = [row for row in GOOD["transfer"] if row["task"] == "a"]
    found = finding(tmp_path, words, transfer=one)
    assert (found.verdict, found.study) == (UNDECIDED, "needs two tasks")
    coarse = [row for row in GOOD["transfer"] if row["heads_count"] != 50]
    found = finding(tmp_path, words, transfer=coarse)
    assert (found.verdict, found.study) == (UNDECIDED, "50 % is not one of its levels")


def test_of_two_tasks_the_other_is_the_farthest(tmp_path):
    rows = [
        point(heads, 0, drop, 0, 0, 0, "closest", task)
        for task in "ab"
        for heads, drop in ((50, 0.3), (70, 0.9))
    ]
    found = finding(tmp_path, "0-shot: other tasks' rankings", transfer=rows)
    assert (found.verdict, found.study[-24:]) == (FAILS, "30.0 points [30.0, 30.0]")


def test_what_unseen_tasks_would_do_by_their_own_ranking_is_not_known(tmp_path):
    found = finding(tmp_path, "unseen tasks")
    assert (found.verdict, found.study) == (UNDECIDED, "no task is held out")
    rows = [
        point(heads, 0, drop * heads / 50, 0, 0, shots, "aggregate", task)
        for task, drop in (("unseen one", 0.01), ("unseen two", 0.03))
        for heads in (0, 50, 70)
        for shots in (0, 1)
    ]
    found = finding(tmp_path, "unseen tasks", transfer=rows)
    assert found.verdict == UNDECIDED
    assert found.study.endswith("at 50 %: 0-shot 2.0, 1-shot 2.0")


# --- which ones matter, to whom ---


@pytest.mark.parametrize(
    "rows,expected",
    [
        (GOOD["cross_task"], HOLDS),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, 0.2, -0.1, 0.3)], UNDECIDED),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, -0.2, -0.3, -0.01)], FAILS),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, None, None, None)], UNDECIDED),
        ([pair("a", "b", 1, 1, 0.5, 0.4, 0.6)], UNDECIDED),
        ([pair("a", "a", 0, 0, 0.9, 0.8, 1.0)], UNDECIDED),  # one task is no pair
    ],
)
def test_rho_is_positive_for_every_pair(rows, expected, tmp_path):
    found = finding(tmp_path, "0-shot: heads' SRCC positive for every pair", cross_task=rows)
    assert (found.section, found.verdict) == ("6.1.1", expected)


def test_a_pair_is_counted_once_and_the_least_is_named(tmp_path):
    found = finding(tmp_path, "0-shot: heads' SRCC positive for every pair")
    assert found.study == "2 pairs, least 0.30 [0.01, 0.40]: a, c"
    one = [pair("a", "a", 0, 0, 0.9, 0.8, 1.0)]
    found = finding(tmp_path, "0-shot: heads' SRCC positive for every pair", cross_task=one)
    assert found.study == "needs two tasks"


def test_rho_is_positive_with_the_aggregate(tmp_path):
    words = "heads' SRCC positive for every task with the aggregate"
    found = finding(tmp_path, f"0-shot: {words}")
    assert (found.verdict, found.study) == (HOLDS, "2 tasks, least 0.70 [0.60, 0.80]: b")
    assert finding(tmp_path, f"1-shot: {words}").verdict == FAILS
    assert finding(tmp_path, f"5-shot: {words}").verdict == UNDECIDED


@pytest.mark.parametrize(
    "overlap,expected",
    [((0.7, 0.31, 0.8), HOLDS), ((0.5, 0.2, 0.6), UNDECIDED), ((0.1, 0.0, 0.29), FAILS)],
)
def test_the_top_overlaps_where_rho_is_least(overlap, expected, tmp_path):
    rows = [*GOOD["cross_task"], pair("b", "c", 0, 0, 0.13, 0.1, 0.2, overlap=overlap)]
    found = finding(tmp_path, "0-shot: top 30 % of heads overlap", cross_task=rows)
    value, low, high = (round(100 * bound) for bound in overlap)
    assert found.verdict == expected
    assert found.study == f"least rho 0.13: overlap {value} [{low}, {high}] %, chance 30 %"


def test_rho_between_shots_is_beside_what_the_papers_formula_gives(tmp_path):
    found = finding(tmp_path, "0- and 1-shot: heads' SRCC .39")
    assert (found.section, found.verdict) == ("6.2", HOLDS)
    right = ttest_1samp([0.3, 0.2, 0.4], 0).confidence_interval(0.95)
    scores = np.repeat(MIDDLE, 2), np.repeat(MIDDLE, 2) + np.arange(16)
    mistaken = spearmanr(*map(np.argsort, scores)).statistic
    assert abs(mistaken - spearmanr(*scores).statistic) > 0.1
    assert found.study == (
        f"0.30 [{right.low:.2f}, {right.high:.2f}]; "
        f"of argsort indices {mistaken:.2f} [{mistaken:.2f}, {mistaken:.2f}]; 3 tasks"
    )
    one = [row for row in GOOD["cross_shot"] if row["a"] == "a"]
    found = finding(tmp_path, "0- and 1-shot: heads'", cross_shot=one)
    assert (found.verdict, found.study) == (UNDECIDED, "needs two tasks at both numbers of shots")


def test_few_shot_agrees_with_few_shot(tmp_path):
    words = "heads' SRCC higher between few-shot"
    found = finding(tmp_path, words)
    assert found.verdict == HOLDS
    difference = [0.9 - 0.4, 0.7 - 0.3, 0.7 - 0.4]
    low, high = ttest_1samp(difference, 0).confidence_interval(0.95)
    assert found.study == f"0.77 and 0.37: 0.40 [{low:.2f}, {high:.2f}]; 3 tasks"

    swapped = [row | {"rho": 1 - row["rho"]} for row in GOOD["cross_shot"]]
    assert finding(tmp_path, words, cross_shot=swapped).verdict == FAILS
    noisy = GOOD["cross_shot"][:6]  # two tasks: the interval is wide
    noisy[5] = noisy[5] | {"rho": 0.3}
    assert finding(tmp_path, words, cross_shot=noisy).verdict == UNDECIDED
    one = [row for row in GOOD["cross_shot"] if row["a"] == "a"]
    found = finding(tmp_path, words, cross_shot=one)
    assert (found.verdict, found.study[:15]) == (UNDECIDED, "needs two tasks")


# --- where they lie ---


def test_important_heads_lie_in_the_middle_layers(tmp_path):
    words = "0-shot: important heads in the intermediate"
    found = finding(tmp_path, words)  # 16 heads: 11 go at 70 %, 5 stay
    assert (found.section, found.verdict) == ("4.1", HOLDS)
    assert found.study == "100 [100, 100] % of the top 30 % in layers 2 to 5, chance 50 %"
    ends = [r for t in "ab" for r in importance(t, 0, np.repeat(MIDDLE[::-1], 2) * -1, heads=2)]
    assert finding(tmp_path, words, head_importance=ends).verdict == FAILS
    two = [r for t in "ab" for r in importance(t, 0, [1, 2, 3, 4], heads=2)]
    assert finding(tmp_path, words, head_importance=two).study == "2 layers are too few"
    one = importance("a", 0, np.repeat(MIDDLE, 2), heads=2)
    assert finding(tmp_path, words, head_importance=one).verdict == UNDECIDED


def test_ffns_matter_in_the_upper_half_and_early_ones_with_five_shots(tmp_path):
    words = "0-shot: FFNs matter in the upper half"
    found = finding(tmp_path, words)
    scores = [RISING + 0.001 * NOISE[task] for task in "abc"]
    difference = [s[4:].mean() - s[:4].mean() for s in scores]
    low, high = ttest_1samp(difference, 0).confidence_interval(0.95)
    assert found.verdict == HOLDS
    assert found.study.endswith(f"difference {np.mean(difference):.3f} [{low:.3f}, {high:.3f}]")
    falling = [r for t in "ab" for r in importance(t, 0, RISING[::-1])]
    assert finding(tmp_path, words, ffn_importance=falling).verdict == FAILS
    early = finding(tmp_path, "5-shot: FFNs of the lower half matter too")
    lower = [s[:4].mean() for s in scores]
    low, high = ttest_1samp(lower, 0).confidence_interval(0.95)
    assert early.study.endswith(f"lower {np.mean(lower):.3f} [{low:.3f}, {high:.3f}]")
    layer = [r for t in "ab" for r in importance(t, 0, [0.5])]
    found = finding(tmp_path, words, ffn_importance=layer)
    assert (found.verdict, found.study) == (UNDECIDED, "needs two tasks and two layers")


@pytest.mark.parametrize(
    "score,error,expected",
    [(-0.4, 0.05, HOLDS), (0.3, 0.05, UNDECIDED), (0.01, 0.01, FAILS), (0.15, 0.05, UNDECIDED)],
)
def test_one_ffn_moves_a_task_by_twenty_points(score, error, expected, tmp_path):
    rows = importance("a", 1, [0.0] * 3, error=0.001)
    rows.append(rows[0] | {"layer": 3, "score": score, "standard_error": error})
    found = finding(tmp_path, "removing one FFN moves a task", ffn_importance=rows)
    assert found.verdict == expected
    margin = 100 * error * norm.ppf(1 - 0.025 / 4)  # the largest of four
    text = f"{100 * score:.1f} points [{100 * score - margin:.1f}, {100 * score + margin:.1f}] lost"
    assert found.study == f"a 1-shot, layer 3: {text}"
    gradient = [row | {"estimator": "gradient-token"} for row in rows]
    found = finding(tmp_path, "removing one FFN moves a task", ffn_importance=gradient)
    assert (found.verdict, found.study[:5]) == (UNDECIDED, "needs")


# --- induction ---


def test_where_induction_heads_lie(tmp_path):
    above = finding(tmp_path, "high prefix matching above the middle")
    assert (above.section, above.verdict) == ("6.3", HOLDS)
    assert above.study == "100 [100, 100] % of 3 heads"
    later = finding(tmp_path, "high copying later")  # layers 6 and 7 against 5, 6 and 7 of eight
    assert (later.verdict, later.study[:15]) == (HOLDS, "deeper by 6 [6,")
    more = finding(tmp_path, "high copying in more heads")
    assert (more.verdict, more.study) == (HOLDS, "4 and 3 heads: 1 [1, 1]")
    kinds = ("copying", "prefix matching")
    swapped = [row | {"kind": kinds[row["kind"] == "copying"]} for row in GOOD["induction"]]
    for words in ("high copying later", "high copying in more heads"):
        assert finding(tmp_path, words, induction=swapped).verdict == FAILS
    unsure = [row | {"standard_error": 0.5} for row in GOOD["induction"]]
    assert finding(tmp_path, "high copying in more heads", induction=unsure).verdict == UNDECIDED


def test_how_fast_induction_goes_with_unimportant_heads(tmp_path):
    prefix, copying = "0-shot: prefix matching flat to 20 %", "0-shot: copying falls"
    # The aggregate removes heads 0 to 15 in this order: 3 at 20 %, 6 at 40 %.
    scores = {"prefix matching": [0.0] * 6 + [1.0] * 10, "copying": [1.0] * 16}
    rows = [row for kind in scores for row in induced(kind, scores[kind], error=1e-6)]
    found = finding(tmp_path, prefix, induction=rows)
    assert (found.section, found.verdict) == ("6.3.1", HOLDS)
    assert found.study == "lost to 20 %: 0.00 [0.00, 0.00], after 40 %: 1.60 [1.60, 1.60]"
    found = finding(tmp_path, copying, induction=rows)
    assert (found.verdict, found.study[:31]) == (HOLDS, "lost to 20 %: 1.00 [1.00, 1.00]")
    first = [1.0] * 6 + [0.0] * 10
    rows = [row for kind in scores for row in induced(kind, first, error=1e-6)]
    assert finding(tmp_path, prefix, induction=rows).verdict == FAILS
    one = [row | {"task": "a"} for row in GOOD["head_importance"] if row["task"] == "aggregate"]
    rows = [row for kind in scores for row in induced(kind, scores[kind], error=1e-6)]
    found = finding(tmp_path, prefix, induction=rows, head_importance=one)
    assert found.verdict == HOLDS  # by the only task's own ranking
    found = finding(tmp_path, "5-shot: copying falls", induction=rows, head_importance=one[:16])
    assert (found.verdict, found.study) == (UNDECIDED, "no 5-shot")


# --- the paper's numbers, and the terminal ---


def test_the_papers_numbers_at_every_number_of_shots():
    removed = {
        (c, n): paper.removable(c, n) for c in ("heads", "ffns", "both") for n in paper.SHOTS
    }
    assert removed == {
        **{("heads", shots): (70, 0) for shots in (0, 1, 5)},
        **{("ffns", 0): (0, 20), ("ffns", 1): (0, 10), ("ffns", 5): (0, 10)},
        **{("both", 0): (70, 20), ("both", 1): (70, 10), ("both", 5): (60, 20)},
    }
    assert paper.removable("heads", 3) is None


def test_all_findings_are_printed_with_their_verdicts(tmp_path):
    path = write(tmp_path) / "summary.parquet"
    table = pl.read_parquet(path).to_arrow()
    storage.write(path, table, table.schema, {"model": "m"})
    console = Console(width=100, record=True, file=io.StringIO())
    comparison.show(tmp_path, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    groups = comparison.findings(tmp_path / "m" / "tables")
    expected = [found.verdict for group in groups for found in group]
    assert len(expected) == 43
    printed = [v for line in text.splitlines() for v in (UNDECIDED, FAILS, HOLDS) if v in line]
    assert printed == expected
    assert "3.0 points" in text and "m beside Bansal et al." in text
    with pytest.raises(summary.NoSummaryError, match="headcount run"):
        comparison.show(tmp_path / "nothing")
