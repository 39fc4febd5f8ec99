"""Load the digit models and sample from them, through ComfyUI's own loaders and sampler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from node_pack import DIGIT_CLASSES, conditioning
from tiny import sampling
from tiny.sampling import SAMPLER, load_model, load_vae


@dataclass(frozen=True)
class DigitModels:
    """The models as ComfyUI's loader nodes give them."""

    main: ModelPatcher
    weak: ModelPatcher
    vae: comfy.sd.VAE


def load_models(folder: Path) -> DigitModels:
    """Load digits_main, digits_weak and digits_vae as UNETLoader and VAELoader do."""
    return DigitModels(
        main=load_model(folder / "digits_main.safetensors"),
        weak=load_model(folder / "digits_weak.safetensors"),
        vae=load_vae(folder / "digits_vae.safetensors"),
    )


def with_bold_lora(model: ModelPatcher, folder: Path, strength: float = 1.0) -> ModelPatcher:
    """The main model with digits_bold_lora on it, as LoraLoaderModelOnly puts it there."""
    lora = comfy.utils.load_torch_file(str(folder / "digits_bold_lora.safetensors"))
    bold, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)
    return bold


def sample_latent(
    model: ModelPatcher,
    latent: Tensor,
    positive: str,
    negative: str = "none",
    *,
    seed: int,
    cfg: float = 1.0,
    sampler: str = SAMPLER,
) -> Tensor:
    """Sample latents, in the shape of an empty one, for "0".."9" or "none" as prompts."""
    prompts = (conditioning(DIGIT_CLASSES.index(name)) for name in (positive, negative))
    return sampling.sample_latent(model, latent, *prompts, seed=seed, cfg=cfg, sampler=sampler)
