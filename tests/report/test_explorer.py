"""The explorer's page: what it holds, how large it is, and that nothing in it is taken for HTML."""

import base64
import gzip
import json
import re

import numpy as np
import polars as pl
import pytest
from explored import Invented, Size

from headcount.artifacts import storage
from headcount.report import explorer
from headcount.report.explorer import document_panel, packing

NASTY = (
    "</script><script>window.hacked = 1</script><!-- $style & <b>\u05e9\u05dc\u05d5\u05dd\u2028{}"
)


def unpacked(text: str):
    """What `packing.pack` packed, as the page reads it."""
    data = gzip.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(data[:4], "little")

    def array(value: dict):
        if "dtype" not in value:
            return value
        return np.frombuffer(data, value["dtype"], value["length"], start + value["at"])

    return json.loads(data[4:start], object_hook=array)


def parts_of(page: str) -> dict:
    """Name -> the data of a page."""
    found = re.findall(r'<script type="application/octet-stream" id="(.+?)">(.+?)</script>', page)
    return {name: unpacked(text) for name, text in found}


@pytest.fixture(scope="module")
def invented(tmp_path_factory):
    return Invented(tmp_path_factory.mktemp("invented"), Size())


@pytest.fixture(scope="module")
def parts(invented):
    return parts_of(explorer.page(explorer.gather(invented.files)))


def test_what_is_packed_is_read_back():
    value = {"a": [1, None, "é</script>"], "b": np.arange(3, dtype=np.int32)}
    text = packing.pack(value | {"c": np.array([0.5, np.nan], np.float32)})
    assert re.fullmatch("[A-Za-z0-9+/=]+", text)
    found = unpacked(text)
    assert found["a"] == value["a"]
    assert found["b"].tolist() == [0, 1, 2]
    assert found["c"][0] == 0.5 and np.isnan(found["c"][1])
    with pytest.raises(TypeError, match="float64"):
        packing.pack(np.zeros(2))


def test_rounding_keeps_four_digits_and_infinity():
    values = np.array([-13.228153, -0.00012345, 1e5, 0, -np.inf], np.float32)
    np.testing.assert_allclose(packing.rounded(values), values, rtol=1e-4)


def test_scores_and_ranks_are_those_of_the_artifacts(invented, parts):
    heads = parts["study"]["components"]["heads"]
    assert [(one["task"], one["shots"]) for one in heads["scores"]] == [
        *((task, shots) for task in invented.size.tasks for shots in invented.size.shots),
        *(("aggregate", shots) for shots in invented.size.shots),
    ]
    for vector in heads["scores"][:6]:
        path = invented.importance["heads", vector["task"], vector["shots"]]
        table = storage.frame(path).sort("layer", "head")
        np.testing.assert_allclose(vector["score"], table["score"], rtol=1e-6)
        np.testing.assert_allclose(vector["error"], table["standard_error"], rtol=1e-6)
        assert vector["rank"].tolist() == (table["score"].rank().cast(int) - 1).to_list()
        assert heads["layer"].tolist() == table["layer"].to_list()
    assert {control["name"] for control in heads["controls"]} == {"depth", "random-0", "random-1"}


def test_curves_are_those_of_the_figures(invented, parts):
    drawn = pl.read_parquet(invented.files.tables["head_pruning"])
    curves = parts["study"]["components"]["heads"]["curves"]
    of_heldout = {"mean over held-out tasks"}  # it stands in the table of transfer alone
    assert set(drawn["task"]) | {"sums"} | of_heldout == set(curves["task"])
    where = [i for i, task in enumerate(curves["task"]) if task == "mean over tasks"]
    shown = sorted(round(float(curves["value"][i]), 5) for i in where)
    of_mean = drawn.filter(task="mean over tasks")["value"]
    assert shown == sorted(round(value, 5) for value in of_mean)


