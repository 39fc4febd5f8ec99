"""A plot area on a canvas, with numbers at its edges, and a legend for its curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from .canvas import Box, Canvas
from .fonts import LINE_HEIGHT, text_size, wrapped
from .style import GRID, LINE, MUTED, TEXT

# A number and its label.
Tick = tuple[float, str]

_GAP = 8.0  # Between the plot area and the labels beside it, in pixels.
_SWATCH = 1.6  # How long the line of an entry in a legend is, in sizes of its letters.


class Axes:
    """Where numbers lie on a canvas.

    What is drawn outside of the plot area is visible; `Canvas.clipped` with ``box`` cuts it off.
    """

    def __init__(
        self,
        canvas: Canvas,
        box: Box,
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> None:
        """Put a plot area on a canvas.

        Args:
            canvas: to draw on.
            box: of the plot area alone: left, top, right and bottom, in pixels. Numbers, title
                and label go around it.
            x: values at its left and right edge.
            y: values at its lower and upper edge.
        """
        self.canvas, self.box = canvas, box
        self._x, self._y = x, y
        self._below = _GAP

    def at(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Where values lie on the canvas.

        Args:
            x: a number, or ``[n]`` of them.
            y: likewise.

        Returns:
            ``[2]`` or ``[n, 2]``: across and down, in pixels.
        """
        left, top, right, bottom = self.box
        (first, last), (low, high) = self._x, self._y
        across = left + (np.asarray(x, float) - first) / (last - first) * (right - left)
        down = bottom - (np.asarray(y, float) - low) / (high - low) * (bottom - top)
        return np.stack(np.broadcast_arrays(across, down), axis=-1)

    def grid(self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], size: float) -> None:
        """Draw lines across and up, with their numbers to the left and below.

        If numbers below would touch, some are omitted, but never the last one.

        Args:
            x_ticks: from left to right, each with its label.
            y_ticks: likewise.
            size: of the numbers, in pixels.
        """
        left, top, right, bottom = self.box
        for value, label in y_ticks:
            down = self.at(self._x[0], value)[1]
            self.canvas.line([(left, down), (right, down)], GRID)
            self.canvas.text((left - _GAP, down), label, size, "rm")
        for value, _ in x_ticks:
            across = self.at(value, self._y[0])[0]
            self.canvas.line([(across, top), (across, bottom)], GRID)
        for value, label in self._apart(x_ticks, size):
            across = self.at(value, self._y[0])[0]
            self.canvas.text((across, bottom + _GAP), label, size, "ma")
        self._below = _GAP + LINE_HEIGHT * size

    def _apart(self, x_ticks: Sequence[Tick], size: float) -> list[Tick]:
        """As many as do not touch: every so many, and the last one."""
        if not x_ticks:
            return []
        *others, last = x_ticks
        for every in range(1, len(x_ticks)):
            chosen = [each for each in others[::every] if not self._touch(each, last, size)]
            if not any(self._touch(*pair, size) for pair in itertools.pairwise(chosen)):
                return [*chosen, last]
        return [last]

    def _touch(self, one: Tick, other: Tick, size: float) -> bool:
        """Whether there is less room between two numbers below than half a digit takes."""
        places = [float(self.at(value, self._y[0])[0]) for value, _ in (one, other)]
        widths = [text_size(label, size)[0] for _, label in (one, other)]
        return abs(places[1] - places[0]) < sum(widths) / 2 + size / 2

    def level(self, y: float, colour: str = GRID, width: float = 2) -> None:
        """Draw a line across at a value that stands out, such as the scale that is off."""
        (left, _, right, _), down = self.box, self.at(self._x[0], y)[1]
        self.canvas.line([(left, down), (right, down)], colour, width)

    def curve(
        self,
        x: np.ndarray,
        y: np.ndarray,
        colour: str = LINE,
        width: float = 2,
        dashed: bool = False,
    ) -> None:
        """Draw a curve from point to point, with a gap where a value is not a number.

        Args:
            x: ``[n]``.
            y: ``[n]``.
            colour: of the curve.
            width: in pixels.
            dashed: whether to draw dashes.
        """
        self.canvas.line(self.at(x, y), colour, width, dashed=dashed)

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
        """Fill the area between two curves over the same ``x``, ``[n]`` each and all finite."""
        self.canvas.polygon(np.concatenate([self.at(x, high), self.at(x, low)[::-1]]), colour)

    def dots(self, x: np.ndarray, y: np.ndarray, colour: str = LINE, radius: float = 4.5) -> None:
        """Draw dots at points, ``[n]`` each; none where a value is not a number."""
        self.canvas.dots(self.at(x, y), colour, radius)

    def title(self, text: str, size: float, colour: str = TEXT) -> None:
        """Write one line above the plot area, aligned to its left edge."""
        left, top, _, _ = self.box
        self.canvas.text((left, top - 0.6 * size), text, size, "ls", colour)

    def x_label(self, text: str, size: float, colour: str = TEXT) -> None:
        """Write one line below the numbers of the grid, centred."""
        left, _, right, bottom = self.box
        self.canvas.text(((left + right) / 2, bottom + self._below), text, size, "ma", colour)


def axis(least: float, most: float, margin: float = 0.0) -> tuple[float, float]:
    """Ends of an axis with some room beyond the values.

    Args:
        least: of the values.
        most: of the values.
        margin: the least room at either end; without it, values that are all the same get as much
            room as their distance from 0.
    """
    room = max(0.06 * (most - least), margin) or abs(least) or 1.0
    return least - room, most + room


def ticks(least: float, most: float, about: int = 5) -> list[Tick]:
    """Round numbers on an axis, with as many digits as tell them apart.

    Args:
        least: where the axis begins.
        most: where it ends.
        about: how many numbers are wanted; there may be two more or fewer.
    """
    rough = (most - least) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each for each in (1, 2, 2.5, 5, 10) if each * power >= rough) * power
    values = [each * step for each in range(math.ceil(least / step), math.floor(most / step) + 1)]
    digits = max(4, 2 + math.ceil(math.log10(max(abs(least), abs(most)) / step)))
    return [(value, f"{value:.{digits}g}") for value in values]


def legend(
    canvas: Canvas,
    at: tuple[float, float],
    entries: Sequence[tuple[str, str, bool]],
    size: float,
    width: float,
) -> float:
    """Draw a legend, in as many rows as it needs.

    Args:
        canvas: to draw on.
        at: the upper left corner, in pixels.
        entries: words, colour, and whether the line is dashed.
        size: of the words, in pixels.
        width: of the rows; longer words are wrapped.

    Returns:
        Its height, in pixels.
    """
    left, top = at
    swatch, line = (_SWATCH + 0.4) * size, LINE_HEIGHT * size
    across, down, height = left, top, 0.0
    for words, colour, dashed in entries:
        lines = wrapped(words, size, width - swatch)
        needed = swatch + max(text_size(each, size)[0] for each in lines)
        if across + needed > left + width:
            across, down, height = left, down + height, 0.0
        middle = down + line / 2
        canvas.line([(across, middle), (across + _SWATCH * size, middle)], colour, 3, dashed=dashed)
        for number, each in enumerate(lines):
            canvas.text((across + swatch, middle + number * line), each, size, "lm", MUTED)
        across, height = across + needed + size, max(height, len(lines) * line)
    return down + height - top
