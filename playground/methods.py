"""The ways to guide that the playground compares, each as what it pushes away from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..guiders.push.push import Push
from ..guiders.push.schedules import DynamicNegative, Schedule
from ..guiders.push.shapes import Shape
from . import training
from .denoiser import Denoiser
from .distribution import EMPTY, NEGATIVE, POSITIVE
from .sampling import BadVersion

# What every method is asked for.
WANTED = POSITIVE

# The trees are of the same size. In two dimensions the evidence of a step need not be damped, and
# without an offset a point that has left the other tree behind is left alone.
DYNAMIC = DynamicNegative(
    prior=0.2, temperature=1.0, per_dimension=False, offset=0.0, floor=1e-6, ceiling=0.8
)


@dataclass(frozen=True)
class Models:
    """A good model of the world, and a bad version of it."""

    main: Denoiser
    weak: Denoiser


@cache
def models(weak: str = "weak") -> Models:
    """The models that come with the pack.

    Args:
        weak: one of the bad versions in ``training.RECIPES``.
    """
    return Models(training.load("main"), training.load(weak))


@dataclass(frozen=True)
class Settings:
    """What all methods of a comparison share, in the guider's words.

    Attributes:
        cfg: scale of the push away from the empty or the negative prompt.
        weak_scale: scale of the push away from the bad version.
        schedules: of each push; their factors multiply.
        shapes: of each push, the first one first.
    """

    cfg: float
    weak_scale: float
    schedules: tuple[Schedule, ...] = ()
    shapes: tuple[Shape, ...] = ()

    def push(self, scale: float, *more: Schedule) -> Push:
        """One push of this scale."""
        return Push(scale - 1.0, (*self.schedules, *more), self.shapes)


def unguided(models: Models, settings: Settings) -> tuple[BadVersion, ...]:
    """Nothing to push away from."""
    return ()


def classifier_free(models: Models, settings: Settings) -> tuple[BadVersion, ...]:
    """Away from an empty prompt (Ho and Salimans 2022, arXiv 2207.12598)."""
    return (BadVersion(models.main, EMPTY, settings.push(settings.cfg)),)


def negative(models: Models, settings: Settings) -> tuple[BadVersion, ...]:
    """Away from the other tree, as hard at every point and every step."""
    return (BadVersion(models.main, NEGATIVE, settings.push(settings.cfg)),)


def bad_version(models: Models, settings: Settings) -> tuple[BadVersion, ...]:
    """Away from the weak model's idea of the same tree (arXiv 2406.02507)."""
    return (BadVersion(models.weak, WANTED, settings.push(settings.weak_scale)),)


def dynamic_negative(models: Models, settings: Settings) -> tuple[BadVersion, ...]:
    """Away from the other tree, as far as a point may still belong there (arXiv 2410.14398)."""
    return (BadVersion(models.main, NEGATIVE, settings.push(settings.cfg, DYNAMIC)),)
