"""The workflows in ComfyUI's page, as an artist opens, runs, saves and reopens them."""

import copy
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

import cards
from comfyui.install import comfyui_path, linked_pack
from comfyui.library import PROMPTS_PACK
from comfyui.page import CORNER, ComfyPage
from support.shown import Shown

pytestmark = pytest.mark.server

LANGUAGES = ("en", "zh")
NAMES = list(cards.WORKFLOWS)
SAVED = {name: cards.load(name) for name in NAMES}
# What cannot run here comes last, so that the lists agree for as long as both go on: tests of the
# same workflow then share what they have opened.
RUNNING = [*itertools.product(LANGUAGES, (name for name in NAMES if name not in cards.CHAINS))]
NOT_RUNNING = [*itertools.product(LANGUAGES, cards.CHAINS)]
SHOWN = [*RUNNING, *NOT_RUNNING]
# To save and to reopen takes long, and does not depend on the language.
REOPENED = [*RUNNING, *NOT_RUNNING[: len(cards.CHAINS)]]


def models_of(name: str) -> list[str]:
    """The model files that a workflow needs and names an address for."""
    named = (node["properties"].get("models", []) for node in SAVED[name]["nodes"])
    return sorted({model["name"] for model in itertools.chain.from_iterable(named)})


@dataclass(frozen=True, kw_only=True)
class Opened(Shown):
    """A workflow that was opened from the template browser.

    Attributes:
        graph: as the page had it then.
        offered: the model files that the page offered to download.
    """

    graph: dict[str, Any]
    offered: list[str]


@pytest.fixture(scope="module", params=SHOWN, ids="-".join)
def shown(request: pytest.FixtureRequest, page_in: Callable[[str], ComfyPage]) -> Opened:
    language, name = request.param
    page = page_in(language)
    page.load_template(name)
    offered = page.offered_models() if models_of(name) else []
    shown = Opened(page, name, language, graph=page.graph(), offered=offered)
    page.screenshot(shown.screenshot("opened"))
    return shown


def test_template_browser_shows_the_cards_with_their_pictures(page_in):
    page = page_in("en")
    urls = []
    page.page.on("response", lambda answer: urls.append(answer.url))
    page.open_templates()
    for name in NAMES:
        # A card has its image only once it has been in view.
        page.template_card(name).scroll_into_view_if_needed()
        picture = page.template_card(name).locator("img").first
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
    page.close_dialog()


def test_each_pack_offers_its_own_templates(server, page_in):
    offered = page_in("en").page.request.get(f"{server.url}/workflow_templates").json()
    pack = linked_pack(comfyui_path()).name
    for name, folder in {
        pack: cards.FOR_ARTISTS,
        PROMPTS_PACK.name: cards.OF_TINY_MODELS,
    }.items():
        assert sorted(offered[name]) == sorted(path.stem for path in folder.glob("*.json"))


def test_opens_without_problems(shown):
    nodes = shown.page.nodes()
    assert [node["type"] for node in nodes] == [node["type"] for node in shown.nodes]
    assert shown.page.problems() == []


def test_page_offers_to_download_the_models(shown):
    assert shown.offered == models_of(shown.name)


def test_every_widget_has_its_value(shown):
    values = {node["id"]: node["values"] for node in shown.page.nodes()}
    assert values == {node["id"]: node.get("widgets_values", []) for node in shown.nodes}


def test_no_two_nodes_overlap(shown):
    assert shown.page.overlaps() == []


def test_notes_are_wholly_in_view(shown):
    assert shown.page.cut_notes() == []


def test_words_are_drawn_where_the_whole_graph_is_in_view(shown):
    assert shown.page.show_all()


def test_nodes_are_saved_large_enough_for_their_titles_and_inputs(shown):
    saved = {node["id"]: node["size"] for node in shown.nodes}
    for node in shown.page.nodes():
        width, height = node["needed"]
        assert saved[node["id"]][0] >= width and saved[node["id"]][1] >= height, node["title"]


def test_page_and_converter_agree(shown, prompt_of):
    sent = shown.page.prompt()
    titles = {node_id: node.pop("_meta")["title"] for node_id, node in sent.items()}
    assert sent == prompt_of(shown.name)
    assert len(titles) == len(shown.nodes) - 1  # All but the note.


@pytest.mark.parametrize("shown", RUNNING, indirect=True, ids="-".join)
def test_runs_from_the_page(shown, server, object_info):
    page = shown.page
    page.watch()
    try:
        entry = server.wait(page.run())
        outputs = entry["outputs"]
        showing = [
            n["id"] for n in shown.nodes if object_info.get(n["type"], {}).get("output_node")
        ]
        assert sorted(outputs) == sorted(map(str, showing))
        for node_id in showing:
            page.wait_for_pictures(node_id, len(outputs[str(node_id)]["images"]))
        events = dict(entry["status"]["messages"])
        for node in shown.nodes:
            # What the server has in its cache from the run before says nothing.
            ran = str(node["id"]) not in events["execution_cached"]["nodes"]
            if ran and node["type"] in ("BadVersionGuider", "BadVersionPatch"):
                assert page.seen(node["id"])["texts"][-1].startswith("sigma ")
    finally:
        page.screenshot(shown.screenshot("run"))
    assert page.problems() == []
    # With the images, previews and texts that are on them now, some nodes are taller.
    assert page.overlaps() == []


