"""What the nodes say to an artist, in each language of the page."""

from __future__ import annotations

import json
from typing import Any

from comfyui.install import ROOT


def node_labels(language: str) -> dict[str, Any]:
    """Names, descriptions and tooltips of all nodes, by node id."""
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))
