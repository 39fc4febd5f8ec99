"""Labels, tooltips, search and help of the nodes, as an artist sees them in ComfyUI's page."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from comfyui.page import ComfyPage
from support.labels import told_labels
from texts import chinese_labels, page_path

pytestmark = pytest.mark.server


NODE_IDS = list(chinese_labels())
LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def labels(server) -> dict[str, dict[str, Any]]:
    """What the page has to show, by language and node id."""
    return {"en": told_labels(server.object_info()), "zh": chinese_labels()}


@dataclass(frozen=True)
class Shown:
    """A node alone in the graph of the page."""

    page: ComfyPage
    number: int
    node_id: str
    language: str
    texts: dict[str, Any]


# One list of both, so that all nodes are shown in one language, then in the other.
@pytest.fixture(scope="module", params=itertools.product(LANGUAGES, NODE_IDS), ids="-".join)
def shown(
    request: pytest.FixtureRequest,
    page_in: Callable[[str], ComfyPage],
    labels: dict[str, dict[str, Any]],
) -> Shown:
    language, node_id = request.param
    page = page_in(language)
    page.clear()
    return Shown(page, page.add_node(node_id, 0, 0), node_id, language, labels[language][node_id])


def test_every_node_is_tested(server):
    offered = server.object_info().values()
    ours = {n["name"] for n in offered if n["category"].split("/")[0] == "bad version"}
    assert ours == set(NODE_IDS)


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_server_describes_the_node(server, node_id):
    node = server.object_info()[node_id]
    assert len(node["display_name"].split()) >= 2
    assert len(node["description"]) > 50
    inputs = node["input"]["required"] | node["input"].get("optional", {})
    for name, (_, options) in inputs.items():
        assert len(options["tooltip"]) > 20, name
    assert all(node["output_tooltips"])


def test_labels(shown):
    (node,) = shown.page.nodes()
    texts = shown.texts
    assert node["title"] == texts["display_name"]
    assert sorted(node["inputs"]) == sorted(i["name"] for i in texts["inputs"].values())
    assert node["outputs"] == [o["name"] for o in texts["outputs"].values()]


def test_tooltips(shown):
    inputs = shown.texts["inputs"]
    tooltips = {name: shown.page.input_tooltip(shown.number, name) for name in inputs}
    assert tooltips == {name: text["tooltip"] for name, text in inputs.items()}
    assert shown.page.output_tooltip(shown.number, 0) == shown.texts["outputs"]["0"]["tooltip"]


def test_page_falls_back_to_what_the_nodes_say(page_in, labels):
    """In a language that the pack has no labels in, as in English."""
    page = page_in("fr")
    page.clear()
    texts = labels["en"]["BadVersionGuider"]
    number = page.add_node("BadVersionGuider", 0, 0)
    (node,) = page.nodes()
    assert node["title"] == texts["display_name"]
    assert sorted(node["inputs"]) == sorted(texts["inputs"])
    tooltips = {name: page.input_tooltip(number, name) for name in texts["inputs"]}
    assert tooltips == {name: text["tooltip"] for name, text in texts["inputs"].items()}
    assert page.help(number).splitlines()[0] == texts["display_name"]


def headings(node_id: str, language: str) -> list[str]:
    """The headings of a node's help page."""
    source = page_path(language, node_id).read_text(encoding="utf-8")
    found = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
    assert len(found) >= 4
    return found


def test_help_page(shown):
    lines = shown.page.help(shown.number).splitlines()
    wanted = headings(shown.node_id, shown.language)
    assert [line for line in lines if line in wanted] == wanted


@pytest.mark.parametrize("node_id", ["BadVersionGuider", "BadVersionGuidanceInterval"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_menu_of_a_node_opens_its_help_page(page_in, language, node_id):
    page = page_in(language)
    page.clear()
    lines = page.help_from_menu(page.add_node(node_id, 0, 0)).splitlines()
    wanted = headings(node_id, language)
    assert [line for line in lines if line in wanted] == wanted


GUIDERS = {"BadVersionGuider", "BadVersionPatch"}
SCHEDULES = {"BadVersionGuidanceInterval", "BadVersionGuidanceRamp", "BadVersionGuidanceCurve"}
WEAKENING = {node_id for node_id in NODE_IDS if node_id.startswith("BadVersionWeaken")}
# What somebody types who has never seen the nodes, and those that have to be offered then.
SEARCHES = [
    ("en", "bad", GUIDERS),
    ("en", "guidance", SCHEDULES | GUIDERS),
    ("en", "weak", WEAKENING),
    ("en", "autoguidance", GUIDERS),
    ("zh", "bad", GUIDERS),
    ("zh", "guidance", SCHEDULES | GUIDERS),
    ("zh", "weak", WEAKENING),
    ("zh", "autoguidance", GUIDERS),
    ("zh", "负面", {"BadVersionDynamicNegative"}),
    ("zh", "引导", SCHEDULES | GUIDERS),
]
# Chinese labels do not have the English word, so ids decide, and core's FluxGuidance and its like
# are shorter.
CORE_FIRST = {("zh", "guidance")}


@pytest.mark.parametrize(("language", "text", "node_ids"), SEARCHES)
def test_search_offers_the_nodes(page_in, labels, language, text, node_ids):
    page = page_in(language)
    page.clear()
    texts = labels[language]
    titles = {texts[node_id]["display_name"] for node_id in node_ids}
    chosen = min(node_ids)
    offered = page.search(text, texts[chosen]["display_name"])
    assert titles <= set(offered)
    # And not below what ComfyUI has itself: a list has room for about ten.
    ours = {each["display_name"] for each in texts.values()}
    room = 10 if (language, text) in CORE_FIRST else 1
    assert ours & set(offered[:room])
    page.wait_until("type => app.graph.nodes.map(node => node.type).join() === type", chosen)
