"""Each finding of the paper: holds, does not hold, or not enough data, from hand-made tables."""

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy.stats import t

from headcount import artifacts, paper, summary
from headcount.paper import FAILS, HOLDS, UNDECIDED
from headcount.tables import MEAN

HEADS, FFNS = 100, 10  # of the model: a level is a count


def point(heads, ffns, drop, low, high, shots=0, order="own", task=MEAN):
    counts = {"heads_count": heads, "ffns_count": ffns // 10}
    shares = {"heads_removed": float(heads), "ffns_removed": float(ffns)}
    where = {"shots": shots, "task": task, "order": order}
    return where | counts | shares | {"drop": drop, "drop_low": low, "drop_high": high}


def pair(a, b, shots_a, shots_b, rho, low, high, component="heads"):
    names = {"a": a, "b": b, "shots_a": shots_a, "shots_b": shots_b, "component": component}
    return names | {"rho": rho, "rho_low": low, "rho_high": high}


WHOLE = point(0, 0, 0.0, 0.0, 0.0)
GOOD = {
    "head_pruning": [WHOLE, point(40, 0, 0.0, -0.01, 0.02), point(70, 0, 0.03, 0.01, 0.05)],
    "ffn_pruning": [WHOLE, point(0, 20, 0.03, 0.01, 0.05)],
    "combined_pruning": [WHOLE, point(70, 20, 0.03, 0.01, 0.05)],
    "cross_task": [
        pair("a", "b", 0, 0, 0.5, 0.1, 0.7),
        pair("a", "c", 0, 0, 0.3, 0.01, 0.4),
        pair("a", "aggregate", 0, 0, -0.9, -1.0, -0.8),  # not a pair of tasks
        pair("a", "b", 0, 0, -0.9, -1.0, -0.8, component="ffns"),
        pair("a", "b", 1, 1, 0.5, -0.1, 0.7),
    ],
    "cross_shot": [
        pair(task, task, shots_a, shots_b, rho, rho, rho)
        for task, rhos in (("a", (0.3, 0.5, 0.9)), ("b", (0.2, 0.4, 0.7)), ("c", (0.4, 0.4, 0.7)))
        for (shots_a, shots_b), rho in zip(((0, 1), (0, 5), (1, 5)), rhos, strict=True)
    ],
    "summary": [
        {"component": c, "order": "own", "shots": s, "heads_removed": 50.0, "ffns_removed": 30.0}
        for c in ("heads", "ffns", "both")
        for s in (0, 1, 5)
    ],
}


def write(directory, **tables):
    for name, rows in (GOOD | tables).items():
        table = pl.DataFrame(rows, infer_schema_length=None).to_arrow()
        path = directory / "m" / "tables" / f"{name}.parquet"
        artifacts.write(path, table, table.schema, {"model": "m"})
    return directory / "m" / "tables"


def finding(directory, words, **tables):
    (found,) = (f for f in paper.findings(write(directory, **tables)) if f.claim.startswith(words))
    return found


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
    found = finding(tmp_path, "0-shot: 70 % of the heads go for 5", head_pruning=rows + others)
    assert found.verdict == expected
    assert found.study.startswith("50 %")
    at = [f"{100 * drop:.1f} points" for heads, drop, *_ in points if heads == 70]
    assert all(text in found.study for text in at)


def test_ffns_that_go_for_five_points(tmp_path):
    found = finding(tmp_path, "0-shot: 20 % of the FFNs")
    assert (found.verdict, found.study) == (HOLDS, "30 %; at 20 %: 3.0 points [1.0, 5.0]")
    rows = [WHOLE, point(0, 20, 0.2, 0.1, 0.3)]
    assert finding(tmp_path, "0-shot: 20 % of the FFNs", ffn_pruning=rows).verdict == FAILS


@pytest.mark.parametrize("shots,heads,ffns,cost", [(0, 70, 20, 5), (1, 70, 10, 6), (5, 60, 20, 4)])
def test_heads_and_ffns_together(shots, heads, ffns, cost, tmp_path):
    words = f"{shots}-shot: {heads} % of the heads and {ffns} % of the FFNs go for {cost} points"
    for low, high, expected in (
        (cost - 2, cost, HOLDS),
        (cost - 2, cost + 1, UNDECIDED),
        (cost + 0.1, cost + 1, FAILS),
    ):
        worse = point(40, 10, 0.5, 0.4, 0.6, shots)  # elsewhere on the grid
        rows = [point(heads, ffns, cost / 100, low / 100, high / 100, shots), worse]
        assert finding(tmp_path, words, combined_pruning=rows).verdict == expected
    found = finding(tmp_path, words, combined_pruning=[point(40, 10, 0.0, 0.0, 0.0, shots)])
    assert (found.verdict, found.study) == (
        UNDECIDED,
        f"50+30 %; {heads}+{ffns} % is not on its grid",
    )
    elsewhere = [point(heads, ffns, 0.0, 0.0, 0.0, shots=2)]
    found = finding(tmp_path, words, combined_pruning=elsewhere)
    assert (found.verdict, found.study) == (UNDECIDED, f"no {shots}-shot")


def test_ten_percent_of_six_ffns_is_none(tmp_path):
    rows = [point(0, 0, 0.0, 0.0, 0.0, shots=1), point(70, 0, 0.0, 0.0, 0.0, shots=1)]
    rows.append(rows[-1] | {"ffns_count": 1, "ffns_removed": 100 / 6})
    found = finding(tmp_path, "1-shot: 70 % of the heads and 10 %", combined_pruning=rows)
    assert found.verdict == UNDECIDED


@pytest.mark.parametrize(
    "rows,expected",
    [
        (GOOD["cross_task"], HOLDS),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, 0.2, -0.1, 0.3)], UNDECIDED),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, -0.2, -0.3, -0.01)], FAILS),
        ([*GOOD["cross_task"], pair("b", "c", 0, 0, None, None, None)], UNDECIDED),
        ([pair("a", "b", 1, 1, 0.5, 0.4, 0.6)], UNDECIDED),
    ],
)
def test_rho_is_positive_for_every_pair(rows, expected, tmp_path):
    found = finding(tmp_path, "0-shot: SRCC", cross_task=rows)
    assert found.verdict == expected


