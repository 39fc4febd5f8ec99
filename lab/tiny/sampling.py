"""Load tiny models and draw with them, through ComfyUI's own loaders and sampler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from node_pack import EMPTY_CLASS, conditioning

from .judge import CLASSES

STEPS = 20
SAMPLER = "euler"
SCHEDULER = "simple"

Conditioning = list[list[Any]]


def load_model(path: Path) -> ModelPatcher:
    """A diffusion model, as UNETLoader gives it."""
    return comfy.sd.load_diffusion_model(str(path))


def load_vae(path: Path) -> comfy.sd.VAE:
    """An autoencoder, as VAELoader gives it."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


@torch.no_grad()
def sample_classes(
    model: ModelPatcher,
    vae: comfy.sd.VAE,
    each: int,
    cfg: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw every class as often, from the same noise whatever the model.

    Args:
        each: how many images of each class.
        cfg: scale of classifier-free guidance against the empty class; 1 is off.
        progress: called after each of the ten classes.

    Returns:
        Images [10 * each, 64, 64, 3] in 0..1, sorted by class.
    """
    pictures = []
    empty = conditioning(EMPTY_CLASS)
    for label in range(CLASSES):
        latent = torch.zeros(each, 16, 8, 8)
        prompt = conditioning(label)
        samples = sample_latent(model, latent, prompt, empty, seed=label, cfg=cfg)
        pictures.append(vae.decode(samples))
        progress()
    return torch.cat(pictures)


def sample_latent(
    model: ModelPatcher,
    latent: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    *,
    seed: int,
    cfg: float = 1.0,
    sampler: str = SAMPLER,
) -> Tensor:
    """Sample latents in the shape of an empty one."""
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed=seed),
        STEPS,
        cfg,
        sampler,
        SCHEDULER,
        positive,
        negative,
        latent,
        disable_pbar=True,
        seed=seed,
    )
