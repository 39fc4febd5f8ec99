"""The labels and tooltips of the nodes, in English and in Chinese."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from comfyui.install import ROOT
from texts import chinese_labels, english_labels, page_path

# What ComfyUI's own Chinese leaves in Latin letters.
SAME_IN_CHINESE = {"CFG", "CLIP", "VAE"}

# What help pages set in bold beside inputs and outputs of the pack: those of ComfyUI's own nodes,
# what a guider shows on itself, what the playground measures.
SHOWN = {
    "en": {"noise_seed", "sigma", "push", "outliers", "coverage"},
    "zh": {"离群", "覆盖"},
}


@pytest.fixture
def schemas(pack) -> dict[str, Any]:
    """What every node of the pack says about itself, by node id."""
    schemas = [node.define_schema() for node in pack.NODES]
    return {schema.node_id: schema for schema in schemas}


@pytest.fixture
def labels(schemas) -> dict[str, dict[str, Any]]:
    """What an artist reads on the nodes, by language and node id."""
    return {"en": english_labels(schemas.values()), "zh": chinese_labels()}


def texts(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a locale file, with the keys that lead to it."""
    for key, value in tree.items():
        where = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from texts(value, where)
        else:
            yield where, value


def help_page(language: str, node_id: str) -> str:
    return page_path(language, node_id).read_text(encoding="utf-8")


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def test_english_is_what_the_nodes_say(schemas, labels):
    """The page shows the nodes' own texts, unless a file of the pack says something else."""
    assert not (ROOT / "locales" / "en").exists()
    assert all(text and text.strip() for _, text in texts(labels["en"]))
    for node_id, schema in schemas.items():
        assert [i.display_name for i in schema.inputs] == [None] * len(schema.inputs), node_id


def test_chinese_has_the_texts_that_english_has(labels):
    english, chinese = (dict(texts(labels[language])) for language in ("en", "zh"))
    assert chinese.keys() == english.keys()
    for where, text in chinese.items():
        assert re.search(r"[\u4e00-\u9fff]", text) or text in SAME_IN_CHINESE, where


def test_chinese_names_the_numbers_that_english_names(labels):
    """Useful ranges and defaults change now and then, and must do so in both languages."""
    english, chinese = (dict(texts(labels[language])) for language in ("en", "zh"))
    differing = [where for where in english if numbers(english[where]) != numbers(chinese[where])]
    assert differing == []


def test_nodes_have_names_of_their_own(labels):
    for each in labels.values():
        names = [node["display_name"] for node in each.values()]
        assert len(set(names)) == len(names)


def test_categories_of_the_menu_have_chinese_names(schemas):
    path = ROOT / "locales" / "zh" / "main.json"
    names = json.loads(path.read_text(encoding="utf-8"))["nodeCategories"]
    # The page looks up each part of a category by itself.
    parts = {part for schema in schemas.values() for part in schema.category.split("/")}
    assert parts == names.keys()
    assert all(re.fullmatch(r"[\u4e00-\u9fff]+", name) for name in names.values())


@pytest.mark.parametrize(
    ("language", "entry"),
    [
        ("en", r"^\*\*(\w+)\*\* (?:\(optional\) )?– "),
        ("zh", r"^\*\*.+\*\*（(\w+)(?:，可选)?）："),
    ],
    ids=["en", "zh"],
)
def test_help_explains_inputs_and_outputs(schemas, language, entry):
    for node_id, schema in schemas.items():
        names = [i.id for i in schema.inputs] + [o.display_name for o in schema.outputs]
        assert re.findall(entry, help_page(language, node_id), re.MULTILINE) == names, node_id


def test_help_says_which_inputs_are_optional(schemas):
    for node_id, schema in schemas.items():
        optional = [i.id for i in schema.inputs if i.optional]
        english, chinese = (help_page(language, node_id) for language in ("en", "zh"))
        assert re.findall(r"^\*\*(\w+)\*\* \(optional\) – ", english, re.MULTILINE) == optional
        assert re.findall(r"^\*\*.+\*\*（(\w+)，可选）：", chinese, re.MULTILINE) == optional


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_has_the_title_and_the_labels_of_the_node(labels, language):
    for node_id, node in labels[language].items():
        page = help_page(language, node_id)
        title = page.splitlines()[0]
        assert title.startswith(f"# {node['display_name']}"), node_id
        for part in [*node["inputs"].values(), *node["outputs"].values()]:
            assert f"\n**{part['name']}**" in page, f"{node_id}, {part['name']}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_names_the_numbers_of_the_tooltips(schemas, language):
    for node_id, schema in schemas.items():
        named = numbers(help_page(language, node_id))
        for part in schema.inputs:
            assert numbers(part.tooltip) <= named, f"{node_id}, {part.id}"


@pytest.mark.parametrize(
    ("language", "name"), [("en", r"[a-z]\w*"), ("zh", r".*[\u4e00-\u9fff].*")], ids=["en", "zh"]
)
def test_help_names_what_there_is(labels, language, name):
    """An input that was renamed must not live on in the help of another node."""
    there = set(SHOWN[language])
    for node in labels[language].values():
        there |= {part["name"] for part in [*node["inputs"].values(), *node["outputs"].values()]}
    for node_id in labels[language]:
        bold = re.findall(r"\*\*([^*]+)\*\*", help_page(language, node_id))
        assert {each for each in bold if re.fullmatch(name, each)} <= there, node_id


def test_help_has_the_same_sections_and_papers_in_both_languages(schemas):
    for node_id in schemas:
        pages = [help_page(language, node_id) for language in ("en", "zh")]
        english, chinese = (re.findall(r"^(#+) ", page, re.MULTILINE) for page in pages)
        assert english == chinese and len(english) > 5, node_id
        english, chinese = (sorted(re.findall(r"arxiv\.org/abs/([\d.]+)", page)) for page in pages)
        assert english == chinese, node_id


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_explains_every_choice(schemas, language):
    for node_id, schema in schemas.items():
        page = help_page(language, node_id)
        choices = [choice for i in schema.inputs if i.io_type == "COMBO" for choice in i.options]
        if any(i.id == "blocks" for i in schema.inputs):
            choices += ["auto", "all"]
        for choice in choices:
            assert f"\n- `{choice}`" in page, f"{node_id}, {choice}"
