"""The workflows in the page of today, where nodes are elements that Vue draws.

They are larger there than on the canvas, and grow with what a run puts on them.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Iterator

import pytest

import cards
from comfyui.install import SetupError, newer_page
from comfyui.page import ComfyPage
from comfyui.server import Server, running_server
from support.shown import SCREENSHOTS, Shown
from texts import chinese_labels

pytestmark = pytest.mark.server

LANGUAGES = ("en", "zh")
SAVED = {name: cards.load(name) for name in cards.WORKFLOWS}
SHOWN = [*itertools.product(LANGUAGES, SAVED)]
# What a run puts on nodes is as large in any language: in Chinese, the fullest one shows it.
RUNNING = [*(("en", name) for name in SAVED), ("zh", "compare_pushes")]


@pytest.fixture(scope="module")
def vue_nodes() -> bool:
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with the newer page, in the place of the one that all other modules share."""
    try:
        page = newer_page()
    except SetupError as missing:
        if os.environ.get("BVG_REQUIRE_ALL") == "1":
            pytest.fail(str(missing))
        warnings.warn(f"The newer page was not tested. {missing}", stacklevel=1)
        pytest.skip(str(missing))
    with running_server(page=page) as running:
        yield running


@pytest.fixture(scope="module", params=SHOWN, ids="-".join)
def shown(request: pytest.FixtureRequest, page_in: Callable[[str], ComfyPage]) -> Shown:
    language, name = request.param
    page = page_in(language)
    page.load(SAVED[name])
    shown = Shown(page, name, language, SCREENSHOTS / "vue")
    page.screenshot(shown.screenshot("opened"))
    return shown


def test_opens_without_problems(shown):
    for node in shown.nodes:
        shown.page.drawn_node(node["id"]).wait_for()
    assert shown.page.problems() == []


def test_no_two_nodes_overlap(shown):
    assert shown.page.overlaps() == []


def test_notes_are_wholly_in_view(shown):
    assert shown.page.cut_notes() == []


@pytest.mark.parametrize("shown", RUNNING, indirect=True, ids="-".join)
def test_no_two_nodes_overlap_after_a_run(shown, server, object_info, any_image):
    page = shown.page
    if shown.name in cards.CHAINS:
        page.tell_of_a_run(any_image)
        showing = [n for n in shown.nodes if object_info.get(n["type"], {}).get("output_node")]
        pictures = {node["id"]: 1 for node in showing}
    else:
        # Few, as all grows at the first one. In each language others, so that nothing is cached.
        page.set_widgets("steps", 2 + LANGUAGES.index(shown.language))
        page.set_widgets("seeds", "1")  # Of a sweep.
        outputs = server.wait(page.run())["outputs"]
        pictures = {int(node_id): len(each["images"]) for node_id, each in outputs.items()}
    try:
        page.wait_until_all_show(pictures)
        assert page.overlaps() == []
    finally:
        page.screenshot(shown.screenshot("run"))
    assert page.problems() == []


def test_rarely_needed_widgets_are_shown_when_asked_for(page_in, server):
    info = server.object_info()
    page = page_in("en")
    page.clear()
    for place, node_type in enumerate(chinese_labels()):
        row, column = divmod(place, 8)
        page.add_node(node_type, 400 * column, 600 * row)
    page.show_all()
    for node in page.nodes():
        inputs = info[node["type"]]["input"]
        options = {**inputs["required"], **inputs.get("optional", {})}
        rare = [name for name in node["widgets"] if options[name][1].get("advanced")]
        drawn = page.drawn_node(node["id"])
        labels = drawn.get_by_test_id("widget-layout-field-label")
        assert labels.all_inner_texts() == [name for name in node["widgets"] if name not in rare]
        button = drawn.get_by_test_id("advanced-inputs-button")
        assert button.count() == bool(rare), node["type"]
        if node["type"] == "BadVersionGuider":
            assert labels.all_inner_texts() == ["cfg", "weak_scale"]
            button.click()
            labels.get_by_text("weak_every").wait_for()
