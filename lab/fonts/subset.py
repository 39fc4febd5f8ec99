"""Makes the fonts of the pack's drawings: what artists write with, out of two of the system's.

ComfyUI brings no font with Chinese characters, and a machine that it runs on need not have one.

    make font
"""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection, TTFont

from comfyui.install import ROOT

FOLDER = ROOT / "nodes" / "drawing"


def between(*ranges: tuple[int, int]) -> set[str]:
    """All of Unicode from the first to the last character of each range."""
    return {chr(code) for first, last in ranges for code in range(first, last + 1)}


def letters() -> set[str]:
    """Those of Europe with all accents, and the signs of prose and of formulas."""
    return between(
        *((0x20, 0x7E), (0xA0, 0x24F), (0x1E00, 0x1EFF)),  # Latin.
        (0x300, 0x4FF),  # Accents by themselves, Greek, Cyrillic.
        (0x2000, 0x214F),  # Punctuation, superscripts, currencies, letters of units.
        (0x2150, 0x22FF),  # Fractions, arrows, signs of formulas.
        (0x2500, 0x27BF),  # Boxes, shapes, ticks.
    )


def hanzi() -> set[str]:
    """The characters of everyday Chinese: all of GB 2312, and the first level of Big5."""
    pairs = {
        "gb2312": ((0xB0, 0xF7), (0xA1, 0xFE)),
        "big5": ((0xA4, 0xC6), (0x40, 0xFE)),
    }
    found: set[str] = set()
    for encoding, (leads, trails) in pairs.items():
        for lead in range(leads[0], leads[1] + 1):
            for trail in range(trails[0], trails[1] + 1):
                found |= set(bytes((lead, trail)).decode(encoding, errors="ignore"))
    return {each for each in found if unicodedata.name(each, "").startswith("CJK UNIFIED")}


def chinese() -> set[str]:
    """Chinese, the kana of Japanese, and the punctuation that goes with them."""
    others = between(
        (0x2460, 0x24FF),  # Circled numbers.
        *((0x3000, 0x30FF), (0x31F0, 0x31FF)),  # Punctuation, kana.
        (0xFF00, 0xFFEF),  # Full-width forms.
    )
    return hanzi() | others | set("“”‘’—…·")


@dataclass(frozen=True)
class Font:
    """A font of the system, and what to take from it.

    Attributes:
        family: its name.
        package: Debian's, which has it.
        characters: gives what to take, as far as the font has it.
        file: what to write, in the pack.
    """

    family: str
    package: str
    characters: Callable[[], set[str]]
    file: Path


FONTS = (
    Font("DejaVu Sans Condensed", "fonts-dejavu-core", letters, FOLDER / "letters.ttf"),
    Font("Noto Sans CJK SC", "fonts-noto-cjk", chinese, FOLDER / "chinese.otf"),
)


def original(font: Font) -> TTFont:
    """The font as the system has it."""
    found = subprocess.run(
        ["fc-match", "--format=%{file}", f"{font.family}:style=Regular"],
        capture_output=True,
        text=True,
        check=True,
    )
    path = Path(found.stdout)
    if path.suffix == ".ttc":
        fonts = TTCollection(path, recalcTimestamp=False).fonts
    else:
        fonts = [TTFont(path, recalcTimestamp=False)]
    for each in fonts:
        if each["name"].getDebugName(4).removesuffix(" Regular") == font.family:
            return each
    raise LookupError(f"{path} is no {font.family}. Debian has it in {font.package}.")


def subset(font: TTFont, wanted: set[str]) -> None:
    """Leave only these characters, and only what it takes to draw them one after the other."""
    options = Options()
    options.hinting = False  # Drawings are made larger than they are shown.
    options.layout_features = []
    options.drop_tables += ["BASE", "FFTM", "GDEF", "GPOS", "GSUB", "VORG", "kern", "vhea", "vmtx"]
    options.name_IDs += [13, 14]  # The licence.
    options.name_languages = [0x409]
    options.notdef_outline = True
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=map(ord, wanted))
    subsetter.subset(font)


def main() -> None:
    """Write the fonts, and say how large they are."""
    for each in FONTS:
        font = original(each)
        subset(font, each.characters())
        font.save(each.file)
        count, size = len(font.getBestCmap()), each.file.stat().st_size
        print(f"{each.file.relative_to(ROOT)}: {count} characters, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    sys.exit(main())
