"""A small model of the world: a few layers between the input and output scalings of EDM."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distribution import DEVIATION, EMPTY


class Denoiser(nn.Module):
    """Predicts what a noisy point was, for a label.

    Around the layers are the scalings of Karras et al. 2022 (arXiv 2206.00364, table 1), which keep
    what goes in and comes out near a standard deviation of 1 at every noise level.

    Args:
        width: units in each hidden layer.
        layers: how many hidden layers.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        # Coordinates, the noise level, and one input for each label; an empty prompt has neither.
        sizes = [3 + EMPTY, *[width] * layers]
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """Predict ``[n, 2]`` from points ``[n, 2]``, noise levels ``[n]`` and labels ``[n]``."""
        sigma = sigma[:, None]
        total = (sigma.square() + DEVIATION**2).sqrt()
        c_skip = DEVIATION**2 / total.square()
        c_out = sigma * DEVIATION / total
        asked = F.one_hot(label, EMPTY + 1)[:, :EMPTY].to(x)
        features = torch.cat([x / total, sigma.log() / 4, asked], dim=1)
        return c_skip * x + c_out * self.layers(features)
