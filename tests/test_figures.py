"""Every figure of the tiny study is a picture, a drawing and a page that needs no network."""

import re
import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest
from study import FIGURES


@pytest.fixture(scope="module")
def directory(finished):
    return finished.directory / "artifacts" / "tiny"


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_formats(directory, name):
    png = (directory / "figures" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert width > 300 and height > 200
    ElementTree.parse(directory / "figures" / f"{name}.svg")
    html = (directory / "figures" / f"{name}.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', html)


@pytest.mark.parametrize("name", ["head_pruning", "ffn_pruning", "transfer"])
def test_controls_are_on_every_curve(directory, name):
    svg = (directory / "figures" / f"{name}.svg").read_text()
    assert "depth (top layer first)" in svg and "random order" in svg
    table = pl.read_parquet(directory / "tables" / f"{name}.parquet")
    for _, rows in table.group_by("shots", "task"):
        assert {"depth", "random", "aggregate"} <= set(rows["order"])


def test_the_matrix_shows_the_rho_of_its_table(directory):
    svg = (directory / "figures" / "cross_task.svg").read_text()
    table = pl.read_parquet(directory / "tables" / "cross_task.parquet")
    for rho in table["rho"].drop_nulls():
        assert f">{rho:.2f}<" in svg
