"""Draws the picture of a graph at the top of README.md, as ComfyUI's page shows it.

    make cards

The page is the newer one, in which nodes are elements, in the window of an artist.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

import cards
from comfyui.browser import opened_page, running_browser
from comfyui.install import ROOT, newer_page
from comfyui.server import running_server
from comfyui.workflow import NOTES

PICTURE = ROOT / "docs" / "graph.png"
WORKFLOW = "sd15_one_checkpoint"
# Around the nodes, in pixels of the screen.
MARGIN = 16
# Few are used, and a picture of a page has large areas of one.
COLOURS = 128

# Where the nodes are on the screen: left, top, right, bottom.
EXTENT = """() => {
    const boxes = [...document.querySelectorAll('[data-node-id]')]
        .map(node => node.getBoundingClientRect());
    return [
        Math.min(...boxes.map(box => box.left)), Math.min(...boxes.map(box => box.top)),
        Math.max(...boxes.map(box => box.right)), Math.max(...boxes.map(box => box.bottom)),
    ];
}"""


def draw() -> Image.Image:
    """The graph alone, without its note and what the page has around it."""
    graph = cards.load(WORKFLOW)
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] not in NOTES]
    with running_server(page=newer_page()) as server, running_browser() as browser:
        # The page marks a loader red whose file is missing.
        for model in _models(graph):
            file = server.base / "models" / model["directory"] / model["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        with opened_page(browser, server.url, "en", vue_nodes=True) as page:
            page.load(graph)
            for node in graph["nodes"]:
                page.drawn_node(node["id"]).wait_for()
            page.show_all()
            left, top, right, bottom = page.page.evaluate(EXTENT)
            seen = page.page.screenshot()
    with Image.open(io.BytesIO(seen)) as screen:
        box = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
        return screen.convert("RGB").crop(tuple(map(round, box)))


def _models(graph: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    for node in graph["nodes"]:
        yield from node["properties"].get("models", ())


def renew() -> None:
    """Draw it anew."""
    draw().quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
