"""How close drawn images come to real ones: what the tables of images say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import numpy as np
import torch
from prdc import compute_prdc
from torch import Tensor

from tiny.judge import Judge

from .frechet import frechet_distance

# Of precision, recall, density and coverage; the number of neighbours in the paper of the last two
# (Naeem et al. 2020, arXiv 2002.09797).
NEIGHBOURS = 5


@dataclass(frozen=True)
class Outcome:
    """What has become of the images of one run.

    Attributes:
        distance: Fréchet distance to the real ones, in the features of a classifier.
        pixels: Fréchet distance to the real ones, in pixels of images made small.
        precision: share that looks real (Kynkäänniemi et al. 2019, arXiv 1904.06991).
        recall: share of the real ones that looks drawn.
        density: how well the drawn ones lie among the real ones; 1 is like real ones.
        coverage: share of the real ones with a drawn one nearby.
        right: share that the classifier takes for what was asked for.
    """

    distance: float
    pixels: float
    precision: float
    recall: float
    density: float
    coverage: float
    right: float


class Ruler:
    """Measures images against real ones.

    Args:
        real: images, [n, 64, 64, 3] in 0..1.
        judge: a classifier.
        small: from images to few pixels, [n, …] to [n, d].
    """

    def __init__(self, real: Tensor, judge: Judge, small: Callable[[Tensor], np.ndarray]) -> None:
        self._judge = judge
        self._small = small
        self._real = real
        self._features = self.features(real)
        self._pixels = small(real)

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> np.ndarray:
        """What the classifier sees, [n, 64]."""
        return torch.cat([self._judge.features(some) for some in pictures.split(256)]).numpy()

    @torch.inference_mode()
    def outcome(self, pictures: Tensor, labels: Tensor) -> Outcome:
        """Measure images ``[n, 64, 64, 3]`` that were asked to be of these classes ``[n]``."""
        features = self.features(pictures)
        with redirect_stdout(StringIO()):  # It tells how many images there are.
            close = compute_prdc(self._features, features, NEIGHBOURS)
        read = self._judge.head(torch.from_numpy(features)).argmax(dim=1)
        return Outcome(
            distance=frechet_distance(features, self._features),
            pixels=frechet_distance(self._small(pictures), self._pixels),
            right=float((read == labels).float().mean()),
            **{name: float(value) for name, value in close.items()},
        )

    def halves(self, seed: int = 0) -> tuple[float, float]:
        """Both Fréchet distances between two halves of the real images."""
        mixed = np.random.default_rng(seed).permutation(len(self._real))
        one, other = np.array_split(mixed, 2)
        distances = [
            frechet_distance(each[one], each[other]) for each in (self._features, self._pixels)
        ]
        return distances[0], distances[1]

    def taken_for(self, labels: Tensor) -> list[int]:
        """For each class the other one whose real images are nearest, by the features' means."""
        features = torch.from_numpy(self._features)
        means = torch.stack([features[labels == label].mean(dim=0) for label in labels.unique()])
        between = torch.cdist(means, means).fill_diagonal_(torch.inf)
        return between.argmin(dim=1).tolist()
