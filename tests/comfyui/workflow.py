"""From a workflow, as ComfyUI's page saves it, to a prompt, as ComfyUI's server runs it.

The page converts a workflow each time somebody presses Run. This does the same without a page, for
plain graphs; what it does not know, it refuses, rather than run another graph than the one that is
drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Nodes that exist in the page only and take no part in a run.
NOTES = {"Note", "MarkdownNote"}
ALWAYS = 0  # The mode of a node that is neither muted nor bypassed.
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# The options of an input beside whose widget the page has one of its own, with a value of its own.
IMAGE_UPLOAD = "image_upload"

Prompt = dict[str, dict[str, Any]]


class WorkflowError(ValueError):
    """The workflow has something that cannot be converted; the message says which node and what."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """Convert a workflow.

    Args:
        workflow: the saved workflow, format 0.4.
        object_info: what the server says of its nodes, `Server.object_info()`. A saved node lists
            the values of its widgets by order, and only the server knows that order.

    Returns:
        For each node its class and inputs, by node id. A link is a pair of node id and output.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        where = f"node {node['id']} ({node['type']})"
        if node["type"] not in object_info:
            raise WorkflowError(f"{where}: the server has no such node")
        if node["mode"] != ALWAYS:
            raise WorkflowError(f"{where}: it is muted or bypassed")
        values = _widget_values(node, object_info[node["type"]], where)
        links = {
            slot["name"]: sources[slot["link"]]
            for slot in node["inputs"]
            if slot["link"] is not None
        }
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": {**values, **links}}
    return prompt


def find_node(prompt: Mapping[str, Any], class_type: str) -> str:
    """The id of the only node of this class."""
    (node_id,) = (i for i, node in prompt.items() if node["class_type"] == class_type)
    return node_id


def _widget_values(node: Mapping[str, Any], info: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = list(_widget_names(info))
    values = node.get("widgets_values", [])
    if len(names) != len(values):
        raise WorkflowError(f"{where}: {len(values)} values for the widgets {names}")
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


def _widget_names(info: Mapping[str, Any]) -> Iterator[str | None]:
    """The inputs whose values the page saves, in its order; None for a value of the page's own."""
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *rest = info["input"][group][name]
            options = rest[0] if rest else {}
            # A list in the place of the type is the older way to describe a choice.
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
                continue
            yield name
            if options.get("control_after_generate") or options.get(IMAGE_UPLOAD):
                yield None
