"""What the inputs of several nodes share."""

from __future__ import annotations

from typing import Any, TypeVar

from comfy_api.latest import io

from ..guiders.errors import bad_input
from .drawing.style import LANGUAGES

Widget = TypeVar("Widget", bound=io.WidgetInput)


def number(
    name: str,
    default: float,
    least: float,
    most: float,
    step: float,
    tooltip: str,
    optional: bool = False,
) -> io.Float.Input:
    """A number; typing is ten times as fine as the arrows."""
    return io.Float.Input(
        name,
        default=default,
        min=least,
        max=most,
        step=step,
        round=step / 10,
        tooltip=tooltip,
        optional=optional,
    )


def advanced(widget: Widget) -> Widget:
    """The widget, marked as rarely needed: pages with Vue nodes show it only when asked to."""
    # Inputs of ComfyUI before 0.18 have no argument for the mark, but pass on what is in here.
    widget.extra_dict["advanced"] = True
    return widget


def language_input(of: str = "the words in the drawing") -> io.Combo.Input:
    """The language of what a node says; `LANGUAGES` has the folder of each."""
    return io.Combo.Input(
        "language",
        options=list(LANGUAGES),
        default="English",
        tooltip=f"Language of {of}. Nothing else changes.",
    )


def check(node: type[io.ComfyNode], **values: Any) -> None:
    """Raise ``GuidanceError`` for values that the node's widgets would not accept."""
    schema = node.define_schema()
    widgets = {widget.id: widget for widget in schema.inputs}
    for name, value in values.items():
        widget = widgets[name]
        if isinstance(widget, io.Combo.Input):
            *others, last = map(repr, widget.options)
            if value not in widget.options:
                expected = f"{', '.join(others)} or {last}"
                raise bad_input(schema.display_name, name, repr(value), expected)
        elif not widget.min <= value <= widget.max:
            expected = f"a number from {widget.min:g} to {widget.max:g}"
            raise bad_input(schema.display_name, name, str(value), expected)
