"""A browser for the tests of the page, and the workflows as prompts."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser

import cards
from comfyui.browser import BrowserMissing, opened_page, running_browser
from comfyui.page import ComfyPage
from comfyui.server import Server
from comfyui.workflow import Prompt, to_prompt


# For one module only: while Playwright is on, no other test of the session can use asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium. Without one, tests are skipped, or fail with BVG_REQUIRE_ALL=1."""
    try:
        with running_browser() as running:
            yield running
    except BrowserMissing as missing:
        if os.environ.get("BVG_REQUIRE_ALL") == "1":
            pytest.fail(str(missing))
        warnings.warn(f"The page was not tested. {missing}", stacklevel=1)
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def vue_nodes() -> bool:
    """Whether Vue draws the nodes of the page."""
    return False


@pytest.fixture(scope="module")
def page_in(
    browser: Browser, server: Server, vue_nodes: bool
) -> Iterator[Callable[[str], ComfyPage]]:
    """The page in a language; once opened, it stays open."""
    pages: dict[str, ComfyPage] = {}
    with ExitStack() as opened:

        def page_in(language: str) -> ComfyPage:
            if language not in pages:
                page = opened_page(browser, server.url, language, vue_nodes)
                pages[language] = opened.enter_context(page)
            return pages[language]

        yield page_in


@pytest.fixture(scope="module")
def any_image(server: Server) -> str:
    """The address of an image on the server."""
    server.input_folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(server.input_folder / "any.png")
    return f"{server.url}/view?filename=any.png&subfolder=&type=input"


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict[str, Any]:
    """What the server says of its nodes."""
    return server.object_info()


@pytest.fixture(scope="module")
def prompt_of(object_info: dict[str, Any]) -> Callable[[str], Prompt]:
    """The prompt of a workflow, by its name."""
    return lambda name: to_prompt(cards.load(name), object_info)
