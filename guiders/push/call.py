"""One model call, as the schedules and shapes of one leg see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .noise import Noise

if TYPE_CHECKING:
    from .formulas import Scale

# A conditioning as nodes pass it on: pairs of a text embedding and a dictionary.
Conditioning = list[list[Any]]


@dataclass(frozen=True)
class Step:
    """What is known at one model call of a run. Tensors are on the device of ``x``.

    Attributes:
        noise: of the run.
        x: noisy latent, ``[batch, channels, *spatial]``.
        sigma: its noise level, ``[batch]``.
        C: the main model's prediction for the positive conditioning.
        R: the prediction of this leg's bad version.
        difference: ``C − R``.
        other: the other leg's ``C − R``; None where there is no other leg, or it is off.
        predict: the main model's prediction for another conditioning, which one of this leg's
            shapes has named.
        measure_level: for :attr:`level`.
    """

    noise: Noise
    x: Tensor
    sigma: Tensor
    C: Tensor
    R: Tensor
    difference: Tensor
    other: Callable[[], Tensor | None]
    predict: Callable[[Conditioning], Tensor]
    measure_level: Callable[[], float]

    @property
    def level(self) -> float:
        """Sigma as a number, for which the device has to be waited for."""
        return self.measure_level()


# One leg's shape during a run: from a difference and the scale, less 1, to another difference.
RunningShape = Callable[[Tensor, Step, "Scale"], Tensor]

# One leg's schedule during a run: the factor of its scale, less 1.
RunningSchedule = Callable[[Step], Tensor]
