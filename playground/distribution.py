"""The world: two trees with many thin branches, of which everything is known in closed form.

It is made in the manner of the example that autoguidance was explained with (Karras et al. 2024,
arXiv 2406.02507, section 3 and appendix C), with a geometry of its own: thin enough for a small
model to miss its outlines, and branching so that it reaches most of the plane. One tree is what the
positive prompt asks for, the other one what the negative prompt names. Both are mixtures of normal
distributions, and so remain mixtures under any noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

# Labels, in the place of prompts. An empty prompt means both trees.
POSITIVE, NEGATIVE, EMPTY = 0, 1, 2

# Standard deviation of the whole world along each axis: the σ_d of the models' preconditioning.
DEVIATION = 0.5


@dataclass(frozen=True)
class Tree:
    """How a tree grows. Lengths are in units of its trunk, angles in degrees, anticlockwise.

    Attributes:
        root: where the trunk starts.
        direction: where it points to.
        levels: how often branches fork, with the trunk as the first level.
        fork: angle between a branch and each of the two that grow out of its end.
        bend: by how much a branch curves from its start to its end, on to its own side.
        shrink: length of the two branches, left and right, as a share of the one they grow out of.
        thickness: standard deviation across the trunk.
        taper: thickness of a branch as a share of the one that it grows out of.
        fade: weight of a branch as a share of the one that it grows out of.
    """

    root: tuple[float, float]
    direction: float
    levels: int = 6
    fork: float = 30.0
    bend: float = 40.0
    shrink: tuple[float, float] = (0.82, 0.73)
    thickness: float = 0.03
    taper: float = 0.9
    fade: float = 0.62


# So many normal distributions follow one another along each branch.
_PIECES = 4

# So many points at a time: their distances from all parts fit into a core's own memory.
_CHUNK = 512

Pair = tuple[Tensor, Tensor]

_TREES = (Tree((0.05, 0.25), -30.0), Tree((-0.05, -0.25), 150.0))


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions in the plane, each one with a label.

    Attributes:
        weights: of each one, ``[k]``; only their ratios count.
        means: ``[k, 2]``.
        directions: unit vectors along the longer axis of each one, ``[k, 2]``.
        variances: along that axis and across it, ``[k, 2]``.
        labels: ``POSITIVE`` or ``NEGATIVE``, ``[k]``.
    """

    weights: Tensor
    means: Tensor
    directions: Tensor
    variances: Tensor
    labels: Tensor

    def denoised(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """The mean of all points that ``x`` may have come from: what an ideal model predicts.

        Args:
            x: points with noise, ``[n, 2]``.
            sigma: standard deviation of the noise, ``[n]``, or ``[1]`` for all of them.
            label: what is asked for, ``[n]`` or ``[1]``; ``EMPTY`` for both.

        Returns:
            ``E[data | x, σ, label]``, ``[n, 2]``.
        """
        sigma, label = sigma.expand(len(x)), label.expand(len(x))
        parts = zip(*(each.split(_CHUNK) for each in (x, sigma, label)), strict=True)
        return torch.cat([self._denoised(*part) for part in parts])

    def _denoised(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        offsets, widths = self._offsets(x, sigma)
        shares = self._logits(offsets, widths, label).softmax(dim=1)
        result = shares @ self.means.to(x)
        # Of each part, the normal posterior: its mean, and on each axis a share of the way to x.
        for i, axis in enumerate(self._axes(x)):
            shrink = self.variances[:, i].to(x) / widths[i]
            result.addmm_(shares * shrink * offsets[i], axis)
        return result

    def log_density(self, x: Tensor, label: int, sigma: float = 0.0) -> Tensor:
        """The logarithm of the probability density at points ``[n, 2]``, under noise of ``sigma``.

        Returns:
            ``[n]``, of the distribution of one label, whose integral is 1.
        """
        tree = self._of[label]
        levels = torch.full((1,), sigma).to(x)
        everything = torch.tensor([EMPTY], device=x.device)
        densities = [
            tree._logits(*tree._offsets(part, levels), everything).logsumexp(dim=1)
            for part in x.split(_CHUNK)
        ]
        return torch.cat(densities) - math.log(2 * math.pi)

    def sample(self, count: int, label: int, generator: torch.Generator) -> Tensor:
        """Draw true points of a label, ``[count, 2]``."""
        weights = self._log_weights[label].exp()
        part = torch.multinomial(weights, count, replacement=True, generator=generator)
        offset = torch.randn(count, 2, generator=generator, dtype=self.means.dtype)
        offset = offset * self.variances[part].sqrt()
        u, v = (axis[part] for axis in self._axes(self.means))
        return self.means[part] + offset[:, :1] * u + offset[:, 1:] * v

    def _axes(self, like: Tensor) -> Pair:
        u = self.directions.to(like)
        return u, torch.stack([-u[:, 1], u[:, 0]], dim=1)

    def _offsets(self, x: Tensor, sigma: Tensor) -> tuple[Pair, Pair]:
        """How far each point lies from each mean, on both axes, and the variances under noise."""
        means = self.means.to(x)
        u, v = self._axes(x)
        along, across = (x @ axis.T - (means * axis).sum(1) for axis in (u, v))
        long, wide = (each + sigma.square()[:, None] for each in self.variances.to(x).T)
        return (along, across), (long, wide)

    def _logits(self, offsets: Pair, widths: Pair, label: Tensor) -> Tensor:
        """Logarithms of weight times density, ``[n, k]``, but for the factor 1/2π."""
        (along, across), (long, wide) = offsets, widths
        distance = along.square() / long + across.square() / wide
        return self._log_weights.to(along)[label] - (distance + (long * wide).log()) / 2

    @cached_property
    def _log_weights(self) -> Tensor:
        """For each label, of the parts that have it, ``[3, k]``; the others have none."""
        weights = self.weights * self._asked
        return (weights / weights.sum(dim=1, keepdim=True)).log()

    @cached_property
    def _of(self) -> list[Mixture]:
        """For each label, the parts that have it alone."""
        columns = (self.weights, self.means, self.directions, self.variances, self.labels)
        return [Mixture(*(column[asked] for column in columns)) for asked in self._asked]

    @property
    def _asked(self) -> Tensor:
        of_one = self.labels == torch.tensor([[POSITIVE], [NEGATIVE]])
        return torch.cat([of_one, torch.ones_like(of_one[:1])])


@cache
def world() -> Mixture:
    """Both trees, with their mean in the origin and ``DEVIATION`` along the axes."""
    grown = [_grow(tree) for tree in _TREES]
    parts = [torch.cat(columns) for columns in zip(*grown, strict=True)]
    weights, means, directions, variances = parts
    weights = weights / weights.sum()
    labels = torch.arange(len(grown)).repeat_interleave(torch.tensor([len(g[0]) for g in grown]))
    means = means - weights @ means
    power = (weights @ (means.square().sum(1) + variances.sum(1))) / 2
    unit = DEVIATION / power.sqrt()
    return Mixture(weights, means * unit, directions, variances * unit**2, labels)


def _grow(tree: Tree) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, means, directions and variances of the parts of a tree."""
    parts: list[tuple[float, tuple[float, float], tuple[float, float], tuple[float, float]]] = []

    def branch(x: float, y: float, angle: float, length: float, level: int, side: int) -> None:
        piece = length / _PIECES
        thickness = tree.thickness * tree.taper**level
        turn = side * tree.bend / _PIECES
        for _ in range(_PIECES):
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            weight = tree.fade**level
            # Along the branch as wide as a uniform piece would be, with some overlap.
            widths = ((piece / 2) ** 2, thickness**2)
            parts.append((weight, (x + cos * piece / 2, y + sin * piece / 2), (cos, sin), widths))
            x, y, angle = x + cos * piece, y + sin * piece, angle + turn
        if level + 1 < tree.levels:
            for way, shrink in zip((1, -1), tree.shrink, strict=True):
                branch(x, y, angle + way * tree.fork, length * shrink, level + 1, way)

    branch(*tree.root, tree.direction, 1.0, 0, 1)
    columns = zip(*parts, strict=True)
    weights, means, directions, widths = (torch.tensor(c, dtype=torch.float64) for c in columns)
    return weights / weights.sum(), means, directions, widths
