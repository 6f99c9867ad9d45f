"""The explorer in a browser: every control and its effect, at the widths of a desk and a phone.

Debian's Chromium, driven by Playwright; without one the tests are skipped.
"""

import shutil
from contextlib import contextmanager

import pytest
from explored import Invented, Size

from headcount.artifacts import storage
from headcount.report import explorer, figures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = [1280, 400]
NASTY = "</script><script>hacked = 1</script><img src=x onerror='hacked = 2'> \u05e9\u05dc {}"
NAMES = {"verbs": "Verb forms", "invented": "Invented"}
MINUS = "\u2212"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # As root Chromium has no sandbox of its own.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, path, width: int = 1280):
    """The page; it may request nothing, log nothing, and be no wider than its window."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    assert requests == [path.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def write(directory, size: Size):
    path = directory / "index.html"
    page = explorer.page(explorer.gather(Invented(directory, size).files, NAMES))
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    size = Size(estimators=("gradient-token", "oracle-loss"), context=NASTY)
    return write(tmp_path_factory.mktemp("explored"), size)


@pytest.fixture(params=WIDTHS)
def page(request, browser, path):
    with opened(browser, path, request.param) as page:
        yield page


def pixels(page, chart: str) -> str:
    return page.evaluate(f"document.querySelector('#{chart} canvas').toDataURL()")


def text(page, selector: str) -> str:
    return page.inner_text(selector)


def slide(page, count: int) -> None:
    page.evaluate(f"document.getElementById('removed').value = {count}")
    page.dispatch_event("#removed", "input")


def head(page, layer: int, index: int) -> dict:
    """Where the cell of a head is, of three layers of four."""
    box = page.locator("#map canvas").bounding_box()
    width, height = (box["width"] - 48) / 4, (box["height"] - 46) / 3
    return {"x": 46 + (index + 0.5) * width, "y": 6 + (2.5 - layer) * height}


def test_the_summary_is_on_top(page):
    assert "At 2 shots, Invented does without" in text(page, "#answer")
    assert page.locator("#summary tbody tr").count() == 6
    assert page.locator("main > *").first.get_attribute("id") == "summary"
    for section in page.locator("section").all():
        assert "How to read this" in section.inner_text()


def test_a_head_tells_its_rank_in_every_task_and_shot(page):
    page.locator("#map").scroll_into_view_if_needed()
    page.hover("#map canvas", position=head(page, 2, 3))
    tooltip = text(page, "#tooltip")
    for line in ("Head 2.3", "importance ", " ± ", "rank ", "prefix matching", "copying"):
        assert line in tooltip
    assert "Head 2.3" in text(page, "#ranks-title")
    assert page.locator("#ranks tbody tr").count() == 4  # three tasks and their mean
    ranks = [int(cell) for cell in page.locator("#ranks td > span").all_inner_texts()]
    assert len(ranks) == 8 and set(ranks) <= set(range(1, 13))


def test_the_keyboard_moves_from_head_to_head(page):
    page.hover("#map canvas", position=head(page, 0, 0))
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert "Head 0.1" in text(page, "#ranks-title")
    page.keyboard.press("ArrowUp")
    assert "Head 1.1" in text(page, "#tooltip")
    assert "Head 1.1" in text(page, "#spoken")


@pytest.mark.parametrize(
    "control,value",
    [
        ("task", "verbs"),
        ("shots", "0"),
        ("component", "ffns"),
        ("estimator", "oracle-loss"),
        ("color", "rank"),
        ("color", "prefix_matching"),
        ("color", "copying"),
    ],
)
def test_what_is_chosen_is_drawn(page, control, value):
    before = pixels(page, "map")
    page.select_option(f"#{control}", value)
    assert pixels(page, "map") != before


def test_the_task_and_the_component_are_named_where_they_count(page):
    page.select_option("#task", "verbs")
    page.select_option("#component", "ffns")
    assert text(page, "#pruning-title") == "What removing FFNs costs: Verb forms"
    assert "oracle (metric)" in text(page, "#map-reading")
    assert "FFN" in text(page, "#ranks-title")
    assert "FFNs" in text(page, "#tasks-matrix caption")


def test_a_held_out_task_has_curves_and_no_importance(page):
    page.select_option("#task", "sums")
    assert "held out" in text(page, "#map-reading")
    assert page.locator("#curves [role=button]").count() == 3 * 4
    assert "not pruned by both" in text(page, "#grid")


def test_the_slider_removes_the_least_important(page):
    page.select_option("#task", "verbs")
    assert text(page, "#removal").startswith("0 of 12 heads (0 %) removed.")
    before = pixels(page, "map")
    slide(page, 6)
    assert "6 of 12 heads (50 %) removed. Here the acc of Verb forms is" in text(page, "#removal")
    half = pixels(page, "map")
    assert half != before
    assert "crossed out" in text(page, "#legend")
    page.select_option("#order", "depth")
    assert pixels(page, "map") != half
    page.hover("#map canvas", position=head(page, 2, 0))  # the top layer goes first
    assert "removed at this level" in text(page, "#tooltip")
    page.hover("#map canvas", position=head(page, 0, 0))
    assert "removed at this level" not in text(page, "#tooltip")
    slide(page, 7)
    assert "At 6 removed, the nearest level that was measured" in text(page, "#removal")


def test_a_point_of_a_curve_opens_the_documents_that_changed(page):
    assert "Choose a point" in text(page, "#changed")
    page.select_option("#task", "verbs")
    page.locator("#curves [data-point='own 50']").click()
    assert text(page, "#counts").startswith(
        "Verb forms, 2 shots, 50 % of heads removed (the task's own ranking)"
    )
    assert "of 30 documents 10 lost, 0 gained (acc)" in text(page, "#counts")
    cards = page.locator("#changed details")
    assert cards.count() == 10
    card = cards.nth(3)
    assert "lost document 3, acc 1 → 0: right-3 → wrong-3" in card.inner_text()
    card.locator("summary").click()
    assert card.locator("pre").inner_text() == NASTY.format(3)
    rows = card.locator("tbody tr").all_inner_texts()
    assert [row.replace(MINUS, "-").split("\t") for row in rows] == [
        [" right-3", "✓", "-1.28", "-3.75", "-2.47"],
        [" wrong-3", "", "-2.50", "-2.50", "0.00"],
    ]
    assert page.evaluate("window.hacked") is None
    assert page.locator("#changed img").count() == 0


def test_documents_are_filtered_and_shown_in_parts(page):
    page.select_option("#task", "verbs")
    page.locator("#curves [data-point='own 50']").click()
    cards = page.locator("#changed details")
    cards.first.wait_for()
    page.click(".filters >> text=gained")
    assert "None of the documents" in text(page, "#changed")
    page.click(".filters >> text=lost")
    assert cards.count() == 10
    page.click(".filters >> text=all")
    assert cards.count() == 20
    page.click("#more")
    assert cards.count() == 30
    assert page.locator("#more").count() == 0
    page.select_option("#shots", "0")
    page.locator("#counts", has_text="0 shots").wait_for()


def test_of_the_mean_over_tasks_a_task_is_chosen(page):
    page.locator("#curves [data-point='random 50']").click()
    assert page.locator("#changed tbody tr").count() == 3
    page.click("#changed >> text=capitals")
    assert page.input_value("#task") == "capitals"
    page.locator("#random").wait_for()
    assert page.locator("#random option").all_inner_texts() == ["random order 1", "random order 2"]
    page.select_option("#random", "random-1")
    assert page.input_value("#random") == "random-1"


def test_a_cell_of_the_grid_opens_its_documents(page):
    page.select_option("#task", "verbs")
    page.select_option("#grid-order", "depth")
    page.click("#grid button >> nth=0")
    assert "75 % of FFNs removed (top layers first)" in text(page, "#counts")
    assert page.locator("#grid [aria-pressed=true]").count() == 1


def test_curves_and_grids_are_reached_by_keyboard(page):
    page.focus("#curves [tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "Choose a task" in text(page, "#changed")
    assert page.evaluate("document.activeElement.id") == "documents-title"
    page.focus("#grid [tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "of heads and" in text(page, "#changed")


def test_the_matrix_opens_the_scatter_of_its_pair(page):
    page.click("#tasks-matrix tr:nth-child(1) td:nth-child(4) button")
    assert "anagrams and Verb forms at 2 shots: SRCC" in text(page, "#pair")
    before = pixels(page, "scatter")
    page.click("#tasks-matrix tr:nth-child(1) td:nth-child(3) button")
    assert "anagrams and capitals at 2 shots: SRCC" in text(page, "#pair")
    assert pixels(page, "scatter") != before
    page.select_option("#shots", "0")
    assert "anagrams and capitals at 0 shots" in text(page, "#pair")
    page.click("#shots-matrix button >> nth=0")
    assert "anagrams at 0 shots and 2 shots" in text(page, "#pair")
    ranks = pixels(page, "scatter")
    page.select_option("#axes", "scores")
    assert pixels(page, "scatter") != ranks
    page.focus("#scatter")
    page.keyboard.press("ArrowRight")
    assert "Head " in text(page, "#tooltip") and "rank " in text(page, "#spoken")


def test_every_control_has_a_name(page):
    page.select_option("#task", "verbs")
    page.locator("#curves [data-point='own 50']").click()
    page.locator("#changed details").first.wait_for()
    nameless = page.evaluate(
        """[...document.querySelectorAll('select, input, button, [role=button], [tabindex]')]
        .filter((node) => !node.labels?.length && !node.ariaLabel && !node.innerText.trim())
        .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_it_prints_all_views(browser, path):
    with opened(browser, path) as page:
        page.emulate_media(media="print")
        assert page.locator("nav").is_hidden()
        assert page.locator("section:visible").count() == 6
        assert len(page.pdf()) > 20_000


