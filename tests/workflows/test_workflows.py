"""The workflows and nodes as an artist meets them: in ComfyUI's page, and on its server."""

import copy
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from digits.classifier import read_digits
from engine.install import ROOT
from engine.page import ComfyPage, opened_page
from engine.server import NodeError, Server
from engine.workflow import Prompt, WorkflowError, find_node, to_prompt

pytestmark = pytest.mark.server

WORKFLOW = "bad_version_digits"
SAVED = json.loads((ROOT / "workflows" / f"{WORKFLOW}.json").read_text(encoding="utf-8"))
CARD = ROOT / "workflows" / f"{WORKFLOW}.jpg"
NODE_IDS = ("BadVersionGuider", "BadVersionPatch")


@pytest.fixture(scope="module")
def prompt(server: Server) -> Prompt:
    return to_prompt(SAVED, server.object_info())


@pytest.fixture(scope="module", params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def texts(language: str) -> dict[str, Any]:
    """What the nodes say in the language of the page."""
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(browser, server: Server, language: str) -> Iterator[ComfyPage]:
    """The page in one language, with the workflow loaded from the template browser."""
    with opened_page(browser, server.url, language) as opened:
        opened.load_template(WORKFLOW)
        yield opened


def picture_of(server: Server, prompt: Prompt, prompt_id: str) -> Image.Image:
    outputs = server.wait(prompt_id)["outputs"]
    (reference,) = outputs[find_node(prompt, "SaveImage")]["images"]
    return Image.open(io.BytesIO(server.image(reference)))


def read(picture: Image.Image) -> int:
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB")) / 255.0)
    return int(read_digits(pixels[None])[0])


# On the server, without a page.


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_server_describes_the_node(server, node_id):
    node = server.object_info()[node_id]
    assert re.fullmatch(r"Bad-Version (Guider|Patch)", node["display_name"])
    assert len(node["description"]) > 50
    inputs = node["input"]["required"] | node["input"]["optional"]
    for name, (_, options) in inputs.items():
        assert len(options["tooltip"]) > 20, name
    assert all(node["output_tooltips"])


@pytest.mark.parametrize("digit", [0, 2, 3, 6, 7])
def test_workflow_draws_the_digit(server, prompt, digit):
    prompt = copy.deepcopy(prompt)
    guider = prompt[find_node(prompt, "BadVersionGuider")]
    prompt[guider["inputs"]["positive"][0]]["inputs"]["digit"] = str(digit)
    picture = picture_of(server, prompt, server.queue(prompt))
    assert (picture.format, picture.size) == ("PNG", (64, 64))
    assert read(picture) == digit


def test_every_way_of_the_demo_is_another_one(server, prompt):
    drawn = [demo.run(server, demo.guided(prompt, way, 3)) for way in demo.WAYS]
    assert [len(pictures) for pictures in drawn] == [demo.PER_DIGIT] * 4
    assert (
        len({picture.tobytes() for pictures in drawn for picture in pictures}) == 4 * demo.PER_DIGIT
    )


def test_same_model_as_weak_model_is_an_error_of_the_guider(server, prompt):
    prompt = copy.deepcopy(prompt)
    guider = find_node(prompt, "BadVersionGuider")
    prompt[guider]["inputs"]["weak_model"] = prompt[guider]["inputs"]["model"]
    with pytest.raises(NodeError, match="very model that is plugged into 'model'") as failure:
        server.wait(server.queue(prompt))
    assert (failure.value.node_id, failure.value.node_type) == (guider, "BadVersionGuider")
    assert "Bad-Version Guider, input 'weak_model': got" in failure.value.message


def test_nothing_to_push_away_from_is_an_error_of_the_guider(server, prompt):
    prompt = copy.deepcopy(prompt)
    guider = find_node(prompt, "BadVersionGuider")
    for name in ("negative", "weak_model"):
        del prompt[guider]["inputs"][name]
    with pytest.raises(NodeError, match="Expected at least one of the two") as failure:
        server.wait(server.queue(prompt))
    assert failure.value.node_id == guider


def test_card_has_a_picture_that_is_larger_than_a_digit():
    with Image.open(CARD) as card:
        assert card.format == "JPEG"
        assert card.width == card.height >= 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "NoSuchNode"}, "no such node"),
        ({"mode": 4}, "muted or bypassed"),
        ({"widgets_values": []}, "0 values for the widgets"),
    ],
)
def test_what_cannot_be_converted_is_refused(server, change, message):
    workflow = copy.deepcopy(SAVED)
    (node,) = (n for n in workflow["nodes"] if n["type"] == "RandomNoise")
    node.update(change)
    with pytest.raises(WorkflowError, match=rf"node {node['id']} .*{message}"):
        to_prompt(workflow, server.object_info())


