"""A canvas with smooth lines and legible words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import runs
from .style import OVERSAMPLING, PAPER, TEXT

# Left, top, right and bottom, in pixels of the finished image.
Box = tuple[float, float, float, float]
# Pairs of across and down, in pixels of the finished image: an array [n, 2] or a list.
Points = np.ndarray | Sequence[tuple[float, float]]

_FAR = 20000.0  # Pillow is slow at, and fails on, what lies much farther away.
_DASH, _GAP = 9.0, 6.0

# How far letters reach up from what they stand on, in sizes of the letters.
_CAPITALS, _TOP = 0.73, 0.88


class Canvas:
    """A drawing, in pixels of the finished image; they count from its upper left corner.

    What is drawn later covers what was there before. An opacity goes from 0, invisible, to 1,
    which hides what is below. Whatever lies outside of the canvas is cut off.
    """

    def __init__(self, width: int, height: int, colour: str = PAPER) -> None:
        """Begin with an empty canvas.

        Args:
            width: in pixels.
            height: in pixels.
            colour: of the canvas, such as ``"#1f1f23"``.
        """
        self.width, self.height = width, height
        self._paint(Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), colour))

    def _paint(self, image: Image.Image) -> None:
        """Go on with this image, which is larger than it will be shown."""
        self._image, self._draw = image, ImageDraw.Draw(image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        size: float,
        anchor: str = "lt",
        colour: str = TEXT,
    ) -> None:
        """Write one line.

        Args:
            at: where its anchor lies.
            text: the line; `fonts.wrapped` breaks longer text into lines.
            size: of the letters, in pixels.
            anchor: ``l`` for its left end, ``m`` for its middle or ``r`` for its right end; then
                ``t`` for the top of these very letters, ``a`` for the top of any letters, ``m``
                for the middle of capitals, ``s`` for what letters stand on, or ``b`` for the
                bottom of these very letters.
            colour: of the letters.
        """
        parts = runs(text, size)
        boxes = [letters.getbbox(part, anchor="ls") for part, letters in parts]
        widths = [letters.getlength(part) for part, letters in parts]
        sideways, upright = anchor
        ((across, down),) = _larger([at])
        across -= {"l": 0.0, "m": 0.5, "r": 1.0}[sideways] * sum(widths)
        down += {
            "t": -min((box[1] for box in boxes), default=0),
            "a": _TOP * size * OVERSAMPLING,
            "m": _CAPITALS / 2 * size * OVERSAMPLING,
            "s": 0,
            "b": -max((box[3] for box in boxes), default=0),
        }[upright]
        for (part, letters), width in zip(parts, widths, strict=True):
            self._draw.text((across, down), part, colour, letters, "ls")
            across += width

    def line(
        self,
        points: Points,
        colour: str,
        width: float = 1,
        opacity: float = 1.0,
        dashed: bool = False,
    ) -> None:
        """Draw one line; arguments as for `lines`."""
        self.lines([points], colour, width, opacity, dashed)

    def lines(
        self,
        many: Sequence[Points],
        colour: str,
        width: float = 1,
        opacity: float = 1.0,
        dashed: bool = False,
    ) -> None:
        """Draw lines of one colour, which do not add up where they cross.

        Args:
            many: the points of each, ``[n, 2]``; a line has a gap where a point is not a number.
            colour: such as ``"#f5b041"``.
            width: in pixels.
            opacity: 0 to 1, of all lines together.
            dashed: whether to draw dashes.
        """
        thickness = max(1, round(width * OVERSAMPLING))
        with self._ink(colour, opacity) as (draw, ink):
            for points in many:
                for part in _unbroken(points):
                    for stroke in _dashes(part) if dashed else [part]:
                        draw.line(list(map(tuple, _larger(stroke))), ink, thickness, joint="curve")

    def polygon(self, points: Points, fill: str) -> None:
        """Fill an area.

        Args:
            points: its corners, ``[n, 2]``; the last one is joined to the first.
            fill: colour of the area.
        """
        self._draw.polygon(list(map(tuple, _larger(points))), fill)

    def rectangle(self, box: Box, fill: str) -> None:
        """Fill a box."""
        left, top, right, bottom = _corners(box)
        # Pillow counts the last pixel as well.
        self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill)

    def dots(self, points: Points, colour: str, radius: float, opacity: float = 1.0) -> None:
        """Draw round dots, thousands of them if need be; they add up where they overlap.

        Args:
            points: their centres, ``[n, 2]``; none is drawn where one is not a number.
            colour: of all dots.
            radius: in pixels.
            opacity: 0 to 1, of each dot by itself.
        """
        centres = np.asarray(points, float).reshape(-1, 2)
        centres = centres[np.isfinite(centres).all(axis=1)] * OVERSAMPLING
        reach = radius * OVERSAMPLING
        inside = ((centres > -reach) & (centres < np.add(self._image.size, reach))).all(axis=1)
        centres = centres[inside]
        if not len(centres):
            return
        # Only the part of the paper that has dots on it, with half a dot around it.
        edge = int(reach) + 2
        first = np.floor(centres).astype(int)
        left, top = first.min(axis=0) - edge
        width, height = first.max(axis=0) - (left, top) + edge + 1
        # Each pixel around each dot, and whether the dot covers the pixel's middle.
        around = np.arange(-edge, edge + 1)
        across, down = (grid.ravel() for grid in np.meshgrid(around, around))
        x, y = first[:, :1] + across, first[:, 1:] + down
        distance = np.hypot(x + 0.5 - centres[:, :1], y + 0.5 - centres[:, 1:])
        places = ((y - top) * width + x - left)[distance <= reach]
        counts = np.bincount(places, minlength=width * height).reshape(height, width)
        cover = (255 * (1 - (1 - opacity) ** counts)).round().astype(np.uint8)
        self._image.paste(colour, (int(left), int(top)), Image.fromarray(cover))

    def arrows(
        self, starts: Points, ends: Points, colour: str, width: float = 1, opacity: float = 1.0
    ) -> None:
        """Draw arrows, each with its tip at its end; they do not add up where they cross.

        Args:
            starts: ``[n, 2]``.
            ends: ``[n, 2]``; an arrow that is shorter than it is thick is not drawn.
            colour: of all arrows.
            width: of the shafts, in pixels; heads are some times as wide, and shorter where the
                arrow is.
            opacity: 0 to 1, of all arrows together.
        """
        begin = _larger(starts)
        way = _larger(ends) - begin
        length = np.linalg.norm(way, axis=1)
        thick = width * OVERSAMPLING
        with self._ink(colour, opacity) as (draw, ink):
            for start, towards, far in zip(begin, way, length, strict=True):
                if not far > thick:
                    continue
                along = towards / far
                aside = np.array([-along[1], along[0]])
                head = min(5 * thick, 0.6 * far)
                tip, neck = start + towards, start + towards - head * along
                draw.line([tuple(start), tuple(neck)], ink, max(1, round(thick)))
                wing = 0.45 * head * aside
                draw.polygon([tuple(tip), tuple(neck + wing), tuple(neck - wing)], ink)

    def paste(self, box: Box, array: np.ndarray, smooth: bool = True) -> None:
        """Paste an image into a box, stretched to fill it.

        Args:
            box: left, top, right and bottom, in pixels.
            array: ``[h, w, 3]``, 0 to 1; its first row is on top.
            smooth: whether pixels blend; otherwise each is a rectangle of one colour.
        """
        left, top, right, bottom = _corners(box)
        values = (255 * np.asarray(array).clip(0, 1)).round().astype(np.uint8)
        way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        size = (max(1, right - left), max(1, bottom - top))
        self._image.paste(Image.fromarray(values).resize(size, way), (left, top))

    @contextmanager
    def clipped(self, box: Box) -> Iterator[None]:
        """Cut off what is drawn in this context at the edges of a box."""
        before = self._image.copy()
        yield
        corners = _corners(box)
        before.paste(self._image.crop(corners), corners[:2])
        self._paint(before)

    def image(self) -> Tensor:
        """The finished image.

        Returns:
            ``[1, height, width, 3]``, 0 to 1, in 32 bits.
        """
        small = self._image.reduce(OVERSAMPLING)
        return torch.from_numpy(np.asarray(small).astype(np.float32) / 255)[None]

    @contextmanager
    def _ink(self, colour: str, opacity: float) -> Iterator[tuple[ImageDraw.ImageDraw, Any]]:
        """What to draw on and with which colour, so that the result has this opacity."""
        if opacity == 1:
            yield self._draw, colour
            return
        shape = Image.new("L", self._image.size)
        yield ImageDraw.Draw(shape), round(255 * opacity)
        self._image.paste(colour, (0, 0), shape)


def _larger(points: Points) -> np.ndarray:
    """Points ``[n, 2]`` as they are drawn."""
    return np.clip(np.asarray(points, float) * OVERSAMPLING, -_FAR, _FAR)


def _corners(box: Box) -> tuple[int, int, int, int]:
    """A box as it is drawn."""
    left, top, right, bottom = (round(each * OVERSAMPLING) for each in box)
    return left, top, right, bottom


def _unbroken(points: Points) -> list[np.ndarray]:
    """The parts of a line between points that are not numbers, of two points or more."""
    points = np.asarray(points, float).reshape(-1, 2)
    gaps = np.flatnonzero(np.isnan(points).any(axis=1))
    parts = np.split(points, gaps)
    return [
        part for part in (each[np.isfinite(each).all(axis=1)] for each in parts) if len(part) > 1
    ]


def _dashes(points: np.ndarray) -> list[np.ndarray]:
    """Pieces of a line, each with the corners that lie within it."""
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(lengths)])
    starts = np.arange(0.0, way[-1], _DASH + _GAP)
    dashes = []
    for start in starts:
        end = min(start + _DASH, way[-1])
        places = np.concatenate([[start], way[(way > start) & (way < end)], [end]])
        across, down = (np.interp(places, way, points[:, i]) for i in (0, 1))
        dashes.append(np.stack([across, down], axis=1))
    return dashes
