"""A schedule that writes down what it does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import insides

_schedules: Any = insides.module(insides.SCHEDULES)


class Watched(_schedules.Live):
    """Another schedule that depends on the image, with a record of its factors.

    Args:
        schedule: the other one.

    Attributes:
        trace: sigma and mean factor of each model call.
    """

    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule
        self.takes_over = schedule.takes_over
        self.trace: list[tuple[float, float]] = []

    def start(self, noise: Any) -> Any:
        """Begin a run of the other one."""
        watched = self._schedule.start(noise)

        def factor(step: Any) -> Tensor:
            factors = watched(step)
            self.trace.append((step.level, float(factors.mean())))
            return factors

        return factor

    def range(self) -> tuple[float, float]:
        """That of the other one."""
        return self._schedule.range()
