"""A weak model that sees the latent at half of its size, a quarter of its work.

It is tried here, and is no node of the pack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "coarse"


def coarse_version(model: ModelPatcher) -> ModelPatcher:
    """A clone of a flow model that predicts from a latent of half the height and width.

    Only what differs on the coarse latent is of use: the fine part of its prediction is that of the
    latent it was given, so that nothing but the coarse part of ``C − W`` means anything.
    """
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _on_coarse_latent)
    return clone


def _on_coarse_latent(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of ``apply_model``: from noisy latents [B, C, h, w] at sigma [B] to denoised ones.

    The mean of four values has half of their noise. So the coarse latent is one of another sigma,
    ``σ'/(1 − σ') = ½ σ/(1 − σ)``, once its signal is brought from ``1 − σ`` to ``1 − σ'``.
    """
    sigma = t.float()
    coarse_sigma = sigma / (2 - sigma)
    larger = (2 / (2 - sigma)).view(-1, *(1,) * (x.ndim - 1))
    coarse = F.avg_pool2d(x, 2) * larger
    denoised = executor(coarse, coarse_sigma.to(t.dtype), *args, **kwargs)
    return F.interpolate(denoised, scale_factor=2.0, mode="bilinear")
