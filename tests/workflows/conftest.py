"""A browser for the tests of the page."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser

from engine.page import BrowserMissing, ComfyPage, opened_page, running_browser
from engine.server import Server


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
def page_in(browser: Browser, server: Server) -> Iterator[Callable[[str], ComfyPage]]:
    """The page in a language; it stays open until it is asked for in another one."""
    pages: dict[str, ComfyPage] = {}
    with ExitStack() as opened:

        def page_in(language: str) -> ComfyPage:
            if language not in pages:
                opened.close()
                pages.clear()
                pages[language] = opened.enter_context(opened_page(browser, server.url, language))
            return pages[language]

        yield page_in
