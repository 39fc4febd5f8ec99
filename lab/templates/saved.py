"""A template as ComfyUI's page saves it: format 0.4, with sizes and places for all nodes."""

from __future__ import annotations

import textwrap
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from comfyui.workflow import IMAGE_UPLOAD, WIDGET_TYPES

from .graph import File, Graph, Node, Output, Template

Info = Mapping[str, Any]

NOTE = "MarkdownNote"
NOTE_TITLE = "What this shows"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}

# How large nodes are, in units of the graph, as measured in both renderings: on the canvas, and as
# the page's own elements, which are larger nearly everywhere. Both begin with a title above.
TITLE = 30
SLOT = 20  # A line of sockets, of inputs and outputs.
LINE, EDGE, EDGE_OF_WIDGETS = 24, 6, 14  # On the canvas: a widget, and what is around them all.
ELEMENT, TEXT_ELEMENT = 28, 36  # As elements: a number or choice, a line of text.
AROUND_ELEMENTS, BADGE = 14, 24  # Around them all, and the name of the pack below.
PARAGRAPH = 130  # A widget for several lines, in either.

# In a line: letters, and arrows, margins and gaps.
LETTER, BESIDE_LETTERS, LETTER_OF_TITLE = 6, 95, 7.5
LETTERS_OF_PARAGRAPH = 31
# What ComfyUI's Chinese calls inputs at greater length, in letters as wide.
LONGER = {"ckpt_name": "Checkpoint name"}
NARROWEST = 230

GAP_X, GAP_Y = 35, 25

# With all in view, the page writes the words of nodes in a graph of at most so much, but for its
# edges, in a window of 1800 by 1000.
WIDEST, HIGHEST = 2340, 1290

NOTE_WIDTH, NOTE_LETTERS, NOTE_LINE, NOTE_EDGE = 380, 58, 16, 60

# What nodes show on themselves, and how large they are saved for it.
PICTURE = (310, 305)
PLOT = (420, 510)
SHOWING = {
    "SaveImage": PICTURE,
    "SaveWEBM": (310, 420),
    "LoadImage": PICTURE,
    "BadVersionGuidancePlot": PLOT,
    "BadVersionLabelledGrid": PLOT,
    "BadVersionGuidanceSchedulePreview": PLOT,
}
# What a run adds to a node, which grows by it: a line of text, a preview.
LIVE_TEXT, LIVE_PREVIEW = 90, 250
GROWING = {
    "BadVersionGuider": LIVE_TEXT,
    "BadVersionPatch": LIVE_TEXT,
    "KSampler": LIVE_PREVIEW,
    "SamplerCustomAdvanced": LIVE_PREVIEW,
}


class TemplateError(ValueError):
    """A template asks for what the nodes do not have; the message says which node and what."""


@dataclass
class _Placed:
    """A node on its way into the file."""

    node: Node
    number: int
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    widgets: list[_Widget] = field(default_factory=list)
    title: str = NOTE_TITLE

    @property
    def slots(self) -> int:
        """How many lines its sockets take."""
        return max(sum("widget" not in slot for slot in self.inputs), len(self.outputs))


class _Widget(NamedTuple):
    """What a widget needs room for: its words, and how high it is on the canvas and elsewhere."""

    words: str
    canvas: int = LINE
    element: int = ELEMENT


def save(name: str, template: Template, object_info: Info) -> dict[str, Any]:
    """The workflow that the page opens.

    Args:
        name: of the template.
        template: what to save.
        object_info: what a server says of its nodes, `Server.object_info()`.

    Raises:
        TemplateError: for a node, an input or an output that there is not.
    """
    graph = Graph()
    graph.add(NOTE, NOTE_TITLE)
    template.draw(graph)
    nodes = [node for column in graph.columns for node in column]
    placed = {node: _Placed(node, number) for number, node in enumerate(nodes, 1)}
    links: list[list[Any]] = []
    for one in placed.values():
        if one.node.kind == NOTE:
            one.values = [template.note]
        else:
            _fill(one, _info(one.node, object_info))
    for one in placed.values():
        if one.node.kind != NOTE:
            _connect(one, placed, links, object_info)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"bad-version-guider/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": _laid_out(graph.columns, placed),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"workflowRendererVersion": "LG"},
        "version": 0.4,
    }


def _info(node: Node, object_info: Info) -> Info:
    if node.kind not in object_info:
        raise TemplateError(f"{node.kind}: this ComfyUI has no such node.")
    return object_info[node.kind]


def _inputs(info: Info) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """Of each input its name, type and options, and whether it is optional."""
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *rest = info["input"][group][name]
            # A list in the place of the type is the older way to describe a choice.
            of_list = isinstance(kind, list)
            options = dict(rest[0]) if rest else {}
            if of_list:
                options.setdefault("options", kind)
            yield name, "COMBO" if of_list else kind, options, group == "optional"