# In the page.


def test_template_browser_shows_the_card_with_its_picture(browser, server):
    with opened_page(browser, server.url, "en") as page:
        with page.page.expect_response(f"**/{CARD.name}") as answer:
            picture = page.template_card(WORKFLOW).locator("img").first
        assert answer.value.ok
        assert page.page.request.get(answer.value.url).body() == CARD.read_bytes()
        shown = picture.evaluate(
            "async img => { await img.decode(); return [img.naturalWidth, img.naturalHeight]; }"
        )
        with Image.open(CARD) as card:
            assert tuple(shown) == card.size
        # The template browser itself is the one dialog.
        assert page.problems() == [page.page.get_by_role("dialog").inner_text()]


def test_opens_without_problems(page):
    nodes = page.nodes()
    assert [node["type"] for node in nodes] == [node["type"] for node in SAVED["nodes"]]
    assert all(node["known"] for node in nodes)
    assert page.problems() == []


def test_missing_node_would_be_noticed(browser, server):
    workflow = copy.deepcopy(SAVED)
    workflow["nodes"][1]["type"] = "NoSuchNode"
    with opened_page(browser, server.url, "en") as page:
        page.page.evaluate("workflow => { app.loadGraphData(workflow) }", workflow)
        page.page.get_by_role("dialog").get_by_text("NoSuchNode").wait_for()
        assert "NoSuchNode" in "".join(page.problems())


def test_no_two_nodes_overlap(page):
    boxes = {node["title"]: node["box"] for node in page.nodes()}
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        beside = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
        above = a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        assert beside or above, f"{one!r} and {other!r}"
    assert len(boxes) == len(SAVED["nodes"])


def test_nodes_are_saved_large_enough_for_their_titles_and_inputs(page):
    saved = {node["id"]: node["size"] for node in SAVED["nodes"]}
    for node in page.nodes():
        width, height = node["needed"]
        assert saved[node["id"]][0] >= width and saved[node["id"]][1] >= height, node["title"]


def test_links_run_from_left_to_right():
    left = {node["id"]: node["pos"][0] for node in SAVED["nodes"]}
    for _, source, _, target, _, kind in SAVED["links"]:
        assert left[source] < left[target], kind


def test_note_says_what_to_replace():
    (note,) = (node for node in SAVED["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    for word in ("bad version", "weak_scale", "your own models", "CLIP Text Encode"):
        assert word in text


def test_page_and_converter_agree(page, prompt):
    sent = page.prompt()
    titles = {node_id: node.pop("_meta")["title"] for node_id, node in sent.items()}
    assert sent == prompt
    assert len(titles) == len(SAVED["nodes"]) - 1  # All but the note.


def test_runs_from_the_page(page, server, prompt):
    prompt_id = page.run()
    assert read(picture_of(server, prompt, prompt_id)) == 3
    page.wait_until(
        "id => app.graph.getNodeById(id).imgs?.length === 1",
        int(find_node(prompt, "SaveImage")),
    )
    assert page.problems() == []


@pytest.fixture
def node_numbers(page: ComfyPage) -> Iterator[dict[str, int]]:
    """Our two nodes in the graph of the page: the workflow's guider, and a patch put beside it."""
    (guider,) = (node["id"] for node in page.nodes() if node["type"] == "BadVersionGuider")
    patch = page.add_node("BadVersionPatch", 1100, 420)
    yield {"BadVersionGuider": guider, "BadVersionPatch": patch}
    page.remove_node(patch)


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_labels(page, node_numbers, texts, node_id):
    (node,) = (node for node in page.nodes() if node["id"] == node_numbers[node_id])
    expected = texts[node_id]
    assert node["title"] == expected["display_name"]
    assert sorted(node["inputs"]) == sorted(i["name"] for i in expected["inputs"].values())
    assert node["outputs"] == [o["name"] for o in expected["outputs"].values()]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_tooltips(page, node_numbers, texts, node_id):
    number, expected = node_numbers[node_id], texts[node_id]
    shown = {name: page.input_tooltip(number, name) for name in expected["inputs"]}
    assert shown == {name: text["tooltip"] for name, text in expected["inputs"].items()}
    assert page.output_tooltip(number, 0) == expected["outputs"]["0"]["tooltip"]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page(page, node_numbers, language, node_id):
    shown = page.help(node_numbers[node_id])
    name = {"en": f"{node_id}.md", "zh": f"{node_id}/zh.md"}[language]
    source = (ROOT / "web" / "docs" / name).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
    assert len(headings) > 5
    assert [line for line in shown.splitlines() if line in headings] == headings
