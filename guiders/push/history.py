"""A push away from the image's own past, for which no model predicts anything.

The bad version is what the steps so far make of the image: a running mean of the sampler's own
results. What is measured from, and pushed, is the sampler's result ``D``, all other pushes
included, instead of ``C``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import formulas
from .memory import Trajectory
from .schedules import NoiseWindow
from .shapes import HighPass, Projected

if TYPE_CHECKING:
    from torch import Tensor

    from .noise import Noise
    from .schedules import Schedule
    from .shapes import Shape

MODES = ("momentum", "average")


@dataclass(frozen=True)
class History:
    """The image's own past as a bad version.

    Attributes:
        mode: "momentum" for a mean of velocities, ``R = x − σ · m`` (momentum guidance, arXiv
            2602.20360), "average" for a mean of predictions, ``R = g`` (HiGS, Sadat et al. 2025,
            arXiv 2509.22300).
        memory: ``β``, 0 to 1, how much of the mean stays at each step; HiGS has ``1 − α``.
    """

    mode: str
    memory: float

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """When to push, as published."""
        if self.mode == "momentum":
            return (NoiseWindow(0.95, 0.3, fades=False),)
        return (NoiseWindow(1.0, 0.4, fades=True),)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What is left of the difference before all else, as published."""
        if self.mode == "momentum":
            return ()
        return Projected(eta=0.0, norm_threshold=0.0, momentum=0.0), HighPass(cutoff=0.05)

    def start(self, noise: Noise) -> RunningHistory:
        """Begin a run, with no past."""
        return RunningHistory(self, noise)


class RunningHistory:
    """The past of the images of one run, along the steps that its sampler keeps."""

    def __init__(self, history: History, noise: Noise) -> None:
        self._history = history
        self._trajectory: Trajectory[Tensor] = Trajectory(noise.sigmas)

    def bad_version(self, x: Tensor, sigma: Tensor, level: float, D: Tensor) -> Tensor | None:
        """What the past makes of the image at a call, and remember the call.

        To be asked at each call of the run, whether or not there is a push.

        Args:
            x: noisy latent ``[batch, channels, *spatial]``.
            sigma: its noise level, ``[batch]``.
            level: the same as a number.
            D: the sampler's result, without any push of this kind.

        Returns:
            A tensor like ``D``; None where there is no past yet.
        """
        beta = self._history.memory
        before = self._trajectory.before(level, D)
        if self._history.mode == "average":
            self._trajectory.visit(level, formulas.mean_prediction(D, before, beta))
            return before
        spread = sigma.view(-1, *(1,) * (x.ndim - 1)).to(x.dtype)
        v = (x - D) / spread
        self._trajectory.visit(level, formulas.mean_velocity(v, before, beta))
        return None if before is None else torch.addcmul(x, before, spread, value=-1)
