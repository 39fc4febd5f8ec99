"""ComfyUI's page in a real browser.

with running_browser() as browser, opened_page(browser, server.url, "en") as page:
    page.load_template("bad_version_digits")
    prompt_id = page.run()
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from comfyui.page import ComfyPage

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # A sandbox cannot be set up by root, which tests in a container run as.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREEN = {"width": 1800, "height": 1000}
TIMEOUT = 120_000  # Milliseconds. Nothing should take long, but any machine can be busy.

# The settings of somebody who has used ComfyUI before: no tour, no news, tooltips at once.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeLibrary.NewDesign": False,  # The newer one of 0.18.1 shows no help, of no node.
    "LiteGraph.Node.TooltipDelay": 0,
}


class BrowserMissing(RuntimeError):
    """There is no Chromium on this machine; the message says how to get one."""


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start Chromium with a new, empty profile; both are gone after the block."""
    with sync_playwright() as playwright:
        # CHROMIUM names one, or the system has one, or Playwright has brought its own.
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        program = program or playwright.chromium.executable_path
        if not os.path.exists(program):
            raise BrowserMissing(
                "There is no Chromium. Install it (on Debian: apt-get install chromium; elsewhere: "
                "build/venv/bin/playwright install chromium), or name yours in CHROMIUM."
            )
        # "headless=False", since Playwright's own way adds flags of its own; the flags above do it.
        browser = playwright.chromium.launch(
            executable_path=program, headless=False, args=FLAGS, timeout=TIMEOUT
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(
    browser: Browser, url: str, language: str, vue_nodes: bool = False
) -> Iterator[ComfyPage]:
    """Open the page of a server.

    Args:
        language: one of ComfyUI's, "en" or "zh", say.
        vue_nodes: whether Vue draws the nodes, as it does on newer pages, or the canvas.
    """
    # What a newer page loads by `data:` is more than an older server lets it.
    context = browser.new_context(viewport=SCREEN, bypass_csp=vue_nodes)
    context.set_default_timeout(TIMEOUT)
    try:
        settings = {"Comfy.Locale": language, "Comfy.VueNodes.Enabled": vue_nodes}
        saved = context.request.post(f"{url}/settings", data={**SETTINGS, **settings})
        assert saved.ok, saved.text()
        page = ComfyPage(context.new_page())
        page.open(url, language)
        yield page
    finally:
        context.close()
