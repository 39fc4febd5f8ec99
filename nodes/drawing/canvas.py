"""A sheet of paper on which lines are smooth and words are legible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import runs
from .style import OVERSAMPLING, PAPER, TEXT

# Left, top, right and bottom, in pixels of the finished picture.
Box = tuple[float, float, float, float]
# Pairs of across and down, in pixels of the finished picture: an array [n, 2] or a list.
Points = np.ndarray | Sequence[tuple[float, float]]

_FAR = 20000.0  # Pillow takes its time for, and chokes on, what is much farther away than this.
_DASH, _GAP = 9.0, 6.0

# How far letters reach up from what they stand on, in sizes of the letters.
_CAPITALS, _TOP = 0.73, 0.88


class Canvas:
    """A drawing, in pixels of the finished picture; they count from its upper left corner.

    What comes later lies above what was there before. An opacity goes from 0, not to be seen, to
    1, which hides what is below. Whatever lies outside of the paper is cut off.
    """

    def __init__(self, width: int, height: int, colour: str = PAPER) -> None:
        """Take a sheet of paper.

        Args:
            width: in pixels.
            height: in pixels.
            colour: of the paper, such as ``"#1f1f23"``.
        """
        self.width, self.height = width, height
        self._paint(Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), colour))

    def _paint(self, image: Image.Image) -> None:
        """Go on with this picture, drawn larger than it is to be seen."""
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
            text: what to write; `fonts.wrapped` breaks longer text into lines.
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
        """Draw a line from point to point; it has a gap where a point is not a number."""
        self.lines([points], colour, width, opacity, dashed)

    def lines(
        self,
        many: Sequence[Points],
        colour: str,
        width: float = 1,
        opacity: float = 1.0,
        dashed: bool = False,
    ) -> None:
        """Draw lines of one colour, which do not add up where they cross."""
        thickness = max(1, round(width * OVERSAMPLING))
        with self._ink(colour, opacity) as (draw, ink):
            for points in many:
                for part in _unbroken(points):
                    for stroke in _dashes(part) if dashed else [part]:
                        draw.line(list(map(tuple, _larger(stroke))), ink, thickness, joint="curve")

    def polygon(self, points: Points, fill: str, opacity: float = 1.0) -> None:
        """Fill an area; its last point is joined to the first."""
        with self._ink(fill, opacity) as (draw, ink):
            draw.polygon(list(map(tuple, _larger(points))), ink)

    def rectangle(
        self, box: Box, fill: str | None = None, outline: str | None = None, width: float = 1
    ) -> None:
        """Fill a box, or draw its edge, which lies inside of it, or both."""
        left, top, right, bottom = _larger([box[:2], box[2:]]).round().astype(int).ravel().tolist()
        # Pillow counts the last pixel as well.
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        self._draw.rectangle(corners, fill, outline, max(1, round(width * OVERSAMPLING)))

    def dots(self, points: Points, colour: str, radius: float, opacity: float = 1.0) -> None:
        """Draw round dots, thousands of them where need be; they add up where they overlap."""
        centres = np.asarray(points, float).reshape(-1, 2)
        centres = centres[np.isfinite(centres).all(axis=1)] * OVERSAMPLING
        reach = radius * OVERSAMPLING
        around = np.arange(-int(reach) - 1, int(reach) + 2)
        across, down = (grid.ravel() for grid in np.meshgrid(around, around))
        width, height = self._image.size
        # Each pixel around each dot, and whether the dot covers the pixel's middle.
        first = np.floor(centres.clip(-_FAR, _FAR)).astype(int)
        x, y = first[:, :1] + across, first[:, 1:] + down
        distance = np.hypot(x + 0.5 - centres[:, :1], y + 0.5 - centres[:, 1:])
        covered = (distance <= reach) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if not covered.any():
            return
        # On the part of the paper alone that has dots.
        x, y = x[covered], y[covered]
        left, top = int(x.min()), int(y.min())
        width, height = int(x.max()) - left + 1, int(y.max()) - top + 1
        counts = np.bincount((y - top) * width + x - left, minlength=width * height)
        cover = 255 * (1 - (1 - opacity) ** counts.reshape(height, width))
        self._cover(colour, Image.fromarray(cover.round().astype(np.uint8)), (left, top))

    def arrows(
        self, starts: Points, ends: Points, colour: str, width: float = 1, opacity: float = 1.0
    ) -> None:
        """Draw arrows, each with its tip at its end; they do not add up where they cross.

        Args:
            starts: ``[n, 2]``.
            ends: ``[n, 2]``; where one is no farther from its start than the arrow is thick,
                there is nothing to be seen.
            width: of the shafts, in pixels; heads are some times as wide, and shorter where the
                arrow is.
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

    def picture(self, box: Box, array: np.ndarray, smooth: bool = True) -> None:
        """Show a picture in a box, stretched to fill it.

        Args:
            array: ``[h, w, 3]``, 0 to 1; its first row is on top.
            smooth: whether pixels run into each other; else each is a rectangle of one colour.
        """
        left, top, right, bottom = _larger([box[:2], box[2:]]).round().astype(int).ravel().tolist()
        values = (255 * np.asarray(array).clip(0, 1)).round().astype(np.uint8)
        way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        size = (max(1, right - left), max(1, bottom - top))
        self._image.paste(Image.fromarray(values).resize(size, way), (left, top))

    @contextmanager
    def clipped(self, box: Box) -> Iterator[None]:
        """Keep what is drawn in this context inside of a box."""
        before = self._image.copy()
        yield
        edges = _larger([box[:2], box[2:]]).round().astype(int).ravel().tolist()
        before.paste(self._image.crop(edges), edges[:2])
        self._paint(before)

    def image(self) -> Tensor:
        """The finished picture.

        Returns:
            ``[1, height, width, 3]``, 0 to 1, in 32 bits.
        """
        small = self._image.reduce(OVERSAMPLING)
        return torch.from_numpy(np.asarray(small).astype(np.float32) / 255)[None]

    @contextmanager
    def _ink(self, colour: str, opacity: float) -> Iterator[tuple[ImageDraw.ImageDraw, str | int]]:
        """What to draw on, and with what, for a colour and opacity."""
        if opacity == 1:  # Without a detour, which takes its time on a large sheet.
            yield self._draw, colour
            return
        shape = Image.new("L", self._image.size)
        yield ImageDraw.Draw(shape), 255
        self._cover(colour, shape.point(lambda value: round(value * opacity)))

    def _cover(self, colour: str, opacity: Image.Image, at: tuple[int, int] = (0, 0)) -> None:
        corner = (at[0] + opacity.width, at[1] + opacity.height)
        self._image.paste(colour, (*at, *corner), opacity)


def _larger(points: Points) -> np.ndarray:
    """Points ``[n, 2]`` as they are drawn."""
    return np.clip(np.asarray(points, float) * OVERSAMPLING, -_FAR, _FAR)


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
