"""What a sampler has visited on its way down, as state that lasts over the steps needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from .noise import TOLERANCE

State = TypeVar("State")

# More than any sampler goes back within a step. Each may hold latents.
_KEPT = 4


class Trajectory(Generic[State]):
    """The states of the steps that a sampler has taken, without those it only tried.

    Samplers of higher order call the model in between two sigmas of the run (DPM-Solver-2,
    DPM++ SDE), or ahead at the next one, to come there again from a better direction (Heun). A step
    is what starts at the last accepted call above the present one. Where sigma rises again
    (restarts), what is below is forgotten: a rise above all that was visited starts afresh, and one
    above all that is still remembered starts at the highest that is. Noise that is added before a
    step ("churn", which no node of ComfyUI's own sets) may make a call in between look like a step.

    Args:
        sigmas: the run's sigmas, falling.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sorted(sigmas, reverse=True)
        self._visited: list[tuple[float, State]] = []
        self._is_between = False
        self._has_forgotten = False

    def before(self, sigma: float) -> State | None:
        """The state from which the step to ``sigma`` starts; None at the first call of a run."""
        if self._visited and self._is_between:
            self._visited.pop()
        self._is_between = False
        highest = None
        while self._visited and self._visited[-1][0] <= sigma * (1 + TOLERANCE):
            highest = self._visited.pop()
        if self._visited:
            return self._visited[-1][1]
        return highest[1] if highest is not None and self._has_forgotten else None

    def visit(self, sigma: float, state: State) -> None:
        """Remember the state at ``sigma``, after :meth:`before` was asked for it."""
        if self._visited:
            last = self._visited[-1][0]
            following = next((s for s in self._sigmas if s < last * (1 - TOLERANCE)), 0.0)
            self._is_between = sigma > following * (1 + TOLERANCE)
        self._visited.append((sigma, state))
        if len(self._visited) > _KEPT:
            del self._visited[0]
            self._has_forgotten = True