MISSING = {
    "summary": "no level of this study removes",
    "grid": "not pruned by both",
    "tasks-matrix": "needs two; this study has one",
    "shots-matrix": "needs two numbers of shots",
    "scatter": "No pair to show",
}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_smallest_study_says_what_is_missing(browser, tmp_path, width):
    """One task, one number of shots, one level at which nothing goes, nothing but depth."""
    size = Size(tasks=("verbs",), heldout=(), shots=(0,), levels=(0,), random=0, induction=False)
    with opened(browser, write(tmp_path, size), width) as page:
        for name, message in MISSING.items():
            if name != "grid":
                assert message in text(page, f"#{name}")
        assert "No combined level" in text(page, "#grid")
        assert "No level of this study removes any of the heads" in text(page, "#curves")
        assert "no induction scores" in text(page, "#ranks")
        assert page.locator("#color option").all_inner_texts() == ["importance", "rank"]


def test_importance_alone_is_shown(browser, tmp_path):
    files = Invented(tmp_path, Size(tasks=("verbs",), heldout=(), shots=(0,))).files
    page = explorer.page(explorer.gather(explorer.Files(importance=files.importance)))
    path = tmp_path / "index.html"
    path.write_text(page, encoding="utf-8")
    with opened(browser, path) as page:
        assert "not pruned" in text(page, "#curves")
        assert MISSING["grid"] in text(page, "#grid")
        assert "Nothing to sum up" in text(page, "#summary-table")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_large_study_opens(browser, large_page, width):
    with opened(browser, large_page, width) as page:
        assert "4,608 heads" in text(page, "#facts")
        assert page.locator("#tasks-matrix tbody tr").count() == 15
        slide(page, 3000)
        assert "3000 of 4608 heads (65 %)" in text(page, "#removal")


@pytest.mark.parametrize("name", ["head_pruning", "combined_pruning", "transfer_tasks"])
def test_the_page_of_a_figure_shrinks_with_the_window(browser, tmp_path, name):
    files = Invented(tmp_path, Size()).files
    chart = getattr(figures, name)(storage.frame(files.tables[name.removesuffix("_tasks")]))
    figures.save(chart, [tmp_path / "figure.html"])
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto((tmp_path / "figure.html").as_uri())
    drawing = page.wait_for_selector("svg.marks")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert 300 < drawing.bounding_box()["width"] < 400
    assert "?" in page.title()
    page.close()
