"""What a tiny model learns to draw, and how small images are warped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

PICTURE_SIZE = 64


@dataclass(frozen=True)
class Source:
    """Labelled originals, of which a new image can be drawn any number of times.

    Attributes:
        labels: class of each original, int64 [N].
        draw: from indices of originals [B], a generator, a height and a width to images
            [B, 3, height, width] in 0..1, each one drawn a little differently.
    """

    labels: Tensor
    draw: Callable[[Tensor, torch.Generator, int, int], Tensor]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images of originals taken at random, [count, 3, 64, 64]."""
        chosen = torch.randint(len(self.labels), (count,), generator=generator)
        return self.draw(chosen, generator, PICTURE_SIZE, PICTURE_SIZE)


def as_image(picture: Tensor) -> Image.Image:
    """From [height, width, 3] in 0..1."""
    return Image.fromarray((picture * 255).round().to(torch.uint8).numpy())


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random numbers, [count]."""
    return low + (high - low) * torch.rand(count, generator=generator)


def turned_and_stretched(turn: Tensor, stretch_x: Tensor, stretch_y: Tensor) -> Tensor:
    """From coordinates in an image to those in its original, [B, 2, 2]; degrees and factors."""
    angle = turn * (math.pi / 180)
    return torch.stack(
        [
            torch.stack([angle.cos() / stretch_x, -angle.sin() / stretch_x], dim=1),
            torch.stack([angle.sin() / stretch_y, angle.cos() / stretch_y], dim=1),
        ],
        dim=1,
    )
