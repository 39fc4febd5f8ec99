"""What the cards of tiny models share: tables of their files, and figures of what they draw."""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from comfyui.library import ASSETS
from tabular import markdown_table

from .comfyui import start_comfyui
from .judge import CLASSES
from .pictures import as_image
from .progress import Progress

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

SHEET_SAMPLES = 2  # of each class


@dataclass(frozen=True)
class Way:
    """A way of sampling.

    Attributes:
        name: in words.
        model: guided or not.
        cfg: scale of classifier-free guidance against the empty class; 1 is off.
    """

    name: str
    model: ModelPatcher
    cfg: float = 1.0


@dataclass(frozen=True)
class Reading:
    """How many images of one way of sampling are read as what was asked for.

    Attributes:
        way: its name.
        right: share of all images.
        worst: the class that is read right least often.
        worst_right: share of its images.
    """

    way: str
    right: float
    worst: int
    worst_right: float


@dataclass(frozen=True)
class Files:
    """Tables about some files of weights.

    Attributes:
        files: their sizes and checksums, in Markdown.
        recipes: how they were trained, in Markdown.
        total: how many bytes they take together.
    """

    files: str
    recipes: str
    total: int


def command(description: str, each: int, write: Callable[[Path, int, Path | None], None]) -> None:
    """The command line of what measures tiny models.

    Args:
        description: of the command.
        each: how many images of each class are drawn if nothing else is asked for.
        write: writes the card from the folder of the files, the number of images of each class,
            and where to write a PNG with some of them, if anywhere.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--each", type=int, default=each, help="images of each class")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the files")
    parser.add_argument("--sheet", type=Path, help="also write a PNG with some of the images")
    options = parser.parse_args()
    start_comfyui()
    write(options.out, options.each, options.sheet)


def describe(folder: Path, names: Sequence[str]) -> Files:
    """Tables about the files of these names."""
    files, recipes, total = [], [], 0
    for name in names:
        content = (folder / name).read_bytes()
        with safe_open(folder / name, framework="pt") as stored:
            recipe = json.loads(stored.metadata()["recipe"])
            shapes = [stored.get_slice(key).get_shape() for key in stored.keys()]  # noqa: SIM118
        weights = sum(map(math.prod, shapes))
        checksum = sha256(content).hexdigest()
        files.append((f"`{name}`", f"{weights:,}", f"{len(content):,}", f"`{checksum}`"))
        numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items())
        recipes.append((f"`{name}`", numbers))
        total += len(content)
    return Files(
        markdown_table(("file", "weights", "bytes", "SHA-256"), files),
        markdown_table(("file", "how it was trained"), recipes),
        total,
    )


def draw(
    ways: Sequence[Way],
    vae: VAE,
    each: int,
    read: Callable[[Tensor], Tensor | np.ndarray],
    sheet: Path | None = None,
) -> Iterator[tuple[Reading, Tensor]]:
    """Draw the same images in several ways, and have them read.

    Args:
        ways: of sampling.
        vae: decodes what they sample.
        each: how many images of each class.
        read: from images to the classes that they are taken for, int64 [B].
        sheet: where to write a PNG with some of the images at the end, one row for each way.

    Returns:
        For each way what was read, and the images, [10 * each, 64, 64, 3], sorted by class.
    """
    # ComfyUI can be imported only once it has been started, which is after this module is read.
    from .sampling import sample_classes

    rows = []
    for way in ways:
        progress = Progress(way.name, CLASSES)
        pictures = sample_classes(way.model, vae, each, way.cfg, progress.step)
        taken_for = torch.as_tensor(read(pictures)).view(CLASSES, each)
        right = (taken_for == torch.arange(CLASSES)[:, None]).float()
        worst = int(right.mean(dim=1).argmin())
        reading = Reading(way.name, float(right.mean()), worst, float(right[worst].mean()))
        print(f"{way.name}: {reading.right:.1%} read right", flush=True)
        some = pictures.unflatten(0, (CLASSES, each))[:, :SHEET_SAMPLES].flatten(0, 1)
        rows.append(torch.cat(list(some), dim=1))
        yield reading, pictures
    if sheet is not None:
        as_image(torch.cat(rows)).save(sheet)


def reading_table(readings: Sequence[Reading], classes: Sequence[str], thing: str) -> str:
    """What was read, in Markdown.

    Args:
        classes: their names.
        thing: what they are.
    """
    rows = [
        (each.way, f"{each.right:.1%}", f"{classes[each.worst]}, {each.worst_right:.0%}")
        for each in readings
    ]
    return markdown_table(("way of sampling", "read right", f"worst {thing}"), rows)


@torch.no_grad()
def reconstruction_psnr(vae: VAE, pictures: Tensor) -> float:
    """PSNR in dB of images [B, 64, 64, 3] in 0..1 that are encoded and decoded."""
    error = vae.decode(vae.encode(pictures)).cpu() - pictures
    return -10 * math.log10(error.square().mean().item())


def circumstances() -> str:
    """How and on what everything was sampled."""
    import comfyui_version

    from .sampling import SAMPLER, SCHEDULER, STEPS

    return (
        f"{SAMPLER.capitalize()}, {STEPS} steps, scheduler *{SCHEDULER}*, "
        f"ComfyUI {comfyui_version.__version__}, torch {torch.__version__}, "
        f"on the CPU ({platform.machine()})"
    )
