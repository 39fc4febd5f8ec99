"""A sheet of images: a row for each way of making them, a column for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

GROUND = (14, 17, 26)  # That of the tiny models' digits.
TEXT = (232, 234, 240)
DIM_TEXT = (140, 147, 163)

# In pixels.
CELL = 96
SPACE = 6  # Between two images.
MARGIN = 24
LABEL_WIDTH = 270
LINE = 32
GAP = 26  # Between two rows.
LARGE, SMALL = 26, 17


class Label(NamedTuple):
    """A line of what is written beside a row."""

    text: str
    size: int = SMALL
    colour: tuple[int, int, int] = TEXT


class SheetRow(NamedTuple):
    """What one way came to.

    Attributes:
        labels: written beside it, from top to bottom.
        pictures: of each kind; of every kind as many.
    """

    labels: Sequence[Label]
    pictures: Sequence[Sequence[Image.Image]]


def draw_sheet(
    kinds: Sequence[str],
    rows: Sequence[SheetRow],
    notes: tuple[str, str] = ("", ""),
    cell: int = CELL,
) -> Image.Image:
    """All images.

    Args:
        kinds: written above the columns.
        rows: from top to bottom.
        notes: written below, on the left and on the right.
        cell: side of the square for each image.
    """
    pitch = cell + SPACE
    labels = [label for row in rows for label in row.labels]
    longest = max((_font(each).getlength(each.text) for each in labels), default=0)
    label_width = max(LABEL_WIDTH, round(longest) + MARGIN)
    blocks = [max(len(row.pictures[0]) * pitch - SPACE, len(row.labels) * LINE, 0) for row in rows]
    width = label_width + len(kinds) * pitch - SPACE + 2 * MARGIN
    height = LINE + sum(blocks) + len(rows) * GAP + LINE + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    small = ImageFont.load_default(SMALL)
    lefts = [MARGIN + label_width + i * pitch for i in range(len(kinds))]
    for left, kind in zip(lefts, kinds, strict=True):
        place = (left + cell // 2, MARGIN + LINE // 2)
        draw.text(place, kind, TEXT, small, anchor="ms")
    left_note, right_note = notes
    draw.text((width - MARGIN, height - MARGIN), right_note, DIM_TEXT, small, anchor="rb")
    draw.text((MARGIN, height - MARGIN), left_note, DIM_TEXT, small, anchor="lb")
    top = MARGIN + LINE
    for row, block in zip(rows, blocks, strict=True):
        line_top = top + (block - LINE * len(row.labels)) // 2
        for j, label in enumerate(row.labels):
            place = (MARGIN, line_top + j * LINE + LINE // 2)
            draw.text(place, label.text, label.colour, _font(label), anchor="lm")
        for left, pictures in zip(lefts, row.pictures, strict=True):
            for j, picture in enumerate(pictures):
                fitted = ImageOps.pad(picture, (cell, cell), Image.Resampling.BICUBIC, GROUND)
                sheet.paste(fitted, (left, top + j * pitch))
        top += block + GAP
    return sheet


def _font(label: Label) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(label.size)
