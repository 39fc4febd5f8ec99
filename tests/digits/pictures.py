"""Scikit-learn's handwritten digits, drawn as colour pictures.

The 1,797 digits are 8x8 grey images, the UCI "Optical Recognition of Handwritten Digits" test
set (E. Alpaydin, C. Kaynak, 1998) that ships with scikit-learn. `draw` shows them as smooth,
coloured strokes on a dark ground, at 64x64 or any other size, each time with another small
shift, turn, stretch and hue, so that a network cannot simply learn 1,437 pictures by heart.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

PICTURE_SIZE = 64

# Empty pixels drawn around the 8x8 image: its strokes touch its upper and lower edge.
MARGIN = 2
# An 8x8 pixel becomes this many picture pixels before the affine warp.
UPSCALE = 8
# Grey values between which an upscaled stroke rises from ground to full ink. The narrow ramp
# turns the blur of bicubic upscaling into a crisp, anti-aliased outline.
INK_RAMP = (0.3, 0.7)
# The same for bold strokes: the blur around them is ink as well.
BOLD_RAMP = (0.12, 0.42)
GROUND = (0.055, 0.065, 0.10)


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


def draw(
    images: Tensor,
    generator: torch.Generator,
    height: int = PICTURE_SIZE,
    width: int = PICTURE_SIZE,
    augment: bool = True,
    bold: bool = False,
) -> Tensor:
    """Draw 8x8 digits as colour pictures.

    Args:
        images: [B, 8, 8] in 0..1.
        generator: source of every random choice, the hue included.
        height, width: size of the pictures. The digit keeps its size of about 50 pixels on the
            shorter side of 64 and grows with the shorter side, always in the middle.
        augment: small random shift, turn and stretch; without it only the hue is random.
        bold: with thick strokes, which is what the LoRA is trained on.

    Returns:
        [B, 3, height, width] in 0..1.
    """
    batch = images.shape[0]
    padded = F.pad(images[:, None], (MARGIN,) * 4)
    smooth = F.interpolate(padded, scale_factor=UPSCALE, mode="bicubic", align_corners=False)

    shortest = min(height, width)
    if augment:
        turn = _uniform(batch, -8.0, 8.0, generator) * (math.pi / 180)
        stretch_x = _uniform(batch, 0.92, 1.10, generator)
        stretch_y = _uniform(batch, 0.94, 1.06, generator)
        shift = torch.stack([_uniform(batch, -0.05, 0.05, generator) for _ in range(2)], dim=1)
    else:
        turn = torch.zeros(batch)
        stretch_x = stretch_y = torch.ones(batch)
        shift = torch.zeros(batch, 2)
    # affine_grid maps picture coordinates (-1..1 on both axes) to coordinates in the 8x8 image.
    matrix = torch.stack(
        [
            torch.stack([turn.cos() / stretch_x, -turn.sin() / stretch_x], dim=1),
            torch.stack([turn.sin() / stretch_y, turn.cos() / stretch_y], dim=1),
        ],
        dim=1,
    )
    zoom = 10 / (8 + 2 * MARGIN)
    aspect = torch.tensor([width / shortest, height / shortest])
    theta = torch.cat([matrix * aspect * zoom, shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    grey = F.grid_sample(smooth, grid, mode="bilinear", align_corners=False)

    low, high = BOLD_RAMP if bold else INK_RAMP
    ramp = ((grey - low) / (high - low)).clamp(0, 1)
    ink = ramp * ramp * (3 - 2 * ramp)

    phase = torch.rand(batch, 1, generator=generator) + torch.tensor([0, 1 / 3, 2 / 3])
    colour = 0.75 + 0.25 * torch.cos(2 * math.pi * phase)
    ground = torch.tensor(GROUND)[None, :, None, None]
    return ground + ink * (colour[:, :, None, None] - ground)


def ink_share(pictures: Tensor) -> float:
    """How much of the pictures [B, H, W, 3] the strokes cover, 0..1: larger for bolder ones."""
    # Every hue has a channel close to 1, and the ground has none.
    return float((pictures.amax(dim=-1) > (1 + max(GROUND)) / 2).float().mean())


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
