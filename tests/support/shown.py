"""A workflow that is open in ComfyUI's page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cards
from comfyui.install import ROOT
from comfyui.page import ComfyPage

# To be looked at: each workflow before and after it has run, in a folder for each language.
SCREENSHOTS = ROOT / "build" / "screenshots"


@dataclass(frozen=True)
class Shown:
    """A workflow in the page.

    Attributes:
        page: with nothing else open.
        name: of the workflow.
        language: of the page.
        screenshots: folder for what the page looks like.
    """

    page: ComfyPage
    name: str
    language: str
    screenshots: Path = SCREENSHOTS

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes as they are in the file."""
        return cards.load(self.name)["nodes"]

    def screenshot(self, state: str) -> Path:
        """Where the image of the page in this state belongs."""
        return self.screenshots / self.language / f"{self.name}_{state}.png"
