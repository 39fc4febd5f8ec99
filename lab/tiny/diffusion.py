"""Train the diffusion models: ComfyUI's SD3 transformer (MMDiT), very small, on latents.

Rectified flow exactly as ComfyUI samples it: x_t = (1 - sigma) x0 + sigma * noise, the network
sees (x_t, 1000 * sigma) and predicts the velocity noise - x0, and sigma is drawn from the SD3
schedule, uniform before its shift of 3.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import comfy.ops
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import (
    OpenAISignatureMMDITWrapper,
    get_2d_sincos_pos_embed,
)
from comfy.model_sampling import ModelSamplingDiscreteFlow
from torch import Tensor, nn

from node_pack import CONTEXT_WIDTH, EMPTY_CLASS, embed_classes

from .autoencoder import LATENT_CHANNELS, LATENT_DOWNSCALE
from .pictures import Source
from .progress import Progress
from .recipes import Recipe
from .storage import freeze_rounded

PATCH_SIZE = 2
# Position embeddings for 16x16 patches, latents of 32x32, images of 256x256. ComfyUI cuts the
# middle out of them for smaller latents.
POSITIONS = 16
CLASS_DROPOUT = 0.12
EMA_DECAY = 0.999
SAMPLING = ModelSamplingDiscreteFlow(comfy.supported_models.SD3)

# Latent sizes (height, width) and how often they are trained on: mostly 64x64 images, some
# larger and oblong ones, with something on them that grows with their shorter side.
LATENT_SIZES = {(8, 8): 0.88, (12, 12): 0.04, (8, 12): 0.04, (12, 8): 0.04}
# So many originals are drawn for each size but 64x64, which gets all of them, several times.
ORIGINALS_AT_OTHER_SIZES = 500


@dataclass(frozen=True)
class LatentBank:
    """Latents in the diffusion model's scale, [N, 16, h, w], with their labels, int64 [N]."""

    latents: Tensor
    labels: Tensor


# By the size of the latents.
Banks = dict[tuple[int, int], LatentBank]


@torch.no_grad()
def encode_pictures(
    vae: nn.Module,
    source: Source,
    copies: int,
    seed: int,
    sizes: Iterable[tuple[int, int]] = LATENT_SIZES,
) -> Banks:
    """Draw and encode every original `copies` times at 64x64, and some at each other size."""
    generator = torch.Generator().manual_seed(seed)
    vae.to(memory_format=torch.channels_last)
    banks = {}
    for size in sizes:
        if size == (8, 8):
            chosen = torch.arange(len(source.labels)).repeat(copies)
        else:
            chosen = torch.randperm(len(source.labels), generator=generator)
            chosen = chosen[:ORIGINALS_AT_OTHER_SIZES]
        height, width = (side * LATENT_DOWNSCALE for side in size)
        batches = chosen.split(32)
        progress = Progress(f"latents of {height}x{width} images", len(batches))
        latents = []
        for batch in batches:
            # The bare encoder: its own scale and shift undo ComfyUI's (see autoencoder.py).
            latents.append(vae.taesd_encoder(source.draw(batch, generator, height, width)))
            progress.step()
        banks[size] = LatentBank(torch.cat(latents), source.labels[chosen])
    return banks


def build_mmdit(depth: int) -> nn.Module:
    """A new transformer with the configuration that ComfyUI will detect from its state dict."""
    model = OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=PATCH_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        depth=depth,
        adm_in_channels=CONTEXT_WIDTH,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": CONTEXT_WIDTH, "out_features": 64 * depth},
        },
        num_patches=POSITIONS**2,
        pos_embed_max_size=POSITIONS,
        qk_norm="rms",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    # ComfyUI's layers leave their weights uninitialised: they expect a checkpoint. The scheme is
    # DiT's (arXiv 2212.09748): every block starts as the identity, the output as 0.
    for name, parameter in model.named_parameters():
        if name.endswith(("ln_q.weight", "ln_k.weight")):
            nn.init.ones_(parameter)
        elif parameter.ndim == 1 or "adaLN" in name or name == "final_layer.linear.weight":
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1))
    positions = get_2d_sincos_pos_embed(model.hidden_size, POSITIONS)
    model.pos_embed.copy_(torch.from_numpy(positions)[None])
    return model.requires_grad_(True)


def train_mmdit(recipe: Recipe, banks: Banks, title: str) -> nn.Module:
    """Train one transformer from scratch and return it ready to be saved."""
    generator = torch.Generator().manual_seed(recipe.seed)
    *_, average = train_averaged(recipe, banks, title, generator)
    average = average.requires_grad_(True)
    freeze_rounded(average)
    optimizer = adamw(average, recipe.learning_rate / 4)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=recipe.anneal_steps)
    progress = Progress(f"{title}, annealing", recipe.anneal_steps)
    for _ in range(recipe.anneal_steps):
        loss = flow_matching_loss(average, banks, recipe.batch, generator)
        optimize(average, optimizer, fall, loss)
        progress.step(loss=loss.item())
    return average.requires_grad_(False).eval()


def train_averaged(
    recipe: Recipe, banks: Banks, title: str, generator: torch.Generator
) -> Iterator[nn.Module]:
    """Train one transformer from scratch; after every step, gives the average of its weights.

    It is the same module each time, so that a snapshot is a copy of it.
    """
    torch.manual_seed(recipe.seed)
    model = build_mmdit(recipe.depth)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = adamw(model, recipe.learning_rate)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
    progress = Progress(title, recipe.steps)
    for step in range(recipe.steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow_matching_loss(model, banks, recipe.batch, generator)
        optimize(model, optimizer, warm_up, loss)
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        progress.step(loss=loss.item())
        yield average


def flow_matching_loss(
    model: nn.Module,
    banks: Banks,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the velocity on a random batch; scalar."""
    weights = torch.tensor([LATENT_SIZES[size] for size in banks])
    size = list(banks)[torch.multinomial(weights, 1, generator=generator).item()]
    bank = banks[size]
    chosen = torch.randint(len(bank.latents), (batch,), generator=generator)
    x0, classes = bank.latents[chosen], bank.labels[chosen]
    dropped = torch.rand(batch, generator=generator) < CLASS_DROPOUT
    context, pooled = embed_classes(classes.where(~dropped, EMPTY_CLASS))

    sigma = SAMPLING.sigma(SAMPLING.multiplier * torch.rand(batch, generator=generator))
    noise = torch.randn(x0.shape, generator=generator)
    noisy = torch.lerp(x0, noise, sigma[:, None, None, None])
    velocity = model(noisy, SAMPLING.timestep(sigma), context=context, y=pooled)
    return (velocity.float() - (noise - x0)).square().mean()


def adamw(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        trainable, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )


def optimize(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: Tensor,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
