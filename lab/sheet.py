"""A sheet of images: a row for each way of making them, a column for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

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
        pictures: of each kind; of every kind as many, and in every row.
    """

    labels: Sequence[Label]
    pictures: Sequence[Sequence[Image.Image]]


def draw_sheet(
    kinds: Sequence[str], rows: Sequence[SheetRow], notes: tuple[str, str] = ("", "")
) -> Image.Image:
    """All images.

    Args:
        kinds: written above the columns.
        rows: from top to bottom.
        notes: written below, on the left and on the right.
    """
    pitch = CELL + SPACE
    block = len(rows[0].pictures[0]) * pitch - SPACE
    width = LABEL_WIDTH + len(kinds) * pitch - SPACE + 2 * MARGIN
    height = LINE + len(rows) * (block + GAP) + LINE + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    small = ImageFont.load_default(SMALL)
    lefts = [MARGIN + LABEL_WIDTH + i * pitch for i in range(len(kinds))]
    for left, kind in zip(lefts, kinds, strict=True):
        place = (left + CELL // 2, MARGIN + LINE // 2)
        draw.text(place, kind, TEXT, small, anchor="ms")
    left_note, right_note = notes
    draw.text((width - MARGIN, height - MARGIN), right_note, DIM_TEXT, small, anchor="rb")
    draw.text((MARGIN, height - MARGIN), left_note, DIM_TEXT, small, anchor="lb")
    for i, row in enumerate(rows):
        top = MARGIN + LINE + i * (block + GAP)
        line_top = top + (block - LINE * len(row.labels)) // 2
        for j, label in enumerate(row.labels):
            place = (MARGIN, line_top + j * LINE + LINE // 2)
            font = ImageFont.load_default(label.size)
            draw.text(place, label.text, label.colour, font, anchor="lm")
        for left, pictures in zip(lefts, row.pictures, strict=True):
            for j, picture in enumerate(pictures):
                enlarged = picture.resize((CELL, CELL), Image.Resampling.BICUBIC)
                sheet.paste(enlarged, (left, top + j * pitch))
    return sheet
