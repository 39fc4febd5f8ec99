"""Safe latent diffusion's rule, as a shape of the negative push, to compare with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import insides

_shapes: Any = insides.module(insides.SHAPES)


class SafeLatent(_shapes.Shape):
    """Push only where the two predictions are alike, or on the wrong side of each other.

    On noise predictions, ``μ = min(1, s_S |ε_C − ε_N|)`` where ``ε_C − ε_N < λ`` and 0 elsewhere,
    for each number of a latent (Schramowski et al. 2022, arXiv 2211.05105, eq. 6, as the authors'
    code has it); without warm-up and momentum.

    Args:
        safety: ``s_S``; the authors' medium setting.
        threshold: ``λ``, likewise.
    """

    node = "safe latent diffusion"

    def __init__(self, safety: float = 1000.0, threshold: float = 0.01) -> None:
        self._safety = safety
        self._threshold = threshold

    def start(self, noise: Any) -> Any:
        """Begin a run; nothing is remembered."""

        def shape(delta: Tensor, step: Any, strength: Any) -> Tensor:
            sigma = step.sigma
            if noise.is_flow:
                # Short of time 1, where predicted noise does not depend on the predicted image.
                sigma = sigma / (1 - sigma).clamp_min(1e-4)
            noise_difference = -delta / sigma.view(-1, *(1,) * (delta.ndim - 1))
            weight = (self._safety * noise_difference.abs()).clamp(max=1)
            return delta * weight * (noise_difference < self._threshold)

        return shape
