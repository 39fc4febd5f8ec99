"""What is derived from the nodes' own texts: help pages, and tables of the README."""

import pytest

import texts
from comfyui.install import ROOT


def test_derived_texts_are_up_to_date(pack):
    wanted = texts.derived(pack)
    there = {*texts.PAGES.rglob("*.md"), texts.README, texts.RECIPES}
    stale = (wanted.keys() ^ there) | {
        path for path in wanted.keys() & there if path.read_text(encoding="utf-8") != wanted[path]
    }
    assert sorted(str(path.relative_to(ROOT)) for path in stale) == [], "Run: make texts"


@pytest.mark.parametrize("language", texts.LANGUAGES.values(), ids=texts.LANGUAGES)
def test_what_is_shared_is_needed(language):
    pages = [texts.in_language(path, language) for path in texts.HELP.glob("*.md")]
    included = {name for page in pages for name in texts.SHARED.findall(page)}
    assert included | {"blocks"} == {path.stem for path in (texts.HELP / "shared").iterdir()}


def test_a_node_needs_no_help_beyond_its_tooltips(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(texts, "HELP", tmp_path / "help")
    monkeypatch.setattr(texts, "ROOT", tmp_path)
    schema = pack.nodes.shapes.BadVersionCapShape.define_schema()
    page = texts.help_page(schema, texts.english_labels([schema])[schema.node_id], texts.ENGLISH)
    assert all(each.tooltip.partition(".")[0] in page for each in schema.inputs)


def test_help_in_one_language_only_is_an_error(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(texts, "HELP", tmp_path)
    monkeypatch.setattr(texts, "ROOT", tmp_path)
    (tmp_path / "BadVersionCapShape.md").write_text("# English\n\n## Inputs\n\n## Outputs\n")
    schema = pack.nodes.shapes.BadVersionCapShape.define_schema()
    labels = texts.english_labels([schema])[schema.node_id]
    with pytest.raises(texts.TextError, match=r"BadVersionCapShape.md has \['English'\]"):
        texts.help_page(schema, labels, texts.ENGLISH)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (0.1, "0.1"),
        (100, "100"),
        (-0.75, "-0.75"),
        (1e-06, "0.000001"),
        (1e9, "1000000000"),
    ],
)
def test_numbers_are_plain(number, text):
    assert texts.plain(number) == text


def test_parts_of_a_text():
    beginning, parts = texts.split("first\n\n## One\n\na\n\n### Part\n\nb\n\n## Two\n", "## ")
    assert beginning == "first"
    assert parts == {"One": "a\n\n### Part\n\nb", "Two": ""}


def test_first_sentence_ends_where_another_begins():
    text = "Fits SD1.5, i.e. most. Flux too."
    assert texts.first_sentence(text) == "Fits SD1.5, i.e. most."


def test_choices_of_a_tooltip_become_a_list():
    tooltip = "What it does. soft: a little. very hard: a lot."
    choices = [("soft", "a little."), ("very hard", "a lot.")]
    assert texts.without_choices(tooltip, ["soft", "very hard"]) == ("What it does.", choices)
    assert texts.without_choices(tooltip, ["soft", "very hard", "other"]) == (tooltip, [])
    assert texts.without_choices(tooltip, None) == (tooltip, [])
