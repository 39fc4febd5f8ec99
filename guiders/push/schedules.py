"""How hard to push, over the steps of a run and for each sample.

A schedule is a factor: a push is as strong as ``strength · Π factors``. :class:`Fixed` ones are
known for each sigma before sampling starts, so that a push costs nothing where one of them is 0.
:class:`Live` ones depend on the predictions, and may remember earlier ones; one that has switched
its push off for good is asked before a call.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Size, Tensor

from . import formulas
from .call import RunningSchedule, Step
from .memory import Trajectory
from .noise import TOLERANCE, Noise


class Fixed(ABC):
    """A schedule that depends on nothing but sigma."""

    @abstractmethod
    def factor(self, sigma: float, noise: Noise) -> float:
        """The factor at ``sigma``; 1 is the full strength, 0 is off."""


class Live(ABC):
    """A schedule that depends on what happens while sampling."""

    # Whether the factor is the whole strength, of which the push's own only gives the sign.
    takes_over = False

    @abstractmethod
    def start(self, noise: Noise) -> RunningSchedule:
        """Begin a run; what is returned gives factors ``[batch]`` for each model call."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """The least and the greatest factor that may come."""

    def posterior(self, factor: Tensor) -> Tensor | None:
        """The probability that a factor ``[batch]`` was made of, if it was made of one."""
        return None


Schedule = Fixed | Live

# ComfyUI's sigmas are of 32 bits, and a step may lie just where an artist has put an end.
_ROUNDING = 1 + 1e-6
_NOTHING = 1e-5


@dataclass(frozen=True)
class Interval(Fixed):
    """On inside of ``(low, high]`` only (Kynkäänniemi et al. 2024, arXiv 2404.07724, eq. 6).

    Attributes:
        start: where guidance sets in: a percentage of sampling, or a sigma.
        end: where it stops, likewise.
        by_sigma: whether the two are sigmas, the first one greater, or shares from 0 to 1.
    """

    start: float
    end: float
    by_sigma: bool

    def factor(self, sigma: float, noise: Noise) -> float:
        """1 inside, 0 outside."""
        high, low = self.start, self.end
        if not self.by_sigma:
            high, low = (float(noise.percent_to_sigma(percent)) for percent in (high, low))
        return 1.0 if low * _ROUNDING < sigma <= high * _ROUNDING else 0.0


@dataclass(frozen=True)
class NoiseWindow(Fixed):
    """On from a high share of noise to a low one: the window that history guidance comes with.

    The share is a flow model's sigma, and else what is left of sampling: 1 is noise, 0 the image.

    Attributes:
        high: where it begins, 0 to 1.
        low: where it ends, below ``high``.
        fades: whether it goes down to 0, as ``√((t − low)/(high − low))``; 1 throughout if not.
    """

    high: float
    low: float
    fades: bool

    def factor(self, sigma: float, noise: Noise) -> float:
        """Between 0 and 1."""
        t = sigma if noise.is_flow else 1.0 - noise.percent_of(sigma)
        if not self.low <= t <= self.high * _ROUNDING:
            return 0.0
        return math.sqrt((t - self.low) / (self.high - self.low)) if self.fades else 1.0


# Each takes the share of the way that is done, 0 to 1, and gives the share of the rise.
_EASINGS = {
    "linear": lambda u, power: u,
    "cosine": lambda u, power: (1 - math.cos(math.pi * u)) / 2,
    "power": lambda u, power: u**power,
}
RAMP_CURVES = tuple(_EASINGS)

_DIRECTIONS = {
    "rising": lambda u: u,
    "falling": lambda u: 1 - u,
    "peak": lambda u: 1 - abs(2 * u - 1),
}
RAMP_DIRECTIONS = tuple(_DIRECTIONS)


@dataclass(frozen=True)
class Ramp(Fixed):
    """From one factor to another one over a part of sampling, and constant before and after it.

    Attributes:
        direction: one of ``RAMP_DIRECTIONS``; "peak" is high half way and low at both ends.
        curve: one of ``RAMP_CURVES``.
        low: the least factor.
        high: the greatest.
        start: where the change begins, as a share of sampling from 0 to 1.
        end: where it has been made, likewise, above ``start``.
        power: exponent of the curve "power"; 1 is linear, above it stays near ``low`` for longer.
    """

    direction: str
    curve: str
    low: float
    high: float
    start: float
    end: float
    power: float

    def factor(self, sigma: float, noise: Noise) -> float:
        """Between ``low`` and ``high``."""
        share = (noise.percent_of(sigma) - self.start) / (self.end - self.start)
        risen = _DIRECTIONS[self.direction](min(1.0, max(0.0, share)))
        return self.low + (self.high - self.low) * _EASINGS[self.curve](risen, self.power)


# Each takes the share of the way from one point to the next.
_INTERPOLATIONS = {
    "linear": lambda u: u,
    "smooth": lambda u: u * u * (3 - 2 * u),
    "steps": lambda u: 0.0,
}
INTERPOLATIONS = tuple(_INTERPOLATIONS)


@dataclass(frozen=True)
class Curve(Fixed):
    """Through points that were typed by hand; constant before the first and after the last.

    Attributes:
        points: positions and factors, by rising position, each position once.
        by_sigma: whether positions are sigmas, or shares of sampling from 0 to 1.
        interpolation: one of ``INTERPOLATIONS``; "steps" holds a factor until the next point that
            sampling comes to.
    """

    points: tuple[tuple[float, float], ...]
    by_sigma: bool
    interpolation: str

    def factor(self, sigma: float, noise: Noise) -> float:
        """What the curve has at this sigma."""
        # In the order of sampling, in which sigmas fall.
        sign = -1.0 if self.by_sigma else 1.0
        points = sorted((sign * position, factor) for position, factor in self.points)
        position = sign * sigma if self.by_sigma else noise.percent_of(sigma)
        slightly_after = position + (_ROUNDING - 1) * abs(position)
        after = bisect.bisect_right([p for p, _ in points], slightly_after)
        if after in (0, len(points)):
            return points[max(0, after - 1)][1]
        (left, a), (right, b) = points[after - 1 : after + 1]
        share = max(0.0, (position - left) / (right - left))
        return a + (b - a) * _INTERPOLATIONS[self.interpolation](share)


class _Visited(NamedTuple):
    """A state of the sampler, and what was known there."""

    posterior: Tensor
    x: Tensor
    sigma: Tensor
    level: float
    C: Tensor
    N: Tensor


@dataclass(frozen=True)
class DynamicNegative(Live):
    """As hard as the image is likely to become what the negative prompt says.

    The factor is ``p/(1 − p)``, with one posterior ``p`` for each sample, so that the strength is
    the paper's ``λ`` (Koulischer et al. 2024, arXiv 2410.14398). See
    :func:`.formulas.posterior_of_negative`.

    Attributes:
        prior: ``p_0``, where the posterior of each sample starts.
        temperature: ``T``, how fast it follows the evidence.
        per_dimension: whether ``T`` and ``δ`` are those of a latent of 1000 numbers, and less in a
            larger one.
        offset: ``δ``, by which it rises without evidence.
        floor: ``p_min``.
        ceiling: ``p_max``, below 1.
    """

    prior: float
    temperature: float
    per_dimension: bool
    offset: float
    floor: float
    ceiling: float

    def range(self) -> tuple[float, float]:
        """From ``p_min/(1 − p_min)`` to ``p_max/(1 − p_max)``."""
        return self.floor / (1 - self.floor), self.ceiling / (1 - self.ceiling)

    def posterior(self, factor: Tensor) -> Tensor:
        """``p``, of a factor ``p/(1 − p)``."""
        return factor / (1 + factor)

    def start(self, noise: Noise) -> RunningSchedule:
        """Begin with the prior."""
        trajectory: Trajectory[_Visited] = Trajectory(noise.sigmas)

        def factor(step: Step) -> Tensor:
            before = trajectory.before(step.level, step.x)
            if before is None:
                posterior = torch.full_like(step.sigma, self.prior)
            else:
                posterior = self._after(before, step).clamp(self.floor, self.ceiling)
            # A copy, because some samplers go on in the same latent.
            visited = _Visited(posterior, step.x.clone(), step.sigma, step.level, step.C, step.R)
            trajectory.visit(step.level, visited)
            return posterior / (1 - posterior)

        return factor

    def _after(self, before: _Visited, step: Step) -> Tensor:
        if before.level <= step.level:  # A restart, from above all that is remembered.
            return before.posterior
        share = 1000 / step.x[0].numel() if self.per_dimension else 1.0
        return formulas.posterior_of_negative(
            before.posterior,
            before.x,
            before.sigma,
            before.C,
            before.N,
            step.x,
            step.sigma,
            temperature=self.temperature * share,
            offset=self.offset * share,
            flow=step.noise.is_flow,
        )


@dataclass(frozen=True)
class DistanceCalibrated(Live):
    """By a share of the distance that a sample lies from its mean.

    The length of ``C − R``, from one mean to another, changes from step to step, from prompt to
    prompt and from one weak model to another. The push is ``min(ρ · d, cap · ‖C − R‖)`` long, with
    ``d`` as in :func:`.formulas.distance_to_mean`.

    Attributes:
        share: ``ρ``.
        cap: the greatest factor.
        deviation: ``σ_d`` of the model's latents; 0 for what their format says.
    """

    takes_over = True

    share: float
    cap: float
    deviation: float

    def range(self) -> tuple[float, float]:
        """From 0 to ``cap``."""
        return 0.0, self.cap

    def start(self, noise: Noise) -> RunningSchedule:
        """Begin a run; nothing is remembered."""

        def factor(step: Step) -> Tensor:
            deviation = self.deviation or noise.deviation
            dimensions = step.x[0].numel()
            d = formulas.distance_to_mean(step.sigma, deviation, dimensions, noise.is_flow)
            # Without a distance to go there is no push, however short the difference.
            factor = (self.share * d / formulas.norm(step.difference)).nan_to_num(nan=0.0)
            return factor.clamp(max=self.cap)

        return factor


@dataclass(frozen=True)
class StopWhenSettled(Live):
    """Off for good, for each sample, once its bad version predicts what ``C`` does but for length.

    What the two have in common leaves less and less to push away from (adaptive guidance, Castillo
    et al. 2023, arXiv 2312.12487).

    Attributes:
        cosine: between ``C`` and ``R``, from which on the push has come to rest.
        start_percent: share of sampling, 0 to 1, before which it goes on all the same.
    """

    cosine: float
    start_percent: float

    def range(self) -> tuple[float, float]:
        """On or off."""
        return 0.0, 1.0

    def start(self, noise: Noise) -> RunningSchedule:
        """Begin with no sample at rest."""
        return _Settling(self, noise)


class _Settling:
    """Which samples have come to rest in a run, and at which sigma.

    Where a sampler comes back to more noise, or goes on in another size, nothing is at rest.
    """

    def __init__(self, settings: StopWhenSettled, noise: Noise) -> None:
        self._settings = settings
        self._noise = noise
        self._size: Size | None = None
        self._rested_at: Tensor | None = None  # [batch]; 0 where it has not.
        self._over_below = 0.0

    def __call__(self, step: Step) -> Tensor | float:
        sigma = step.sigma
        if self._rested_at is None or step.x.shape != self._size:
            self._rested_at, self._size = torch.zeros_like(sigma), step.x.shape
        was_at_rest = self._rested_at > sigma * (1 + TOLERANCE)
        rested_at = torch.where(sigma > self._rested_at * (1 + TOLERANCE), 0.0, self._rested_at)
        # The step at which it shows still has its push, since both predictions are there.
        if self._noise.percent_of(step.level) >= self._settings.start_percent:
            is_at_rest = formulas.cosine(step.C, step.R) >= self._settings.cosine
            rested_at = torch.where((rested_at == 0) & is_at_rest, sigma, rested_at)
        self._rested_at = rested_at
        self._over_below, is_any = torch.stack([rested_at.min(), was_at_rest.any()]).tolist()
        return (~was_at_rest).to(sigma.dtype) if is_any else 1.0

    def is_over(self, sigma: float) -> bool:
        """Whether no sample has a push at this sigma."""
        return sigma * (1 + TOLERANCE) < self._over_below


class RunningSchedules:
    """The strength of one push during one run.

    Args:
        schedules: those that are chained; their factors multiply.
        noise: of the run.

    Attributes:
        posterior: of the schedule that has one, at the latest step, ``[batch]``.
    """

    def __init__(self, schedules: Sequence[Schedule], noise: Noise) -> None:
        self._noise = noise
        self._fixed = [each for each in schedules if isinstance(each, Fixed)]
        self._live = [each for each in schedules if isinstance(each, Live)]
        self._running = [each.start(noise) for each in self._live]
        self._watching = [each for each in self._running if isinstance(each, _Settling)]
        self._factors: dict[float, float] = {}
        self.posterior: Tensor | None = None

    @property
    def may_be_off(self) -> bool:
        """Whether it may be known before a call that there is no push."""
        return bool(self._fixed or self._watching)

    @property
    def is_watching(self) -> bool:
        """Whether there is a schedule that may switch the push off for good."""
        return bool(self._watching)

    def is_off(self, sigma: float) -> bool:
        """Whether it is known, before any prediction is made, that there is no push."""
        return self.fixed_factor(sigma) == 0 or self.is_over(sigma)

    def is_over(self, sigma: float) -> bool:
        """Whether a schedule has switched the push off for good."""
        return any(each.is_over(sigma) for each in self._watching)

    def fixed_factor(self, sigma: float) -> float:
        """What is known before any prediction is made; 0 switches the push off."""
        if sigma not in self._factors:
            factors = (each.factor(sigma, self._noise) for each in self._fixed)
            factor = math.prod(factors)
            # Where a curve begins or ends at 0, rounding must not cost a model pass.
            self._factors[sigma] = 0.0 if abs(factor) < _NOTHING else factor
        return self._factors[sigma]

    def at(self, strength: float, step: Step) -> formulas.Strength:
        """The strength at one step.

        Args:
            strength: of the push, without schedules.
        """
        known = self.fixed_factor(step.level) if self._fixed else 1.0
        strength_now: formulas.Strength = self._own(strength) * known
        for schedule, running in zip(self._live, self._running, strict=True):
            factor = running(step)
            posterior = schedule.posterior(factor)
            if posterior is not None:
                self.posterior = posterior
            strength_now = factor * strength_now
        return strength_now

    def bounds(self, strength: float, sigma: float) -> tuple[float, float]:
        """The least and the greatest that :meth:`at` may give at ``sigma``."""
        known = self._own(strength) * self.fixed_factor(sigma)
        ranges = [each.range() for each in self._live]
        ends = [known * math.prod(each[end] for each in ranges) for end in (0, 1)]
        return min(ends), max(ends)

    def _own(self, strength: float) -> float:
        if any(each.takes_over for each in self._live):
            # It still goes the way that the artist wants.
            return float(strength > 0) - float(strength < 0)
        return strength
