"""One server and one browser for all tests of the page."""

import os
import warnings
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from engine.page import BrowserMissing, running_browser
from engine.server import Server, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A running ComfyUI with this pack."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Models this small gain little from a second core, and lose much where it is a busy one.
        if "OMP_NUM_THREADS" not in os.environ:
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with running_server() as running:
            yield running


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
