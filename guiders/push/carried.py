"""A direction away from a bad version that serves more than one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from . import formulas
from .noise import TOLERANCE

if TYPE_CHECKING:
    from torch import Tensor

    from .noise import Noise


class _Found(NamedTuple):
    delta: Tensor
    sigma: Tensor
    level: float
    block: int


class Carried:
    """The difference ``C − R`` that was found last in a run, for the model calls after it.

    The steps of a run are taken in blocks. The bad version predicts at the first call of each
    block, and again where the leg was off before, or where a sampler has come back to more noise
    (restarts): what was found until then is of another picture.

    Args:
        every: steps in a block, at least 2.
        noise: of the run.
    """

    def __init__(self, every: int, noise: Noise) -> None:
        self._every = every
        self._noise = noise
        self._found: _Found | None = None
        self._last = 0.0

    def is_due(self, level: float) -> bool:
        """Whether the bad version is to predict at a call of this sigma."""
        if self._found is None or self._block(level) > self._found.block:
            return True
        has_risen = level > self._last * (1 + TOLERANCE)
        return has_risen and level >= self._found.level * (1 - TOLERANCE)

    def find(self, delta: Tensor, sigma: Tensor, level: float) -> None:
        """Remember a difference in the place of the one before.

        Args:
            delta: ``C − R``, before schedule and shape.
            sigma: at which it was found, ``[batch]``.
            level: the same as a number.
        """
        self._found = _Found(delta, sigma, level, self._block(level))
        self._last = level

    def at(self, sigma: Tensor, level: float) -> Tensor:
        """The difference for a call at which the bad version is not due; arguments as above."""
        self._last = level
        return formulas.carried_over(
            self._found.delta,
            self._found.sigma,
            sigma,
            self._noise.deviation,
            self._noise.is_flow,
        )

    def forget(self) -> None:
        """Carry nothing over from here."""
        self._found = None

    def _block(self, level: float) -> int:
        return self._noise.step_of(level) // self._every