def test_documents_before_and_after_are_those_of_the_artifact(invented, parts):
    part = next(
        part
        for name, part in parts.items()
        if name != "study" and (part["task"], part["shots"]) == ("verbs", 2)
    )
    wanted = {"component": "heads", "ranking": "verbs", "heads_level": 50.0, "ffns_level": 0.0}
    point = next(one for one in part["points"] if wanted.items() <= one.items())
    path = invented.directory / "pruning/verbs/2-shot/heads/by-verbs.parquet"
    rows = pl.read_parquet(path).filter(heads_level=50.0)
    assert point["lost"] == (rows["metric"] == 0).sum() and point["gained"] == 0
    assert part["metrics"][point["metric"]].tolist() == rows["metric"].to_list()
    likelihoods = part["log_likelihoods"][point["row"]]
    np.testing.assert_allclose(likelihoods, rows["log_likelihoods"].explode(), rtol=1e-4)
    assert part["starts"].tolist() == list(range(0, 61, 2))
    assert part["documents"][7]["choices"] == [" right-7", " wrong-7"]
    assert part["documents"][7]["gold"] == [1, 0]


def test_long_texts_and_many_documents_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(document_panel, "DOCUMENTS", 5)
    size = Size(tasks=("verbs",), heldout=(), shots=(0,), context="x" * 2000 + "end {}")
    gathered = explorer.gather(Invented(tmp_path, size).files)
    part = gathered.documents[0]
    assert (part["kept"], part["total"], len(part["documents"])) == (5, 30, 5)
    document = part["documents"][3]
    assert document["contexts"][0].endswith("xend 3")
    assert len(document["contexts"][0]) == document_panel.CHARACTERS
    assert document["cut"] == [2005 - document_panel.CHARACTERS]
    lost = [point["lost"] for point in part["points"] if point["heads_level"] == 75]
    assert max(lost) > 5  # counted over all documents


def test_few_log_likelihoods_may_be_kept_and_prompts_be_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(document_panel, "VALUES", 400)
    size = Size(tasks=("verbs",), heldout=(), shots=(0,), truncated=3)
    gathered = explorer.gather(Invented(tmp_path, size).files)
    assert gathered.study["remarks"] == ["verbs, 0-shot: 3 prompts are cut to the model's window"]
    part = gathered.documents[0]
    assert 1 <= part["kept"] < 10
    assert all(len(row) == 2 * part["kept"] for row in part["log_likelihoods"])


def test_texts_stay_texts(tmp_path):
    size = Size(tasks=("verbs",), heldout=(), shots=(0,), context=NASTY)
    page = explorer.page(explorer.gather(Invented(tmp_path, size).files))
    assert "hacked" not in page
    assert page.count("</script>") == 1 + len(parts_of(page))
    assert parts_of(page)["documents-0"]["documents"][4]["contexts"] == [NASTY.format(4)]


def test_the_page_asks_for_nothing(invented):
    page = explorer.page(explorer.gather(invented.files))
    assert not re.search(r'(src|href)="(?!#|data:,")', page)
    assert "default-src 'none'" in page
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)


def test_importance_alone_is_a_page(invented):
    files = explorer.Files(importance=invented.files.importance)
    gathered = explorer.gather(files)
    assert gathered.documents == [] and gathered.study["heldout"] == []
    assert parts_of(explorer.page(gathered))["study"]["induction"] == {}


def test_both_components_are_needed(invented):
    heads = [path for path in invented.files.importance if path.endswith("heads.parquet")]
    for importance, missing in ((heads, "ffns"), ([], "heads")):
        with pytest.raises(ValueError, match=f"needs the importance of {missing}"):
            explorer.gather(explorer.Files(importance=importance))


def test_estimators_stand_beside_the_studys_own(tmp_path):
    size = Size(shots=(0,), heldout=(), estimators=("gradient-token", "oracle-loss"))
    study = explorer.gather(Invented(tmp_path, size).files).study
    assert study["components"]["heads"]["estimators"] == ["gradient-token", "oracle-loss"]
    names = [one["estimator"] for one in study["components"]["heads"]["scores"]]
    assert names.count("gradient-token") == names.count("oracle-loss") == 4  # with the mean


@pytest.mark.slow
def test_a_study_of_opt_66b_fits_a_page(large_page):
    """64 layers of 72 heads, 14 tasks at three numbers of shots."""
    assert 2e6 < large_page.stat().st_size < 15e6
