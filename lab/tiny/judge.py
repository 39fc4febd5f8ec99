"""A small classifier of images that knows nothing of the diffusion models.

It is trained on real images only. What it answers says whether an image shows what was asked
for, and its features are the space in which sets of images are compared.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .pictures import Source
from .progress import Progress
from .recipes import JudgeRecipe
from .storage import save_weights

CLASSES = 10
WIDTHS = (24, 48, 64, 64)


class Judge(nn.Module):
    """Four halvings of the image, the mean over what is left, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """[B, 64, 64, 3] in 0..1, ComfyUI's IMAGE layout -> [B, 64]."""
        return self.body(images.movedim(-1, 1) * 2 - 1).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 64, 64, 3] in 0..1 -> [B, 10], logits."""
        return self.head(self.features(images))

    @torch.inference_mode()
    def read(self, images: Tensor) -> Tensor:
        """[B, 64, 64, 3] in 0..1 -> the class that each is taken for, int64 [B]."""
        return torch.cat([self(some).argmax(dim=1) for some in images.split(256)])


def train_judge(recipe: JudgeRecipe, source: Source) -> Judge:
    """Train a classifier on images of a source, every class as often."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=recipe.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    by_class = 1 / torch.bincount(source.labels, minlength=CLASSES).float()
    progress = Progress("classifier", recipe.steps)
    for _ in range(recipe.steps):
        chosen = torch.multinomial(
            by_class[source.labels], recipe.batch, replacement=True, generator=generator
        )
        images = source.draw(chosen, generator, 64, 64).movedim(1, -1)
        logits = judge(images)
        loss = nn.functional.cross_entropy(logits, source.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = (logits.argmax(1) == source.labels[chosen]).float().mean()
        progress.step(loss=loss.item(), right=right.item())
    return judge.requires_grad_(False).eval()


def save_judge(judge: Judge, path: Path, recipe: JudgeRecipe) -> None:
    """Write a classifier in float16, with its recipe as metadata."""
    save_weights(judge, path, asdict(recipe), coarse=())


def load_judge(path: Path) -> Judge:
    """The classifier in a file."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.requires_grad_(False).eval()
