"""ComfyUI's page as an artist has it open: a real browser, and no network beyond the server.

    with running_browser() as browser, open_page(browser, server.url) as page:
        page.load_template("bad-version-guider", "bad_version_digits")
        prompt_id = page.run()
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # Which refuses to run as root, as tests do in a container.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREEN = {"width": 1800, "height": 1000}
TIMEOUT = 120_000  # milliseconds; a page on a busy machine is slow, and none of it is a test.

# Settings of somebody who has used ComfyUI before: no tour, no news over the graph.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Node.TooltipDelay": 0,
}


class BrowserMissing(RuntimeError):
    """There is no Chromium on this machine; the message says how to get one."""


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start Chromium with an empty profile, which is deleted in the end."""
    with sync_playwright() as playwright:
        # CHROMIUM names one, PATH has one, or `playwright install` has brought one.
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        program = program or playwright.chromium.executable_path
        if not os.path.exists(program):
            raise BrowserMissing(
                "There is no Chromium. Install it (on Debian: apt-get install chromium; elsewhere: "
                "build/venv/bin/playwright install chromium) or name one in CHROMIUM."
            )
        # Not `headless=True`, which adds flags of its own and hides the scroll bars.
        browser = playwright.chromium.launch(
            executable_path=program, headless=False, args=FLAGS, timeout=TIMEOUT
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class ComfyPage:
    """The page of a running server."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    """What went wrong in the page since it was opened, or since this list was cleared."""

    def __post_init__(self) -> None:
        """Listen to the page."""
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A file that is not there is how the page finds out that it is not there: settings of a
        # new user, the help in a language.
        if message.type == "error" and "the server responded with a status of 404" not in (
            message.text
        ):
            self.errors.append(message.text)

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression, or of a function called with the argument."""
        return self.page.evaluate(expression, argument)

    def wait_for(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript condition holds."""
        self.page.wait_for_function(condition, arg=argument)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the open graph, with what an artist can see of each."""
        return self.evaluate(
            """() => app.graph.nodes.map(node => ({
                id: node.id,
                type: node.type,
                title: node.getTitle(),
                known: node.type in LiteGraph.registered_node_types,
                box: Array.from(node.getBounding()),
                inputs: node.inputs.map(slot => slot.label ?? slot.localized_name ?? slot.name),
                outputs: node.outputs.map(slot => slot.label ?? slot.localized_name ?? slot.name),
                widgets: (node.widgets ?? []).map(widget => widget.label ?? widget.name),
            }))"""
        )

    def open_templates(self, module: str) -> Locator:
        """Open the template browser on one node pack; returns its cards."""
        self.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(module, exact=True).click()
        return dialog.locator("[data-testid^='template-workflow-']")
