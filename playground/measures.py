"""How good drawn points are: by what lies outside of the truth, and by what is missing of it."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from torch import Tensor

from .distribution import Mixture

# A point is an outlier where the density is less than at so large a share of true points.
_BEYOND = 0.01
# A place is covered that has a point so near: a few times as far as branches are thick.
REACH = 0.02
# Side of the cells by which area is counted.
_CELL = 0.005
_TRUE_POINTS = 20_000
# Pairing points one by one takes the third power of their number.
_PAIRED = 1000
_NEIGHBOUR = 5


class Ruler:
    """Measures points against the truth of one label.

    Args:
        world: which has the truth.
        label: which of its distributions the points are to follow.
        seed: for the true points to compare with.
    """

    def __init__(self, world: Mixture, label: int, seed: int = 0) -> None:
        self._world = world
        self._label = label
        generator = torch.Generator().manual_seed(seed)
        self._truth = world.sample(_TRUE_POINTS, label, generator)

    @cached_property
    def level(self) -> float:
        """The logarithm of the density below which 1 % of the true points lie."""
        return float(self._world.log_density(self._truth, self._label).quantile(_BEYOND))

    @cached_property
    def area(self) -> Tensor:
        """Points that fill the area of the truth evenly, ``[cells, 2]``: where it is dense enough.

        Its density there is above :attr:`level`, so that 99 % of it lies in this area.
        """
        low, high = self._truth.min(0).values, self._truth.max(0).values
        x, y = (torch.arange(a, b, _CELL, dtype=low.dtype) for a, b in zip(low, high, strict=True))
        grid = torch.cartesian_prod(x, y)
        return grid[self._world.log_density(grid, self._label) > self.level]

    def outside(self, points: Tensor) -> Tensor:
        """Which of the points ``[n, 2]`` lie outside of the area of the truth, ``[n]``.

        So do those that have gone farther than numbers reach.
        """
        return ~(self._world.log_density(points.double(), self._label) >= self.level)

    def outliers(self, points: Tensor) -> float:
        """The share of points ``[n, 2]`` that lie outside of the area of the truth, 0 to 1.

        Of true points it is 0.01.
        """
        return float(self.outside(points).double().mean())

    def coverage(self, points: Tensor) -> float:
        """The share of the area of the truth that has a point within ``REACH``; of ``[n, 2]``.

        It is divided by the share that as many true points reach, and so is about 1 for those.
        """
        return self._reached(points) / self._reached(self._truth[: len(points)])

    def distance(self, points: Tensor) -> float:
        """Wasserstein's distance (W₁) of the points ``[n, 2]`` from as many true ones.

        The mean length of the ways from point to true point, paired so that it is least; of the
        first 1000 points. True points have one too, by chance. It is infinite where a point is.
        """
        count = min(len(points), _PAIRED)
        if not points[:count].isfinite().all():
            return math.inf
        ways = torch.cdist(points[:count].double(), self._truth[:count]).numpy()
        return float(ways[linear_sum_assignment(ways)].mean())

    def divergence(self, points: Tensor) -> float:
        """Kullback and Leibler's divergence of the points ``[n, 2]`` from the truth, in nats.

        ``KL(truth ‖ points)``, estimated from how much farther true points have to go to their
        fifth neighbour among the points than among themselves (Wang et al. 2009,
        doi 10.1109/TIT.2009.2016060, eq. 5). It is large where a part of the truth is missing.
        """
        points = points[points.isfinite().all(dim=1)]
        truth, drawn = self._truth.numpy(), points.double().numpy()
        own = KDTree(truth).query(truth, [_NEIGHBOUR + 1])[0][:, 0]
        other = KDTree(drawn).query(truth, [_NEIGHBOUR])[0][:, 0]
        # In the plane a radius counts twice.
        return float(2 * np.log(other / own).mean() + np.log(len(drawn) / (len(truth) - 1)))

    def _reached(self, points: Tensor) -> float:
        points = points[points.isfinite().all(dim=1)]
        distance, _ = KDTree(points.double().numpy()).query(self.area.numpy())
        return float((distance <= REACH).mean())