def _fill(one: _Placed, info: Info) -> None:
    """Slots, and the values of the widgets in their order."""
    node = one.node
    one.title = node.title or info["display_name"] or node.kind
    sockets, widgets = [], []
    known = set()
    for name, kind, options, optional in _inputs(info):
        known.add(name)
        slot = {"localized_name": name, "name": name, "type": kind, "link": None}
        if optional:
            slot["shape"] = 7
        if kind not in WIDGET_TYPES or options.get("forceInput"):
            sockets.append(slot)
            continue
        widgets.append(slot | {"widget": {"name": name}})
        value = _value(one, name, kind, options)
        one.values.append(value)
        if options.get("multiline"):
            one.widgets.append(_Widget(" " * LETTERS_OF_PARAGRAPH, PARAGRAPH, PARAGRAPH))
        else:
            element = TEXT_ELEMENT if kind == "STRING" else ELEMENT
            label = LONGER.get(name, name)
            one.widgets.append(_Widget(f"{label} {value}", element=element))
        if options.get("control_after_generate"):
            one.values.append("fixed")
            one.widgets.append(_Widget("control_after_generate fixed", element=0))
        if options.get(IMAGE_UPLOAD):
            one.values.append("image")
            one.widgets.append(_Widget("choose file to upload", element=0))
    if unknown := node.inputs.keys() - known:
        raise TemplateError(f"{node.kind} has no input {', '.join(sorted(unknown))}.")
    one.inputs = [*sockets, *widgets]
    one.outputs = [
        {"localized_name": name, "name": name, "type": kind, "links": []}
        for name, kind in zip(info["output_name"], info["output"], strict=True)
    ]


def _value(one: _Placed, name: str, kind: str, options: Mapping[str, Any]) -> Any:
    value = one.node.inputs.get(name)
    if isinstance(value, File):
        one.files.append(value)
        return value.name
    is_linked = isinstance(value, (Node, Output))
    if value is None or is_linked:
        choices = options.get("options") or [None]
        value = options.get("default", choices[0] if kind == "COMBO" else None)
        if value is None and is_linked and kind == "STRING":
            value = ""  # What the page has there; the link takes its place.
        if value is None:
            raise TemplateError(f"{one.node.kind}: {name} has no default.")
    return float(value) if kind == "FLOAT" and value != int(value) else value


def _connect(
    one: _Placed,
    placed: Mapping[Node, _Placed],
    links: list[list[Any]],
    object_info: Info,
) -> None:
    for place, slot in enumerate(one.inputs):
        link = one.node.inputs.get(slot["name"])
        if isinstance(link, Node):
            if len(placed[link].outputs) != 1:
                raise TemplateError(f"{link.kind} has several outputs: say which one.")
            link = Output(link, placed[link].outputs[0]["name"])
        if not isinstance(link, Output):
            if link is not None and "widget" not in slot:
                raise TemplateError(f"{one.node.kind}: {slot['name']} takes a link, not {link!r}.")
            continue
        source = placed[link.node]
        names = [output["name"] for output in source.outputs]
        if link.name not in names:
            raise TemplateError(f"{link.node.kind} has no output {link.name}.")
        at = names.index(link.name)
        output = source.outputs[at]
        if output["type"] != slot["type"]:
            raise TemplateError(
                f"{one.node.kind}: {slot['name']} takes {slot['type']}, not {output['type']}."
            )
        number = len(links) + 1
        links.append([number, source.number, at, one.number, place, slot["type"]])
        slot["link"] = number
        output["links"].append(number)


# Where the nodes are.


def _laid_out(
    columns: Sequence[Sequence[Node]], placed: Mapping[Node, _Placed]
) -> list[dict[str, Any]]:
    nodes, left, highest = [], 0, 0
    for column in columns:
        sizes = [_size(placed[node]) for node in column]
        width = max(width for width, _ in sizes)
        top = 0
        for node, (_, height) in zip(column, sizes, strict=True):
            one = placed[node]
            nodes.append(_node(one, (left, top), (width, height)))
            top += _ten(_grown(one, height) + TITLE + GAP_Y)
            highest = max(highest, top - GAP_Y)
        left += width + GAP_X
    if left - GAP_X > WIDEST or highest > HIGHEST:
        raise TemplateError(
            f"The graph is {left - GAP_X} wide and {highest} high, where {WIDEST} and {HIGHEST} go."
        )
    return nodes


def _size(one: _Placed) -> tuple[int, int]:
    """Width and height to save, without the title."""
    kind = one.node.kind
    if kind == NOTE:
        text = one.values[0].splitlines()
        lines = sum(max(1, len(textwrap.wrap(line, NOTE_LETTERS))) for line in text)
        return NOTE_WIDTH, NOTE_LINE * lines + NOTE_EDGE
    title = len(one.title) * LETTER_OF_TITLE + 2 * TITLE
    words = max((len(widget.words) for widget in one.widgets), default=0)
    width = max(NARROWEST, title, words * LETTER + BESIDE_LETTERS)
    height = SLOT * one.slots + sum(widget.canvas for widget in one.widgets)
    height += EDGE_OF_WIDGETS if one.widgets else EDGE
    least_width, least_height = SHOWING.get(kind, (0, 0))
    return _ten(max(width, least_width)), max(height, least_height)


def _grown(one: _Placed, height: int) -> int:
    """Its height without the title in the rendering in which it is higher, after a run."""
    elements = SLOT * one.slots + sum(widget.element for widget in one.widgets)
    return max(height, elements + AROUND_ELEMENTS + BADGE) + GROWING.get(one.node.kind, 0)


def _ten(length: float) -> int:
    return -10 * int(-length // 10)


def _node(one: _Placed, place: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    kind = one.node.kind
    node: dict[str, Any] = {
        "id": one.number,
        "type": kind,
        "pos": list(place),
        "size": list(size),
        "flags": {},
        # Columns are filled from left to right, so a node comes after all that it needs.
        "order": one.number - 1,
        "mode": 0,
        "inputs": one.inputs,
        "outputs": one.outputs,
        "properties": {},
        "widgets_values": one.values,
    }
    if one.node.title:
        node["title"] = one.node.title
    if kind == NOTE:
        return node | NOTE_COLOURS
    node["properties"]["Node name for S&R"] = kind
    if one.files:
        node["properties"]["models"] = [
            {"name": file.name, "url": file.url, "directory": file.directory} for file in one.files
        ]
    return node
