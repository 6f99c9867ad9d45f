"""Pruning levels remove what they say, and pruned accuracies are those of zeroed weights."""

import json

import numpy as np
import polars as pl
import pytest
from plain import naive, order, tolerance

from headcount.artifacts import schemas, storage
from headcount.scores import pruning
from headcount.scores.documents import Evaluation

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def evaluation(prompts, yaml):
    return Evaluation(prompts, "evaluation", yaml)


def test_pruned_accuracies_equal_zeroing_the_weights_by_hand(opt, evaluation):
    ranking = {"heads": order(opt, "heads"), "ffns": order(opt, "ffns")}
    levels = [(0.0, 0.0), (50.0, 0.0), (25.0, 67.0), (100.0, 100.0)]
    rows = pl.DataFrame(pruning.prune(opt, evaluation, {"own": ranking}, levels)["own"])
    encoded = opt.encode([(r["context"], r["continuation"]) for r in evaluation.requests])
    gold = [doc["answer"] for doc in evaluation.docs]
    for heads_level, ffns_level in levels:
        heads = ranking["heads"].head(int(heads_level * 12 // 100)).select("layer", "head").rows()
        ffns = ranking["ffns"].head(int(ffns_level * 3 // 100))["layer"].to_list()
        scores = [naive(opt, prompt, heads, ffns)[0] for prompt in encoded]
        at = rows.filter(heads_level=heads_level, ffns_level=ffns_level)
        found = np.concatenate(at["log_likelihoods"])
        np.testing.assert_allclose(found, scores, atol=tolerance(opt), rtol=0)
        assert at["metric"].to_list() == (np.reshape(scores, (-1, 3)).argmax(1) == gold).tolist()
        assert set(at["heads_removed"]) == {len(heads)} and set(at["ffns_removed"]) == {len(ffns)}


def test_equal_sets_of_components_are_evaluated_once(opt, evaluation, monkeypatch):
    seen = []
    run = Evaluation.run
    monkeypatch.setattr(
        Evaluation, "run", lambda s, m, masks, _: seen.append(masks) or run(s, m, masks)
    )
    both = {name: {"ffns": order(opt, "ffns", seed)} for name, seed in (("a", 0), ("b", 1))}
    rows = pruning.prune(opt, evaluation, both, [(0.0, level) for level in (0, 10, 20, 34, 100)])
    removed = {tuple(mask.tolist()) for mask in seen[0].ffns}
    assert len(removed) == len(seen[0])  # none twice: the levels 0, 10 and 20 remove nothing
    assert len(rows["a"]) == len(rows["b"]) == 5 * len(evaluation.docs)


def test_rows_conform_to_the_schema(opt, evaluation, tmp_path):
    ranking = {"by": {"heads": order(opt, "heads")}}
    rows = pruning.prune(opt, evaluation, ranking, [(0.0, 0.0), (50.0, 0.0)])["by"]
    storage.write(tmp_path / "p.parquet", rows, schemas.ROWS["pruning"], {"task": "t"})
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert table.height == 2 * len(evaluation.docs)
    results = [json.loads(result) for result in table["results"]]
    assert [result["acc"] for result in results] == table["metric"].to_list()
    assert storage.provenance(tmp_path / "p.parquet")["task"] == "t"
