"""A browser for the tests of the page."""

import os
import warnings
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from engine.page import BrowserMissing, running_browser


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
