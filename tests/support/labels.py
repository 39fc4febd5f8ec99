"""What the nodes say to an artist, as a server tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told_labels(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """English names, descriptions and tooltips by node id, in the form of a nodeDefs.json."""
    return {
        node_id: {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": {
                name: {"name": name, "tooltip": options.get("tooltip")}
                for kind in ("required", "optional")
                for name, (_, options) in node["input"].get(kind, {}).items()
            },
            "outputs": {
                str(number): {"name": name, "tooltip": tooltip}
                for number, (name, tooltip) in enumerate(
                    zip(node["output_name"], node["output_tooltips"], strict=True)
                )
            },
        }
        for node_id, node in object_info.items()
        if node["category"].split("/")[0] == "bad version"
    }
