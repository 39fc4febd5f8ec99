"""One push away from a bad version: its settings, and what it does during a run.

The guider's two pushes and those of the playground are all of this kind; they differ only in who
predicts for the bad version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .call import Call, Pushed, Step
from .noise import Noise
from .parts import join, join_by_sample
from .schedules import RunningSchedules, Schedule
from .shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


def is_off(strength: float) -> bool:
    """Whether a strength is none, by the same closeness as ComfyUI's own cfg of 1."""
    return math.isclose(1.0 + strength, 1.0)


@dataclass(frozen=True)
class Push:
    """How hard to push away from a bad version, when and in what shape.

    Attributes:
        strength: the artist's scale less 1; 0 is off. None where a sampler has a scale of its own.
        schedules: their factors multiply.
        shapes: applied one after the other.
    """

    strength: float | None = None
    schedules: tuple[Schedule, ...] = ()
    shapes: tuple[Shape, ...] = ()

    @property
    def is_off(self) -> bool:
        """Whether its own strength is none."""
        return self.strength is not None and is_off(self.strength)

    @property
    def is_plain(self) -> bool:
        """Whether the strength alone says it all."""
        return not self.schedules and not self.shapes


class _RunningPart:
    """A push during one run, of one part of the latent, or of a latent without parts."""

    def __init__(self, push: Push, noise: Noise) -> None:
        self.schedules = RunningSchedules(push.schedules, noise)
        self._shapes = [each.start(noise) for each in push.shapes]

    def at(self, strength: float, step: Step) -> Pushed:
        strength_now = self.schedules.at(strength, step)
        delta = step.difference
        for shape in self._shapes:
            delta = shape(delta, step, strength_now)
        return Pushed(strength_now, step.R, delta, posterior=self.schedules.posterior)


class RunningPush:
    """A push during one run.

    Schedules and shapes measure, and remember, each part of a latent by itself.

    Args:
        name: under which a call has the bad version's prediction.
        push: its settings.
        noise: of the run.
        others: names of the pushes that shapes compare with; the first one that is on counts.
    """

    def __init__(self, name: str, push: Push, noise: Noise, others: Sequence[str] = ()) -> None:
        self.name = name
        self.push = push
        self._noise = noise
        self._others = others
        self._parts = [_RunningPart(push, noise) for _ in range(len(noise.parts) or 1)]
        self._seen = self._was_on = False
        self._calls = self._saved = 0
        self._asked_for_other = self._had_other = False

    @property
    def is_scheduled(self) -> bool:
        """Whether it may be known before a call that the push is off there."""
        return any(part.schedules.may_be_off for part in self._parts)

    def is_on(self, call: Call) -> bool:
        """Whether what is known before a call leaves anything of the push there."""
        self._seen = True
        on = not self.is_scheduled or self._is_left(call, RunningSchedules.is_off)
        self._was_on = self._was_on or on
        return on

    def end(self, call: Call) -> None:
        """Count a call, for :attr:`saved`, when all has been added to it."""
        if self._parts[0].schedules.is_watching:
            self._calls += 1
            self._saved += not self._is_left(call, RunningSchedules.is_over)

    def _is_left(self, call: Call, is_gone: Callable[[RunningSchedules, float], bool]) -> bool:
        return not all(is_gone(part.schedules, call.level) for part in self._parts)

    @property
    def saved(self) -> tuple[int, int] | None:
        """At how many of how many calls it was over for good; None where nothing decides that."""
        return (self._saved, self._calls) if self._calls else None

    @property
    def was_never_on(self) -> bool:
        """Whether its schedules left nothing of it at any call so far."""
        return self._seen and not self._was_on

    @property
    def was_never_compared(self) -> bool:
        """Whether a shape asked for another push, and there was none at any call so far."""
        return self._asked_for_other and not self._had_other

    def at(self, call: Call, strength: float | None = None) -> Pushed:
        """The push at one call at which it is on.

        Args:
            call: with ``C``.
            strength: of the sampler, where the push has none of its own.
        """
        step = Step(
            noise=self._noise,
            x=call.x,
            sigma=call.sigma,
            C=call.C,
            R=call.prediction(self.name),
            difference=call.difference(self.name),
            other=partial(self._other, call),
            predict=call.prediction,
            measure_level=lambda: call.level,
        )
        own = self.push.strength if strength is None else strength
        parts = zip(self._parts, step.in_parts(), strict=True)
        return self._joined([(part.at(own, of_part), of_part) for part, of_part in parts], step)

    def add_to(self, guided: Tensor, call: Call) -> tuple[Tensor, Pushed]:
        """Add the push at one call to a prediction."""
        pushed = self.at(call)
        return pushed.added_to(guided), pushed

    def _joined(self, of_parts: list[tuple[Pushed, Step]], step: Step) -> Pushed:
        pushed = [each for each, _ in of_parts]
        if len(pushed) == 1:
            return pushed[0]
        parts = self._noise.parts
        strength = join_by_sample([each.strength for each in pushed], parts)
        posterior = None
        if pushed[0].posterior is not None:
            posterior = join_by_sample([each.posterior for each in pushed], parts)
        is_whole = all(each.delta is of_part.difference for each, of_part in of_parts)
        delta = step.difference if is_whole else join([each.delta for each in pushed])
        return Pushed(strength, step.R, delta, posterior=posterior)

    def _other(self, call: Call) -> Tensor | None:
        self._asked_for_other = True
        for name in self._others:
            difference = call.difference(name)
            if difference is not None:
                self._had_other = True
                return difference
        return None
