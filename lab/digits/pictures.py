"""Scikit-learn's handwritten digits, drawn as colour images.

The 1,797 digits are 8x8 grey images, the UCI "Optical Recognition of Handwritten Digits" test
set (E. Alpaydin, C. Kaynak, 1998) that ships with scikit-learn. `draw` shows them as smooth,
coloured strokes on a dark ground, at 64x64 or any other size, each time with another small
shift, turn, stretch and hue, so that a network cannot simply learn 1,437 images by heart.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from tiny.pictures import PICTURE_SIZE, Source, turned_and_stretched, uniform

# Empty pixels drawn around the 8x8 image: its strokes touch its upper and lower edge.
MARGIN = 2
# An 8x8 pixel becomes this many image pixels before the affine warp.
UPSCALE = 8
# Grey values between which an upscaled stroke rises from ground to full ink. The narrow ramp
# turns the blur of bicubic upscaling into a crisp, anti-aliased outline.
INK_RAMP = (0.3, 0.7)
# The same for bold strokes: the blur around them is ink as well.
BOLD_RAMP = (0.12, 0.42)
THIN_RAMP = (0.4, 0.8)
GROUND = (0.055, 0.065, 0.10)


Stroke = Literal["plain", "bold", "varied"]


@dataclass(frozen=True)
class DigitSplit:
    """Digits as 8x8 images in 0..1, float32 [N, 8, 8], with labels 0..9, int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


@cache
def digit_split() -> DigitSplit:
    """1,437 digits to train on and 360 held out from everything: networks and classifier."""
    digits = load_digits()
    train_images, held_out_images, train_labels, held_out_labels = train_test_split(
        (digits.images / 16.0).astype(np.float32),
        digits.target.astype(np.int64),
        test_size=360,
        stratify=digits.target,
        random_state=0,
    )
    return DigitSplit(
        torch.from_numpy(train_images),
        torch.from_numpy(train_labels),
        torch.from_numpy(held_out_images),
        torch.from_numpy(held_out_labels),
    )


def training_source(stroke: Stroke = "plain") -> Source:
    """The training digits, as images to learn from."""
    split = digit_split()

    def draw_some(chosen: Tensor, generator: torch.Generator, height: int, width: int) -> Tensor:
        return draw(split.train_images[chosen], generator, height, width, stroke=stroke)

    return Source(split.train_labels, draw_some)


def draw(
    images: Tensor,
    generator: torch.Generator,
    height: int = PICTURE_SIZE,
    width: int = PICTURE_SIZE,
    augment: bool = True,
    stroke: Stroke = "plain",
) -> Tensor:
    """Draw 8x8 digits as colour images.

    Args:
        images: [B, 8, 8] in 0..1.
        generator: source of every random choice, the hue included.
        height, width: size of the images. The digit keeps its size of about 50 pixels on the
            shorter side of 64 and grows with the shorter side, always in the middle.
        augment: small random shift, turn and stretch; without it only the hue is random.
        stroke: "bold" is what the LoRA is trained on; "varied" goes from thin to bold, another
            width in each image.

    Returns:
        [B, 3, height, width] in 0..1.
    """
    batch = images.shape[0]
    padded = F.pad(images[:, None], (MARGIN,) * 4)
    smooth = F.interpolate(padded, scale_factor=UPSCALE, mode="bicubic", align_corners=False)

    shortest = min(height, width)
    if augment:
        turn = uniform(batch, -8.0, 8.0, generator)
        stretch_x = uniform(batch, 0.92, 1.10, generator)
        stretch_y = uniform(batch, 0.94, 1.06, generator)
        shift = torch.stack([uniform(batch, -0.05, 0.05, generator) for _ in range(2)], dim=1)
    else:
        turn = torch.zeros(batch)
        stretch_x = stretch_y = torch.ones(batch)
        shift = torch.zeros(batch, 2)
    # affine_grid maps image coordinates (-1..1 on both axes) to coordinates in the 8x8 image.
    matrix = turned_and_stretched(turn, stretch_x, stretch_y)
    zoom = 10 / (8 + 2 * MARGIN)
    aspect = torch.tensor([width / shortest, height / shortest])
    theta = torch.cat([matrix * aspect * zoom, shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    grey = F.grid_sample(smooth, grid, mode="bilinear", align_corners=False)

    low, high = _ramp(stroke, batch, generator)
    ramp = ((grey - low) / (high - low)).clamp(0, 1)
    ink = ramp * ramp * (3 - 2 * ramp)

    phase = torch.rand(batch, 1, generator=generator) + torch.tensor([0, 1 / 3, 2 / 3])
    colour = 0.75 + 0.25 * torch.cos(2 * math.pi * phase)
    ground = torch.tensor(GROUND)[None, :, None, None]
    return ground + ink * (colour[:, :, None, None] - ground)


def _ramp(
    stroke: Stroke, batch: int, generator: torch.Generator
) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """Between which grey values of a digit its stroke rises to full ink."""
    if stroke != "varied":
        return BOLD_RAMP if stroke == "bold" else INK_RAMP
    share = torch.rand(batch, 1, 1, 1, generator=generator)
    low, high = (
        thin + share * (bold - thin) for thin, bold in zip(THIN_RAMP, BOLD_RAMP, strict=True)
    )
    return low, high


def ink_share(pictures: Tensor) -> float:
    """How much of the images [B, H, W, 3] the strokes cover, 0..1: larger for bolder ones."""
    # Every hue has a channel close to 1, and the ground has none.
    return float((pictures.amax(dim=-1) > (1 + max(GROUND)) / 2).float().mean())
