"""What the templates for artists say: their notes, and the files that they ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import comfyui_workflow_templates_json
import pytest

import cards
import templates
from templates import files

NAMES = sorted(templates.TEMPLATES)
# Not made of a description: it needs no model.
BESIDE = {"playground"}

each_template = pytest.mark.parametrize("name", NAMES)


def models_in(workflow: dict) -> Iterator[tuple[str, str, str]]:
    """Name, directory and address of each file that a workflow offers to download."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    for node in (node for graph in graphs for node in graph["nodes"]):
        for model in node.get("properties", {}).get("models", []):
            yield model["name"], model["directory"], model["url"]


@pytest.fixture(scope="module")
def offered() -> set[tuple[str, str, str]]:
    """What ComfyUI's own templates offer to download."""
    folder = Path(comfyui_workflow_templates_json.__file__).parent / "templates"
    read = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.json")]
    # Beside them are lists of them.
    workflows = [each for each in read if isinstance(each, dict) and "nodes" in each]
    found = {model for workflow in workflows for model in models_in(workflow)}
    assert len(found) > 100
    return found


def test_folder_has_the_described_templates_and_no_other():
    saved = {path.stem for path in cards.FOR_ARTISTS.glob("*.json")}
    assert saved == {*NAMES, *BESIDE}


@each_template
def test_files_are_where_comfyui_s_own_templates_have_them(offered, name):
    asked = set(models_in(cards.load(name)))
    assert asked
    for model in asked:
        assert model in offered or model[0] in files.ELSEWHERE, model


def test_list_of_other_files_has_only_those_that_are_used_and_that_no_template_offers(offered):
    used = {model[0] for name in NAMES for model in models_in(cards.load(name))}
    assert files.ELSEWHERE.keys() <= used
    assert not files.ELSEWHERE.keys() & {model[0] for model in offered}


@each_template
def test_loader_shows_the_files_that_it_offers(name):
    for node in cards.load(name)["nodes"]:
        shown = [each for each in node["widgets_values"] if str(each).endswith(".safetensors")]
        assert shown == [model[0] for model in models_in({"nodes": [node]})], node["type"]


def test_every_address_is_one_that_the_page_downloads_from():
    for name in NAMES:
        for file, _, url in models_in(cards.load(name)):
            assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/.+", url)
            assert url.removesuffix("?download=true").endswith(f"/{file}")


@each_template
def test_note_has_a_heading_and_two_paragraphs(name):
    note, *others = cards.load(name)["nodes"]
    assert note["type"] == "MarkdownNote"
    assert all(other["type"] != "MarkdownNote" for other in others)
    heading, *paragraphs = note["widgets_values"][0].strip().split("\n\n")
    assert heading.startswith("## ") and len(paragraphs) == 2
    for paragraph in paragraphs:
        assert len(paragraph) < 500
        # In the page, code in a line is a blue box that cannot be read.
        assert "`" not in paragraph and "\n" not in paragraph


@each_template
def test_note_names_only_what_is_there(name):
    """Inputs in bold are inputs of a node; those of a node that one may add are not written so."""
    workflow = cards.load(name)
    text = workflow["nodes"][0]["widgets_values"][0]
    inputs = {slot["name"] for node in workflow["nodes"] for slot in node["inputs"]}
    outputs = {slot["name"] for node in workflow["nodes"] for slot in node["outputs"]}
    for word in re.findall(r"\*\*([a-z]\w*_\w+)\*\*", text):
        assert word in inputs | outputs | set(NAMES), word
