"""Images side by side on one sheet, with words above the columns and beside the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn.functional import interpolate

from .canvas import Canvas
from .fonts import LINE_HEIGHT, text_size, wrapped
from .style import MUTED, PAPER, TEXT

# A node shows the sheet some 450 pixels wide, and its words must still be legible. All but the
# first are in sizes of the captions' letters.
_TYPE = 0.03  # Of the width of all images, or of their greatest height.
_TALL = 0.7
_LEAST_TYPE = 12.0  # In pixels.
_TITLE, _COMMON = 1.25, 0.9
_MARGIN, _GAP = 0.6, 0.4
_LEAST_TITLE = 14.0  # The least width of a sheet for its title.

_LEAST_SHRINK = 0.6  # How much smaller letters may get before a word is broken.
_TILE_GAP = 0.006  # Of the longer side of a cell: between its images.
_BESIDE = 0.3  # Of the width of all images: how wide captions beside them may be.


@dataclass(frozen=True)
class Captions:
    """The words of a sheet.

    Attributes:
        title: above all.
        common: below the title, what all images have in common.
        columns: one above each column, or none.
        rows: one beside each row, or none.
    """

    title: str = ""
    common: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


class Sheet:
    """The layout of a sheet. Sizes are in pixels.

    Attributes:
        width: of the whole sheet.
        height: of the whole sheet.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        columns: int,
        captions: Captions,
        cell_size: int = 0,
    ) -> None:
        """Lay out a sheet.

        Args:
            shapes: of each cell's images: how many, height, width. Several images of one cell
                lie side by side in it. In reading order.
            columns: how many cells are in a row.
            captions: one for each row and column, or none.
            cell_size: the longer side of a cell, to which its images are enlarged or reduced; 0
                leaves them as they are.
        """
        self._columns = columns
        self._mosaics = [_Mosaic.of(*shape, cell_size) for shape in shapes]
        rows = -(-len(shapes) // columns)
        wide = max(each.width for each in self._mosaics)
        high = max(each.height for each in self._mosaics)
        extent = max(columns * wide, _TALL * rows * high)
        self._type = _fitting(captions.columns, max(_TYPE * extent, _LEAST_TYPE), wide)
        self._gap, self._margin = round(_GAP * self._type), round(_MARGIN * self._type)

        beside = max(_BESIDE * columns * wide, 4 * self._type)
        self._row_lines = [wrapped(each, self._type, beside) for each in captions.rows]
        self._left = self._margin + round(self._widest(self._row_lines))
        if self._left > self._margin:
            self._left += self._gap
        # Wide enough for a letter, and high enough for the words beside.
        self._wide = max(wide, round(1.5 * self._type)) if any(captions.columns) else wide
        lines = max(map(len, self._row_lines), default=0)
        self._high = max(high, math.ceil(lines * LINE_HEIGHT * self._type))
        width = self._left + columns * (self._wide + self._gap) - self._gap + self._margin
        needed = min(text_size(captions.title, _TITLE * self._type)[0], _LEAST_TITLE * self._type)
        self.width = max(width, 2 * self._margin + math.ceil(needed))

        self._column_lines = [wrapped(each, self._type, self._wide) for each in captions.columns]
        self._head = [
            (line, size, colour)
            for text, scale, colour in (
                (captions.title, _TITLE, TEXT),
                (captions.common, _COMMON, MUTED),
            )
            for size in [scale * self._type]
            for line in wrapped(text, size, self.width - 2 * self._margin)
            if line
        ]
        lines = max((len(each) for each in self._column_lines if any(each)), default=0)
        self._top = self._margin
        head = sum(LINE_HEIGHT * size for _, size, _ in self._head)
        for height in (head, lines * LINE_HEIGHT * self._type):
            if height:
                self._top += math.ceil(height) + self._gap
        self.height = self._top + rows * (self._high + self._gap) - self._gap + self._margin

    def draw(self, cells: Iterable[Tensor], done: Callable[[], None]) -> Tensor:
        """Draw the sheet.

        Args:
            cells: the images, ``[n, h, w, 3]`` each, 0 to 1, of the shapes it was laid out for.
            done: called after each cell, which may take a while.

        Returns:
            ``[1, height, width, 3]``, 0 to 1, in 32 bits.
        """
        sheet = _filled(self.height, self.width)
        head = self._words_above()
        sheet[: head.shape[0]] = head
        beside = self._words_beside()
        sheet[self._top :, : beside.shape[1]] = beside
        for number, (images, mosaic) in enumerate(zip(cells, self._mosaics, strict=True)):
            row, column = divmod(number, self._columns)
            left = self._left + column * (self._wide + self._gap) + (self._wide - mosaic.width) // 2
            top = self._top + row * (self._high + self._gap) + (self._high - mosaic.height) // 2
            sheet[top : top + mosaic.height, left : left + mosaic.width] = mosaic.draw(images)
            done()
        return sheet[None]

    def _widest(self, captions: Sequence[Sequence[str]]) -> float:
        lines = (line for caption in captions for line in caption)
        return max((text_size(line, self._type)[0] for line in lines), default=0.0)

    def _words_above(self) -> Tensor:
        canvas = Canvas(self.width, self._top)
        down = float(self._margin)
        for line, size, colour in self._head:
            canvas.text((self._margin, down), line, size, "la", colour)
            down += LINE_HEIGHT * size
        step = LINE_HEIGHT * self._type
        for column, lines in enumerate(self._column_lines):
            across = self._left + column * (self._wide + self._gap) + self._wide / 2
            first = self._top - self._gap - len(lines) * step
            for number, line in enumerate(lines):
                canvas.text((across, first + number * step), line, self._type, "ma")
        return canvas.image()[0]

    def _words_beside(self) -> Tensor:
        canvas = Canvas(self._left, self.height - self._top)
        step = LINE_HEIGHT * self._type
        for row, lines in enumerate(self._row_lines):
            middle = row * (self._high + self._gap) + self._high / 2
            first = middle - (len(lines) - 1) / 2 * step
            for number, line in enumerate(lines):
                canvas.text((self._margin, first + number * step), line, self._type, "lm")
        return canvas.image()[0]


@dataclass(frozen=True)
class _Mosaic:
    """Images of one cell side by side, as near to a square as possible."""

    count: int
    across: int
    tile: tuple[int, int]  # Height and width.
    gap: int

    @classmethod
    def of(cls, count: int, height: int, width: int, cell_size: int) -> _Mosaic:
        def side(across: int) -> int:
            return max(across * width, -(-count // across) * height)

        across = min(range(count, 0, -1), key=side)
        down = -(-count // across)
        gap = max(1, round(_TILE_GAP * (cell_size or side(across))))
        tile = (height, width)
        if cell_size:
            room = ((cell_size - (n - 1) * gap) / n for n in (down, across))
            factor = min(each / own for each, own in zip(room, tile, strict=True))
            tile = (max(1, round(factor * height)), max(1, round(factor * width)))
        return cls(count, across, tile, gap)

    @property
    def width(self) -> int:
        return self.across * (self.tile[1] + self.gap) - self.gap

    @property
    def height(self) -> int:
        return -(-self.count // self.across) * (self.tile[0] + self.gap) - self.gap

    def draw(self, images: Tensor) -> Tensor:
        """``[n, h, w, 3]`` → ``[height, width, 3]``."""
        mosaic = _filled(self.height, self.width)
        for number, image in enumerate(_resized(images, self.tile)):
            row, column = divmod(number, self.across)
            top, left = row * (self.tile[0] + self.gap), column * (self.tile[1] + self.gap)
            mosaic[top : top + self.tile[0], left : left + self.tile[1]] = image
        return mosaic


def _fitting(captions: Sequence[str], size: float, width: float) -> float:
    """The size, or a smaller one at which the longest word fits a column."""
    words = (word for caption in captions for word in caption.split())
    longest = max((text_size(word, size)[0] for word in words), default=0.0)
    return size * max(_LEAST_SHRINK, min(1.0, width / longest if longest else 1.0))


def paper() -> Tensor:
    """The colour of the sheet, ``[3]``, 0 to 1."""
    return torch.tensor(ImageColor.getrgb(PAPER)) / 255


def _filled(height: int, width: int) -> Tensor:
    return paper().expand(height, width, 3).clone()


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """``[n, h, w, 3]`` in another size; in the same one, as they are."""
    if images.shape[1:3] == size:
        return images
    planes = images.movedim(-1, 1)
    resized = interpolate(planes, size, mode="bicubic", antialias=True)
    return resized.movedim(1, -1).clamp(0, 1)
