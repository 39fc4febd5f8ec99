"""The arithmetic of guidance, on denoised predictions.

Every method has the one form ``guided = C + Σ (scale − 1)(C − R)``: a push of the main model's
prediction ``C`` away from the prediction ``R`` of a bad version. Tensors are ``[batch, channels,
*spatial]`` of any floating dtype and on any device; results keep both.
"""

from __future__ import annotations

from torch import Tensor


def add_leg(guided: Tensor, C: Tensor, R: Tensor, scale: float) -> Tensor:
    """Add one leg's push away from a bad version: ``guided + (scale − 1)(C − R)``.

    With ``guided = C`` and the weak model's prediction as ``R`` this is autoguidance,
    ``W + w(C − W)`` (Karras et al. 2024, arXiv 2406.02507, eq. 4, on denoisers). With the result of
    classifier-free guidance as ``guided`` it is autoguidance and classifier-free guidance
    together, ``C + (s − 1)(C − N) + (w − 1)(C − W)`` (the same paper, appendix B.2).

    Args:
        guided: prediction so far, to which the legs before this one have been added.
        C: the main model's denoised prediction for the positive conditioning.
        R: the bad version's denoised prediction at the same latent and sigma.
        scale: guidance scale; 1 adds nothing, above 1 pushes away from ``R``, below 1 pulls
            towards it.

    Returns:
        A new tensor of the shape of ``guided``.
    """
    return guided.add(C - R, alpha=scale - 1.0)
