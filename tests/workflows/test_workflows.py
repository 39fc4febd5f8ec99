"""The workflows as an artist meets them: on ComfyUI's server, and in its page."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

import cards
import demo
from digits.classifier import read_digits
from engine.page import ComfyPage, opened_page
from engine.server import NodeError, Server
from engine.workflow import Prompt, WorkflowError, find_node, to_prompt

pytestmark = pytest.mark.server

ON_DIGITS = list(cards.CARDS)
# What cannot run here comes last, so that the lists agree for as long as both go on: tests of the
# same workflow then share what they have opened.
NAMES = [*ON_DIGITS, *cards.CHAINS]
SAVED = {name: cards.load(name) for name in NAMES}

each_workflow = pytest.mark.parametrize("name", NAMES)
each_workflow_on_digits = pytest.mark.parametrize("name", ON_DIGITS)


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict[str, Any]:
    return server.object_info()


@pytest.fixture(scope="module")
def prompt_of(object_info: dict[str, Any]) -> Callable[[str], Prompt]:
    return lambda name: to_prompt(SAVED[name], object_info)


def saved_widget(name: str, class_type: str) -> Any:
    """The first value of the first node of this class."""
    return next(n["widgets_values"][0] for n in SAVED[name]["nodes"] if n["type"] == class_type)


# On the server, without a page.


def test_every_workflow_is_tested():
    assert sorted(NAMES) == list(cards.WORKFLOWS)


@pytest.mark.parametrize("digit", [0, 2, 3])
@each_workflow_on_digits
def test_workflow_draws_the_digit(server, prompt_of, name, digit):
    pictures = cards.first_pictures(server, cards.with_digit(prompt_of(name), digit))
    assert {picture.size for picture in pictures} == {(64, 64)}
    assert read_digits(demo.as_tensor(pictures)).tolist() == [digit] * len(pictures)


@each_workflow_on_digits
def test_every_push_changes_its_picture(server, prompt_of, name):
    """As it is saved, the workflow shows its digit, and does not show what it would without."""
    prompt = prompt_of(name)
    pushed = cards.first_pictures(server, prompt)
    plain = cards.first_pictures(server, cards.set_inputs(prompt, weak_scale=1.0))
    assert len({picture.tobytes() for picture in [*pushed, plain[0]]}) == 1 + len(pushed)
    digit = int(saved_widget(name, "DigitConditioning"))
    assert read_digits(demo.as_tensor(pushed)).tolist() == [digit] * len(pushed)


def test_every_way_of_the_demo_is_another_one(server, prompt_of):
    prompt = prompt_of("bad_version_digits")
    drawn = [demo.run(server, demo.guided(prompt, way, 3)) for way in demo.WAYS]
    count = demo.PER_DIGIT * len(demo.WAYS)
    assert [len(pictures) for pictures in drawn] == [demo.PER_DIGIT] * len(demo.WAYS)
    assert len({picture.tobytes() for pictures in drawn for picture in pictures}) == count


def test_same_model_as_weak_model_is_an_error_of_the_guider(server, prompt_of):
    prompt = prompt_of("bad_version_digits")
    guider = find_node(prompt, "BadVersionGuider")
    prompt[guider]["inputs"]["weak_model"] = prompt[guider]["inputs"]["model"]
    with pytest.raises(NodeError, match="very model that is plugged into 'model'") as failure:
        server.wait(server.queue(prompt))
    assert (failure.value.node_id, failure.value.node_type) == (guider, "BadVersionGuider")
    assert "Bad-Version Guider, input 'weak_model': got" in failure.value.message


def test_with_nothing_plugged_in_the_model_is_its_own_bad_version(server, prompt_of):
    prompt = prompt_of("one_checkpoint")
    guider = find_node(prompt, "BadVersionGuider")
    assert prompt[guider]["inputs"].keys() == {"model", "positive", "cfg", "weak_scale"}
    (auto,) = cards.first_pictures(server, prompt)
    assert "is connected, so " in server.log()

    # The same by hand, as the tooltip says.
    by_hand = copy.deepcopy(prompt)
    model = prompt[guider]["inputs"]["model"]
    by_hand["weak"] = {
        "class_type": "WeakenBySkippingBlocks",
        "inputs": {"model": model, "blocks": "auto"},
    }
    by_hand[guider]["inputs"]["weak_model"] = ["weak", 0]
    assert cards.first_pictures(server, by_hand)[0].tobytes() == auto.tobytes()

    # At scale 1 there is no push: what ComfyUI draws alone.
    off = cards.set_inputs(prompt, weak_scale=1.0)
    alone = copy.deepcopy(off)
    alone[guider] = {
        "class_type": "BasicGuider",
        "inputs": {"model": model, "conditioning": prompt[guider]["inputs"]["positive"]},
    }
    ((plain,), (cores,)) = (cards.first_pictures(server, each) for each in (off, alone))
    assert plain.tobytes() == cores.tobytes() != auto.tobytes()


@each_workflow
def test_card_has_a_picture_that_is_larger_than_a_digit(name):
    with Image.open(cards.card_path(name)) as card:
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
def test_what_cannot_be_converted_is_refused(object_info, change, message):
    workflow = copy.deepcopy(SAVED["bad_version_digits"])
    (node,) = (n for n in workflow["nodes"] if n["type"] == "RandomNoise")
    node.update(change)
    with pytest.raises(WorkflowError, match=rf"node {node['id']} .*{message}"):
        to_prompt(workflow, object_info)


# What is drawn.


@each_workflow
def test_links_run_from_left_to_right(name):
    left = {node["id"]: node["pos"][0] for node in SAVED[name]["nodes"]}
    for _, source, _, target, _, kind in SAVED[name]["links"]:
        assert left[source] < left[target], kind


@each_workflow
def test_note_says_what_to_replace(name):
    (note,) = (node for node in SAVED[name]["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    for words in ("bad version", "weak_scale", "your own models", "CLIP Text Encode"):
        assert words in text
    if name in ON_DIGITS:
        assert "Digit Conditioning" in text and "may be missing" in text


# In the page.


# One list of both, so that all workflows are opened in one language, then in the other.
SHOWN = [*itertools.product(["en", "zh"], NAMES)]


@pytest.fixture(scope="module", params=SHOWN, ids="-".join)
def shown(
    request: pytest.FixtureRequest, page_in: Callable[[str], ComfyPage]
) -> tuple[ComfyPage, str]:
    """The page in a language, with a workflow loaded from the template browser; its name."""
    language, name = request.param
    page = page_in(language)
    page.load_template(name)
    return page, name


def test_template_browser_shows_the_cards_with_their_pictures(browser, server):
    with opened_page(browser, server.url, "en") as page:
        urls = []
        page.page.on("response", lambda answer: urls.append(answer.url))
        page.open_templates()
        for name in NAMES:
            picture = page.template_card(name).locator("img").first
            picture.scroll_into_view_if_needed()
            shown = picture.evaluate(
                "async img => { await img.decode(); return [img.naturalWidth, img.naturalHeight]; }"
            )
            card = cards.card_path(name)
            with Image.open(card) as saved:
                assert tuple(shown) == saved.size
            (url,) = {url for url in urls if url.endswith(f"/{card.name}")}
            assert page.page.request.get(url).body() == card.read_bytes()
        # The template browser itself is the one dialog.
        assert page.problems() == [page.page.get_by_role("dialog").inner_text()]


def test_missing_node_would_be_noticed(browser, server):
    workflow = copy.deepcopy(SAVED["bad_version_digits"])
    workflow["nodes"][1]["type"] = "NoSuchNode"
    with opened_page(browser, server.url, "en") as page:
        page.page.evaluate("workflow => { app.loadGraphData(workflow) }", workflow)
        page.page.get_by_role("dialog").get_by_text("NoSuchNode").wait_for()
        assert "NoSuchNode" in "".join(page.problems())


def test_opens_without_problems(shown):
    page, name = shown
    nodes = page.nodes()
    assert [node["type"] for node in nodes] == [node["type"] for node in SAVED[name]["nodes"]]
    assert all(node["known"] for node in nodes)
    assert page.problems() == []


def test_no_two_nodes_overlap(shown):
    page, name = shown
    boxes = [(node["title"], node["box"]) for node in page.nodes()]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        beside = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
        above = a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        assert beside or above, f"{one!r} and {other!r}"
    assert len(boxes) == len(SAVED[name]["nodes"])


def test_nodes_are_saved_large_enough_for_their_titles_and_inputs(shown):
    page, name = shown
    saved = {node["id"]: node["size"] for node in SAVED[name]["nodes"]}
    for node in page.nodes():
        width, height = node["needed"]
        assert saved[node["id"]][0] >= width and saved[node["id"]][1] >= height, node["title"]


def test_page_and_converter_agree(shown, prompt_of):
    page, name = shown
    sent = page.prompt()
    titles = {node_id: node.pop("_meta")["title"] for node_id, node in sent.items()}
    assert sent == prompt_of(name)
    assert len(titles) == len(SAVED[name]["nodes"]) - 1  # All but the note.


@pytest.mark.parametrize("shown", SHOWN[: len(ON_DIGITS)], indirect=True, ids="-".join)
def test_runs_from_the_page(shown, server, prompt_of):
    page, name = shown
    outputs = server.wait(page.run())["outputs"]
    savers = [i for i, n in prompt_of(name).items() if n["class_type"] == "SaveImage"]
    assert sorted(outputs) == sorted(savers)
    for node_id in savers:
        page.wait_until("id => app.graph.getNodeById(id).imgs?.length === 1", int(node_id))
    assert page.problems() == []