@pytest.mark.parametrize("shown", NOT_RUNNING, indirect=True, ids="-".join)
def test_no_two_nodes_overlap_with_what_a_run_would_show(shown, object_info, any_image):
    shown.page.tell_of_a_run(any_image)
    showing = [n for n in shown.nodes if object_info.get(n["type"], {}).get("output_node")]
    shown.page.wait_until_all_show({node["id"]: 1 for node in showing})
    assert shown.page.overlaps() == []


@pytest.mark.parametrize("shown", REOPENED, indirect=True, ids="-".join)
def test_saved_and_reopened_it_is_the_same(shown):
    page = shown.page
    of_a_run = page.widgets_of_a_run()
    page.save(f"{shown.name}_{shown.language}")
    page.reopen(f"{shown.name}_{shown.language}")
    assert not shown.offered or page.offered_models() == shown.offered
    found = page.graph_like(shown.graph)
    for one, other in zip(found["nodes"], shown.graph["nodes"], strict=True):
        if of_a_run[str(one["id"])]:
            # The page has saved the height that the node had with what the run put on it.
            assert one["size"][1] >= other["size"][1]
            one["size"] = other["size"]
    assert found == shown.graph
    assert page.problems() == []


def test_guider_says_on_itself_what_it_does_beside_the_usual_preview(page_in):
    page = page_in("en")
    page.load_template("bad_version_digits")
    guider, scheduler, sampler, save = (
        next(node["id"] for node in SAVED["bad_version_digits"]["nodes"] if node["type"] == kind)
        for kind in ("BadVersionGuider", "BasicScheduler", "SamplerCustomAdvanced", "SaveImage")
    )
    page.set_widget(scheduler, "steps", 60)
    page.watch()
    page.run()
    page.wait_for_pictures(save, 1)
    texts = page.seen(guider)["texts"]
    page.page.get_by_text(texts[-1], exact=True).wait_for()

    pattern = r"sigma (\S+) · cfg 2 · weak_scale 2 · push (\S+) % · away from weak_model"
    said = [re.fullmatch(pattern, text) for text in texts]
    sigmas = [float(each[1]) for each in said]
    assert len(sigmas) >= 3
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] > 0.9 and sigmas[-1] < 0.1
    assert all(float(each[2]) > 0 for each in said)
    assert len(page.seen(sampler)["pictures"]) >= 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_names_the_checkpoint_that_is_missing(page_in, language):
    page = page_in(language)
    page.load_template("sd15_one_checkpoint")
    (loader,) = (
        node
        for node in SAVED["sd15_one_checkpoint"]["nodes"]
        if node["type"] == "CheckpointLoaderSimple"
    )
    checkpoint = loader["widgets_values"][0]
    assert page.offered_models() == [checkpoint]
    lines = page.run_in_vain().splitlines()
    reasons = [line for line in lines if line.startswith("- ")]
    if reasons:
        assert reasons == [f"- Value not in list: ckpt_name: '{checkpoint}' not in []"]
        assert lines[lines.index(reasons[0]) - 1] == "CheckpointLoaderSimple:"
    else:  # Releases after 0.3.75 name the model and the node apart.
        assert checkpoint in lines
        assert any(line.startswith(f"{loader['title']} - ") for line in lines)
    assert page.problems() == ["CheckpointLoaderSimple: ckpt_name"]


def test_workflow_from_before_weak_every_has_its_values_still(page_in):
    workflow = copy.deepcopy(SAVED["schedule_interval"])
    (guider,) = (node for node in workflow["nodes"] if node["type"] == "BadVersionGuider")
    guider["inputs"] = [slot for slot in guider["inputs"] if slot["name"] != "weak_every"]
    guider["widgets_values"] = [7.5, 1.25]
    page = page_in("en")
    page.load(workflow)
    inputs = page.prompt()[str(guider["id"])]["inputs"]
    values = inputs["cfg"], inputs["weak_scale"], inputs["weak_every"]
    assert values == (7.5, 1.25, 1)
    assert page.problems() == []


def test_missing_node_would_be_noticed(page_in):
    workflow = copy.deepcopy(SAVED["bad_version_digits"])
    workflow["nodes"][1]["type"] = "NoSuchNode"
    page = page_in("en")
    page.page.evaluate("workflow => { app.loadGraphData(workflow) }", workflow)
    # In a dialog, or in the corner of later releases.
    told = page.page.get_by_role("dialog").or_(page.page.get_by_test_id(CORNER))
    told.get_by_text("NoSuchNode").wait_for()
    dialog, node = page.problems()
    assert "NoSuchNode" in dialog and node == "NoSuchNode"
    page.close_dialog()
