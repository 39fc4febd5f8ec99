"""The letters of drawings: how wide they are, and where lines of them break.

Two fonts come with the pack, each with its licence beside it; `make font` makes them.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from .style import OVERSAMPLING

# From one line to the next, in sizes of the letters.
LINE_HEIGHT = 1.35

_LETTERS, _CHINESE = "letters.ttf", "chinese.otf"

# Where Chinese begins in Unicode; circled numbers come before it.
_FIRST_CHINESE = "\u2e80"
_CIRCLED = ("\u2460", "\u24ff")
# Both fonts have these, each with the spacing of its own characters.
_OF_EITHER = frozenset("“”‘’—…·")

# A line does not break before the closing ones, nor after the opening ones.
_CLOSING = re.escape("，。、；：！？）》」』】〕〉”’…—～·")
_OPENING = re.escape("（《「『【〔〈“‘")
_WIDE = "\u2e80-\uffef"
_PIECES = re.compile(rf"\s+|[{_OPENING}]*[{_WIDE}][{_CLOSING}]*|[^\s{_WIDE}]+[{_CLOSING}]*")


@lru_cache(maxsize=64)
def font(size: int, file: str = _LETTERS) -> ImageFont.FreeTypeFont:
    """A font of the pack.

    Args:
        size: of the square that a Chinese character stands in, in pixels as they are drawn; at
            least 1.
        file: which of the two, ``"letters.ttf"`` (Latin, Greek, Cyrillic and the signs of prose
            and formulas) or ``"chinese.otf"`` (Chinese, kana).
    """
    # Not every machine has Pillow's other engine, and its images would differ.
    engine = ImageFont.Layout.BASIC
    return ImageFont.truetype(str(Path(__file__).with_name(file)), size, layout_engine=engine)


def runs(text: str, size: float) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The parts of a line, each in the font that has it.

    Letters and the accents that follow them become one character, as in the fonts. Characters
    that only control others, such as what joins emoji, are removed. A character that neither
    font has is drawn as a box.

    Args:
        text: one line; line breaks become spaces.
        size: of the letters, in pixels of the finished image.
    """
    drawn = max(1, round(size * OVERSAMPLING))
    characters = _drawable(text)
    files: list[str] = []
    for character in characters:
        if character in _OF_EITHER and files:
            files.append(files[-1])
        else:
            is_circled = _CIRCLED[0] <= character <= _CIRCLED[1]
            files.append(_CHINESE if is_circled or character >= _FIRST_CHINESE else _LETTERS)
    pairs = zip(files, characters, strict=True)
    return [
        ("".join(character for _, character in group), font(drawn, file))
        for file, group in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]


def text_size(text: str, size: float) -> tuple[float, float]:
    """The size of one line.

    Args:
        text: one line.
        size: of the letters, in pixels.

    Returns:
        Width and height in pixels; the height is the distance to the next line.
    """
    width = sum(letters.getlength(part) for part, letters in runs(text, size))
    return width / OVERSAMPLING, LINE_HEIGHT * size


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Wrap text at spaces, between Chinese characters, and at its own line breaks.

    A word that is too long for a line is broken where the line is full.

    Args:
        text: of any length.
        size: of the letters, in pixels.
        width: of the lines, in pixels; only a single character may be wider.

    Returns:
        At least one line, an empty one if there are no words.
    """
    lines: list[str] = []
    for paragraph in text.strip().splitlines() or [""]:
        line = ""
        for piece in _PIECES.findall(_drawable(paragraph)):
            if _fits(line + piece, size, width):
                line += piece
                continue
            if line.strip():
                lines.append(line.strip())
            *full, line = _broken(piece.lstrip(), size, width)
            lines += full
        lines.append(line.strip())
    return lines


def _broken(word: str, size: float, width: float) -> list[str]:
    """A word in parts that each fit a line."""
    parts = [""]
    for letter in word:
        if parts[-1] and not _fits(parts[-1] + letter, size, width):
            parts.append("")
        parts[-1] += letter
    return parts


def _fits(line: str, size: float, width: float) -> bool:
    return text_size(line.rstrip(), size)[0] <= width


def _drawable(text: str) -> str:
    composed = unicodedata.normalize("NFC", re.sub(r"\s+", " ", text))
    return "".join(
        character
        for character in composed
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        and not "\ufe00" <= character <= "\ufe0f"
    )
