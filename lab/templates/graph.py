"""How a template is described: nodes by class, inputs by name, columns from left to right."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class File:
    """A model file that a loader asks for.

    Attributes:
        name: as the loader shows it.
        directory: the folder in ComfyUI's `models` that it belongs into.
        url: where the page offers to download it from.
    """

    name: str
    directory: str
    url: str


@dataclass(frozen=True)
class Output:
    """What a node gives, by the name of the output."""

    node: Node
    name: str


@dataclass(eq=False)
class Node:
    """One node.

    Attributes:
        kind: its class, as ComfyUI registers it.
        inputs: by name: a value of a widget, a :class:`File`, or a link: an :class:`Output`, or a
            :class:`Node` that has no other output. What is not named has its default, or is not
            connected.
        title: instead of the node's own, which the page translates.
    """

    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def __getitem__(self, output: str) -> Output:
        return Output(self, output)


class Graph:
    """The nodes of a template, column by column. Links run from left to right."""

    def __init__(self) -> None:
        """Begin with the first column, that of the note and the loaders."""
        self.columns: list[list[Node]] = [[]]

    def column(self) -> None:
        """Begin the next column."""
        self.columns.append([])

    def add(self, kind: str, title: str = "", /, **inputs: Any) -> Node:
        """Put a node below the last one of this column."""
        node = Node(kind, inputs, title)
        self.columns[-1].append(node)
        return node


@dataclass(frozen=True)
class Template:
    """A graph for artists, with the note beside it.

    Attributes:
        note: in Markdown: a heading, what it shows, what to try next.
        draw: fills the graph, below the note.
        model: what it is for, as artists call it.
        away_from: its bad version in a few words.
        source: where its scale comes from; "" where it is a place to start.
    """

    note: str
    draw: Callable[[Graph], None]
    model: str
    away_from: str
    source: str


TEMPLATES: dict[str, Template] = {}


Draw = Callable[[Graph], None]


def template(model: str, away_from: str, source: str = "") -> Callable[[Draw], Draw]:
    """Make a template of a function that draws it, under the function's name.

    Its docstring is the note: a heading, then paragraphs. The arguments are those of
    :class:`Template`.
    """

    def make(draw: Draw) -> Draw:
        heading, *paragraphs = inspect.cleandoc(draw.__doc__ or "").split("\n\n")
        text = [f"## {heading}", *(" ".join(each.split()) for each in paragraphs)]
        note = "\n\n".join(text) + "\n"
        TEMPLATES[draw.__name__] = Template(note, draw, model, away_from, source)
        return draw

    return make
