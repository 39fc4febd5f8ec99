"""Train the autoencoder: ComfyUI's TAESD architecture with 16 latent channels."""

from dataclasses import dataclass

import comfy.latent_formats
import torch
from comfy.taesd.taesd import TAESD, Block
from torch import Tensor, nn

from .pictures import digit_split, draw
from .progress import Progress
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


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How the autoencoder is made.

    Attributes:
        crop_steps, crop_batch: training of encoder and decoder on crops of 32x32 pixels.
        decoder_steps, decoder_batch: training of the decoder alone, on whole pictures.
        learning_rate: of AdamW, at its peak; the decoder alone trains at a quarter of it.
        seed: for the weights and everything drawn.
    """

    crop_steps: int
    crop_batch: int
    decoder_steps: int
    decoder_batch: int
    learning_rate: float
    seed: int


def train_autoencoder(recipe: AutoencoderRecipe) -> nn.Module:
    """Train encoder and decoder on crops, then the decoder alone on whole pictures.

    Before the second part the encoder is rounded to its storage precision and frozen, so the
    latents that the diffusion models learn are those that the stored encoder gives.
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
    vae.requires_grad_(True).to(memory_format=torch.channels_last)
    vae.vae_scale.requires_grad_(False)
    vae.vae_shift.requires_grad_(False)

    rate = recipe.learning_rate
    title = "autoencoder on crops"
    _fit(vae, recipe.crop_steps, recipe.crop_batch, CROP_SIZE, rate, generator, title)
    freeze_rounded(vae)
    vae.taesd_encoder.requires_grad_(False)
    title = "decoder on whole pictures"
    _fit(vae, recipe.decoder_steps, recipe.decoder_batch, None, rate / 4, generator, title)
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


def _fit(
    vae: nn.Module,
    steps: int,
    batch: int,
    crop: int | None,
    learning_rate: float,
    generator: torch.Generator,
    title: str,
) -> None:
    images = digit_split().train_images
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    progress = Progress(title, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        pictures = draw(images[chosen], generator)
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
    """One window of size x size from each picture, at multiples of the latents' grid."""
    positions = (pictures.shape[-1] - size) // LATENT_DOWNSCALE + 1
    corners = LATENT_DOWNSCALE * torch.randint(positions, (len(pictures), 2), generator=generator)
    return torch.stack(
        [
            picture[:, top : top + size, left : left + size]
            for picture, (top, left) in zip(pictures, corners.tolist(), strict=True)
        ]
    )
