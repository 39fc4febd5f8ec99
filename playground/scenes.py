"""What the figures of the playground show, computed: points of every method, and fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import methods
from .distribution import NEGATIVE, world
from .measures import Ruler
from .methods import WANTED, Settings
from .sampling import Guided, Paths, noise_levels, sample

# So many points are measured, however few of them are drawn.
MEASURED = 4000

# The methods in the order of the figure, each with the scale that it goes by, if any.
METHODS = {
    "unguided": None,
    "classifier_free": "cfg",
    "negative": "cfg",
    "bad_version": "weak_scale",
    "dynamic_negative": "cfg",
}

# What part of the plane the fields fill: left, right, lower and upper edge.
FIELD = (-0.32, 1.24, -0.78, 0.92)
# How far the places of a field are apart.
SPACING = 0.085
# There is an arrow where noisy points are at least as dense, as a share of where they are densest.
_DENSE = 0.1

# The noise levels of the figure, and a noisy point at each, which shows well how the predictions
# differ: half way through sampling, and where branches are decided upon.
POINTS = {0.25: (0.1, 0.42), 0.06: (0.35, 0.2)}

# The first and the last noise level of an animation: from where the predictions begin to differ.
_FALLING = (1.0, 0.03)


@dataclass(frozen=True)
class Drawn:
    """The points that a method has drawn, and how good they are.

    Attributes:
        method: its name in ``METHODS``, or "truth".
        scale: that it has pushed with; None for none.
        points: ``[n, 2]``.
        outside: which of them are outliers, ``[n]``.
        coverage: share of the truth's area that they reach, about 1 for true points.
        paths: how they got there; None for the truth.
    """

    method: str
    scale: float | None
    points: Tensor
    outside: Tensor
    coverage: float
    paths: Paths | None

    @property
    def outliers(self) -> float:
        """The share of the points that are outliers, 0 to 1."""
        return float(self.outside.double().mean())


@dataclass(frozen=True)
class Fields:
    """Everything about guidance at one noise level.

    Attributes:
        sigma: the noise level.
        point: a noisy point, ``[2]``.
        predictions: what is predicted from it: "C" for the positive prompt, "N" for the negative
            one, "W" by the bad version, and "G", the guided one; each ``[2]``.
        places: where the fields are known, ``[n, 2]``.
        ways: what moves them: "positive", from the point to its prediction, and the pushes
            "negative" and "weak"; each ``[n, 2]``.
    """

    sigma: float
    point: Tensor
    predictions: dict[str, Tensor]
    places: Tensor
    ways: dict[str, Tensor]


def compare(
    settings: Settings, seed: int, on_step: Callable[[], None] = lambda: None
) -> list[Drawn]:
    """Draw points by every method, from the same noise, and measure them.

    Args:
        settings: of the pushes.
        seed: of the noise.
        on_step: called after each step of each method.

    Returns:
        The truth, and then the methods.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = world().sample(MEASURED, WANTED, generator)
    results = [_measured("truth", None, truth, None)]
    models = methods.models()
    for name, scale in METHODS.items():
        bad_versions = getattr(methods, name)(models, settings)
        paths = sample(
            models.main, WANTED, bad_versions, MEASURED, seed, on_step=lambda step: on_step()
        )
        scale = None if scale is None else getattr(settings, scale)
        results.append(_measured(name, scale, paths.ends, paths))
    return results


@cache
def ruler() -> Ruler:
    """Measures against the tree that all methods are asked for."""
    return Ruler(world(), WANTED)


def _measured(name: str, scale: float | None, points: Tensor, paths: Paths | None) -> Drawn:
    outside, coverage = ruler().outside(points), ruler().coverage(points)
    return Drawn(name, scale, points, outside, coverage, paths)


def fields(settings: Settings, sigma: float, point: tuple[float, float]) -> Fields:
    """Predict at one noisy point, and push at many.

    Args:
        settings: of the pushes.
        sigma: the noise level, at most that of the first step.
        point: the noisy point.
    """
    models = methods.models()
    negative, weak = methods.negative(models, settings), methods.bad_version(models, settings)
    plain, away, better, both = (
        Guided(models.main, WANTED, bad_versions, noise_levels())
        for bad_versions in ((), negative, weak, (*negative, *weak))
    )
    x = torch.tensor([point])
    levels = torch.full((1,), sigma)
    predictions = {
        "C": plain.predict(x, sigma)[0],
        "N": models.main(x, levels, torch.tensor([NEGATIVE])),
        "W": models.weak(x, levels, torch.tensor([WANTED])),
        "G": both.predict(x, sigma)[0],
    }
    places = _places(sigma)
    ways = {
        "positive": plain.predict(places, sigma)[0] - places,
        "negative": away.predict(places, sigma)[1],
        "weak": better.predict(places, sigma)[1],
    }
    return Fields(sigma, x[0], {key: each[0] for key, each in predictions.items()}, places, ways)


def falling(count: int) -> list[float]:
    """So many noise levels for an animation of fields, the last one the least."""
    first, last = _FALLING
    return torch.logspace(math.log10(first), math.log10(last), count).tolist()


def _places(sigma: float) -> Tensor:
    """A grid of points that are not too rare under this noise, ``[n, 2]``."""
    left, right, lower, upper = FIELD
    across = torch.arange(left + SPACING / 2, right, SPACING)
    up = torch.arange(lower + SPACING / 2, upper, SPACING)
    grid = torch.cartesian_prod(across, up)
    density = world().log_density(grid.double(), WANTED, sigma)
    return grid[density > density.max() + math.log(_DENSE)]
