"""The labels and tooltips of the nodes, in English and in Chinese."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from engine.install import ROOT

NODE_IDS = ("BadVersionGuider", "BadVersionPatch")

# What ComfyUI's own Chinese leaves in Latin letters.
SAME_IN_CHINESE = {"CFG"}


def node_definitions(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def texts(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a locale file, with the keys that lead to it."""
    for key, value in tree.items():
        where = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from texts(value, where)
        else:
            yield where, value


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_english_says_what_the_nodes_say(comfy_nodes, node_id):
    schema = comfy_nodes[node_id].define_schema()
    assert node_definitions("en")[node_id] == {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs},
        "outputs": {
            str(number): {"name": output.display_name, "tooltip": output.tooltip}
            for number, output in enumerate(schema.outputs)
        },
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_covers_the_nodes_of_the_pack(pack, language):
    ids = [node.define_schema().node_id for node in sorted(pack.NODES, key=lambda n: n.__name__)]
    assert sorted(node_definitions(language)) == ids


def test_chinese_has_the_texts_that_english_has():
    english, chinese = (dict(texts(node_definitions(language))) for language in ("en", "zh"))
    assert chinese.keys() == english.keys()
    for where, text in chinese.items():
        assert re.search(r"[\u4e00-\u9fff]", text) or text in SAME_IN_CHINESE, where


def test_shelf_of_the_menu_has_a_chinese_name(comfy_nodes):
    path = ROOT / "locales" / "zh" / "main.json"
    names = json.loads(path.read_text(encoding="utf-8"))["nodeCategories"]
    assert {comfy_nodes[node_id].define_schema().category for node_id in NODE_IDS} == names.keys()
    assert all(re.fullmatch(r"[\u4e00-\u9fff]+", name) for name in names.values())


@pytest.mark.parametrize("node_id", NODE_IDS)
@pytest.mark.parametrize(
    ("page", "entry"),
    [
        ("{}.md", r"^\*\*(\w+)\*\* (?:\(optional\) )?– "),
        ("{}/zh.md", r"^\*\*.+\*\*（(\w+)(?:，可选)?）："),
    ],
    ids=["en", "zh"],
)
def test_help_explains_inputs_and_outputs(comfy_nodes, node_id, page, entry):
    text = (ROOT / "web" / "docs" / page.format(node_id)).read_text(encoding="utf-8")
    schema = comfy_nodes[node_id].define_schema()
    names = [i.id for i in schema.inputs] + [o.display_name for o in schema.outputs]
    assert re.findall(entry, text, re.MULTILINE) == names
