"""Train the autoencoder: ComfyUI's TAESD architecture with 16 latent channels."""

from collections.abc import Mapping
from dataclasses import dataclass

import comfy.latent_formats
import torch
from comfy.taesd.taesd import TAESD, Block
from torch import Tensor, nn

from .pictures import Source
from .progress import Progress
from .recipes import AutoencoderRecipe
from .storage import freeze_rounded

LATENT_FORMAT = comfy.latent_formats.SD3()
LATENT_CHANNELS = LATENT_FORMAT.latent_channels
LATENT_DOWNSCALE = 8

# Noise added to the latents in training, in their unit scale, so that the decoder forgives the
# small errors of a diffusion model.
LATENT_NOISE = 0.1
LATENT_STATISTICS_WEIGHT = 0.02

# The networks are convolutions only: crops of half the size teach the same at a quarter the cost.
CROP_SIZE = 32


def train_autoencoder(
    recipe: AutoencoderRecipe, source: Source, start: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Train encoder and decoder on crops, then the decoder alone on whole images.

    Before the second part the encoder is rounded to its storage precision and frozen, so the
    decoder learns to read the latents that the stored encoder gives.

    Args:
        recipe: how.
        source: of the images.
        start: weights of another autoencoder to begin with, instead of random ones.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    vae = TAESD(latent_channels=LATENT_CHANNELS)
    _initialise(vae)
    # ComfyUI hands (latent - shift_factor) * scale_factor to an SD3 model. With the same two
    # numbers in the autoencoder they cancel: the diffusion models see the encoder's bare output,
    # which training keeps near mean 0 and standard deviation 1.
    vae.vae_scale.data.fill_(LATENT_FORMAT.scale_factor)
    vae.vae_shift.data.fill_(LATENT_FORMAT.shift_factor)
    if start is not None:
        vae.load_state_dict({name: value.float() for name, value in start.items()})
    vae.requires_grad_(True).to(memory_format=torch.channels_last)
    vae.vae_scale.requires_grad_(False)
    vae.vae_shift.requires_grad_(False)

    rate, warm_up = recipe.learning_rate, recipe.warm_up
    crops = _Phase("autoencoder on crops", recipe.crop_steps, recipe.crop_batch, rate, warm_up)
    _fit(vae, source, generator, crops, crop=CROP_SIZE)
    freeze_rounded(vae)
    vae.taesd_encoder.requires_grad_(False)
    whole = _Phase(
        "decoder on whole images", recipe.decoder_steps, recipe.decoder_batch, rate / 4, warm_up
    )
    _fit(vae, source, generator, whole, crop=None)
    return vae.requires_grad_(False).eval()


@torch.no_grad()
def _initialise(vae: nn.Module) -> None:
    """Give every convolution its starting weights; ComfyUI's layers leave them to a checkpoint.

    He's scheme, with each residual branch started at a tenth, so that the deep stack begins close
    to a plain chain of down- and upscaling.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, Block):
            module.conv[-1].weight.mul_(0.1)


@dataclass(frozen=True)
class _Phase:
    """A part of training, with AdamW's learning rate in one rise and fall."""

    title: str
    steps: int
    batch: int
    learning_rate: float
    warm_up: float


def _fit(
    vae: nn.Module, source: Source, generator: torch.Generator, phase: _Phase, crop: int | None
) -> None:
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.learning_rate, phase.steps, pct_start=phase.warm_up
    )
    progress = Progress(phase.title, phase.steps)
    for _ in range(phase.steps):
        pictures = source.sample(phase.batch, generator)
        if crop is not None:
            pictures = _random_crops(pictures, crop, generator)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.taesd_encoder(pictures.contiguous(memory_format=torch.channels_last))
            noise = torch.randn(latents.shape, generator=generator)
            decoded = vae.taesd_decoder(latents + LATENT_NOISE * noise)
        error = decoded.float() - pictures
        reconstruction = error.square().mean() + 0.1 * error.abs().mean()
        loss = reconstruction + LATENT_STATISTICS_WEIGHT * _unit_scale_penalty(latents.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.step(loss=loss.item(), rms_error=error.square().mean().sqrt().item())


def _unit_scale_penalty(latents: Tensor) -> Tensor:
    """How far each latent channel is from mean 0 and standard deviation 1; [B, C, h, w] -> []."""
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return (mean.square() + (deviation + 1e-4).log().square()).mean()


def _random_crops(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One window of size x size from each image, at multiples of the latents' grid."""
    positions = (pictures.shape[-1] - size) // LATENT_DOWNSCALE + 1
    corners = LATENT_DOWNSCALE * torch.randint(positions, (len(pictures), 2), generator=generator)
    return torch.stack(
        [
            picture[:, top : top + size, left : left + size]
            for picture, (top, left) in zip(pictures, corners.tolist(), strict=True)
        ]
    )
