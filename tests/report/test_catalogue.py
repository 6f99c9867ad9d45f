"""Whatever is done for a figure is done for every figure of the catalogue, and for no other."""

import re

import pytest
from study import REPOSITORY

from headcount.report import across, catalogue, figures, tables

FIGURES = catalogue.FIGURES.values()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_has_a_table_and_drawings(figure):
    assert callable(getattr(across if figure.of_models else tables, figure.name))
    assert all(callable(getattr(figures, page)) for page in figure.pages)


def test_no_drawing_is_missing_in_the_catalogue():
    drawn = {page for figure in FIGURES for page in figure.pages}
    assert {*figures.__all__} - {"Style", "save"} == drawn


def test_every_figure_has_a_caption_and_a_line_in_the_documents():
    captions = {path.stem for path in (REPOSITORY / "workflow" / "report").glob("*.rst")}
    assert captions == {*catalogue.FIGURES}
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    assert {*catalogue.FIGURES} <= {*re.findall(r"`(\w+)`", page)}
