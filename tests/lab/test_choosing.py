"""The page on which bad version, blocks and scale to choose, and its figures."""

import re

import numpy as np
import pytest
from PIL import Image

import choosing
from cards import FOR_ARTISTS
from comfyui.install import ROOT

PAGES = {"en": ROOT / "docs" / "choosing.md", "zh": ROOT / "docs" / "choosing.zh.md"}

each_page = pytest.mark.parametrize("language", PAGES)


@each_page
def test_page_shows_every_figure_of_its_language(language):
    shown = re.findall(r"\]\((choosing/.+?)\)", PAGES[language].read_text(encoding="utf-8"))
    figures = {choosing.path_of(name, language) for name in choosing.FIGURES}
    assert {PAGES[language].parent / path for path in shown} == figures
    assert all(path.is_file() for path in figures)


def test_both_pages_have_the_same_parts():
    parts = [
        re.findall(r"^(## \d|- |\d\. |!)", page.read_text(encoding="utf-8"), re.MULTILINE)
        for page in PAGES.values()
    ]
    assert parts[0] == parts[1]


@each_page
def test_templates_that_the_page_names_are_there(language):
    text = PAGES[language].read_text(encoding="utf-8")
    named = re.findall(r"(?<!\*)\*([a-z0-9]+_[a-z0-9_]+)\*(?!\*)", text)
    assert len(named) == 2
    assert {*named} <= {path.stem for path in FOR_ARTISTS.glob("*.json")}


@pytest.mark.server
@pytest.mark.parametrize("name", ["blocks", "length"])
def test_figure_is_what_the_nodes_draw(name, server, tmp_path):
    path = choosing.path_of(name, "en")
    choosing.draw(server, name, "en").save(tmp_path / path.name, quality=choosing.QUALITY)
    with Image.open(path) as saved, Image.open(tmp_path / path.name) as drawn:
        assert saved.size == drawn.size
        difference = np.asarray(saved, dtype=float) - np.asarray(drawn, dtype=float)
    # Of one image of a cell: those of one column and the next differ by 8 or more.
    side = choosing.CELL // 2
    rows, columns = (n // side for n in difference.shape[:2])
    tiles = np.abs(difference[: rows * side, : columns * side]).reshape(rows, side, columns, -1)
    assert tiles.mean(axis=(1, 3)).max() < 2
