"""What lasts over the steps of a run: states of the sampler, and a push that is used again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Size, Tensor

from . import formulas
from .noise import TOLERANCE, Noise

State = TypeVar("State")

# More than any sampler goes back within a step. Each may hold latents.
_KEPT = 4


class _OfOneSize(ABC):
    """What is remembered of latents of one size, and means nothing to those of another.

    A sampler may change the size between two steps, to refine a larger image. All that was known of
    the smaller one is forgotten then.
    """

    def __init__(self) -> None:
        self._size: Size | None = None

    @abstractmethod
    def forget(self) -> None:
        """Remember nothing, as at the first call of a run."""

    def _meet(self, latent: Tensor) -> None:
        """To be called before anything else at each model call, with any latent of it."""
        if self._size is not None and latent.shape != self._size:
            self.forget()
        self._size = latent.shape


class Trajectory(_OfOneSize, Generic[State]):
    """The states of the steps that a sampler has taken, without those it only tried.

    Samplers of higher order call the model in between two sigmas of the run (DPM-Solver-2,
    DPM++ SDE), or ahead at the next one, to come there again from a better direction (Heun). A step
    is what starts at the last accepted call above the present one. Where sigma rises again
    (restarts), what is below is forgotten: a rise to where the run began starts afresh, and one
    above all that is still remembered starts at the highest that is. Noise that is added before a
    step ("churn", which no node of ComfyUI's own sets) may make a call in between look like a step.
    Latents of another size have no step in common with those before.

    Args:
        sigmas: the run's sigmas, falling.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self._sigmas = sorted(sigmas, reverse=True)
        self._visited: list[tuple[float, State]] = []
        self._is_between = False
        self._has_forgotten = False
        self._top = 0.0  # The highest that was visited.

    def before(self, sigma: float, latent: Tensor) -> State | None:
        """The state from which the step to ``sigma`` starts; None at the first call of a run.

        Args:
            sigma: of this model call.
            latent: of this model call, of whose size the states are.
        """
        self._meet(latent)
        if self._visited and self._is_between:
            self._visited.pop()
        self._is_between = False
        highest = None
        while self._visited and self._visited[-1][0] <= sigma * (1 + TOLERANCE):
            highest = self._visited.pop()
        if self._visited:
            return self._visited[-1][1]
        is_below_top = sigma < self._top * (1 - TOLERANCE)
        return highest[1] if self._has_forgotten and is_below_top and highest else None

    def visit(self, sigma: float, state: State) -> None:
        """Remember the state at ``sigma``, after :meth:`before` was asked for it."""
        if self._visited:
            last = self._visited[-1][0]
            following = next((s for s in self._sigmas if s < last * (1 - TOLERANCE)), 0.0)
            self._is_between = sigma > following * (1 + TOLERANCE)
        self._visited.append((sigma, state))
        self._top = max(self._top, sigma)
        if len(self._visited) > _KEPT:
            del self._visited[0]
            self._has_forgotten = True

    def forget(self) -> None:
        """Start afresh from here."""
        self._visited.clear()
        self._is_between = self._has_forgotten = False
        self._top = 0.0


class _Found(NamedTuple):
    delta: Tensor
    sigma: Tensor
    level: float
    block: int


class Carried(_OfOneSize):
    """The difference ``C − R`` that was found last in a run, for the model calls after it.

    The steps of a run are taken in blocks. The bad version predicts at the first call of each
    block, and again where the push was off before, or where a sampler has come back to more noise
    (restarts) or goes on in another size: what was found until then is of another image.

    Args:
        every: steps in a block, at least 2.
        noise: of the run.
    """

    def __init__(self, every: int, noise: Noise) -> None:
        super().__init__()
        self._every = every
        self._noise = noise
        self._found: _Found | None = None
        self._last = 0.0

    def is_due(self, latent: Tensor, level: float) -> bool:
        """Whether the bad version is to predict at the call of this latent and sigma."""
        self._meet(latent)
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