def test_the_least_pair_is_named(tmp_path):
    assert finding(tmp_path, "0-shot: SRCC").study == "2 pairs, least 0.30 [0.01, 0.40]: a, c"


def test_few_shot_agrees_with_few_shot(tmp_path):
    found = finding(tmp_path, "SRCC of head importance higher")
    assert found.verdict == HOLDS
    difference = np.array([0.9 - 0.4, 0.7 - 0.3, 0.7 - 0.4])
    half = t.ppf(0.975, 2) * difference.std(ddof=1) / np.sqrt(3)
    low, high = difference.mean() - half, difference.mean() + half
    assert found.study == f"0.77 and 0.37, mean of 3 tasks: 0.40 [{low:.2f}, {high:.2f}]"

    swapped = [row | {"rho": 1 - row["rho"]} for row in GOOD["cross_shot"]]
    assert finding(tmp_path, "SRCC of head", cross_shot=swapped).verdict == FAILS
    noisy = GOOD["cross_shot"][:6]  # two tasks: the interval is wide
    noisy[5] = noisy[5] | {"rho": 0.3}
    assert finding(tmp_path, "SRCC of head", cross_shot=noisy).verdict == UNDECIDED
    one = [row for row in GOOD["cross_shot"] if row["a"] == "a"]
    found = finding(tmp_path, "SRCC of head", cross_shot=one)
    assert (found.verdict, found.study[:15]) == (UNDECIDED, "needs two tasks")


def test_all_findings_are_printed_with_their_verdicts(tmp_path):
    write(tmp_path)
    console = Console(width=200, record=True, file=io.StringIO())
    paper.show(tmp_path, console)
    text = console.export_text()
    lines = [line for line in text.splitlines() if "shot" in line]
    assert len(lines) == 13
    expected = [finding.verdict for finding in paper.findings(tmp_path / "m" / "tables")]
    assert all(line.rstrip().endswith(v) for line, v in zip(lines, expected, strict=True))
    assert "3.0 points [1.0, 5.0]" in text and "m beside Bansal et al." in text
    with pytest.raises(summary.NoSummaryError, match="make all"):
        paper.show(tmp_path / "nothing")
