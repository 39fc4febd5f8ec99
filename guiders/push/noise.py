"""What a model means by a sigma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .parts import Parts

# Samplers compute their sigmas in their own way; neighbours on a schedule lie further apart.
TOLERANCE = 1e-4

_BISECTIONS = 30


@dataclass(frozen=True)
class Noise:
    """The noise of a model, and of one sampling run.

    Attributes:
        is_flow: whether a noisy latent is ``(1 − σ) · data + σ · noise``, and sigma a time from 0
            to 1, rather than ``data + σ · noise``.
        percent_to_sigma: ComfyUI's own way from the share of sampling that is done, 0 to 1, to the
            sigma at that point.
        deviation: standard deviation of the model's latents without noise.
        sigmas: those of the run, falling.
        parts: shapes of the parts of the run's latents, without the batch; none where a latent has
            no parts.
    """

    is_flow: bool
    percent_to_sigma: Callable[[float], float]
    deviation: float = 1.0
    sigmas: tuple[float, ...] = ()
    parts: Parts = ()
    _percents: dict[float, float] = field(default_factory=dict, repr=False, compare=False)

    def percent_of(self, sigma: float) -> float:
        """The share of sampling, 0 to 1, that is done at ``sigma``."""
        if sigma not in self._percents:
            # ComfyUI goes from percent to sigma only, and every kind of model by another formula.
            low, high = 0.0, 1.0
            for _ in range(_BISECTIONS):
                middle = (low + high) / 2
                if float(self.percent_to_sigma(middle)) > sigma:
                    low = middle
                else:
                    high = middle
            self._percents[sigma] = (low + high) / 2
        return self._percents[sigma]

    def step_of(self, sigma: float) -> int:
        """Number of the run's step that ``sigma`` belongs to: 0 for the first one, and above it.

        A step has the sigma that it starts at, and all between that and the next one.
        """
        return max(0, sum(each >= sigma * (1 - TOLERANCE) for each in self.sigmas) - 1)
