"""Measure the tiny models and write the card beside them.

    make card

Every figure on the card comes from here, through ComfyUI's own loaders and sampler.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from engine.install import comfyui_path
from engine.library import load_nodes

from .classifier import held_out_accuracy, read_digits
from .comfyui import start_comfyui
from .pictures import digit_split, draw, ink_share
from .progress import Progress

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

ASSETS = Path(__file__).parents[1] / "assets"
FILES = (
    "digits_main.safetensors",
    "digits_weak.safetensors",
    "digits_bold_lora.safetensors",
    "digits_vae.safetensors",
)
AUTOGUIDANCE_SCALES = (2.0, 2.5)
CFG_SCALES = (2.0,)
SHEET_SAMPLES = 2  # of each digit
MAIN_ALONE = "main model alone"
MAIN_BOLD = "main with the LoRA for bold strokes"


@dataclass(frozen=True)
class Reading:
    """How many pictures of one way of sampling the classifier reads as the digit asked for."""

    method: str
    right: int
    pictures: int
    worst_digit: int
    worst_share: float


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-digit", type=int, default=100, help="samples of each digit")
    parser.add_argument("--sheet", type=Path, help="also write a PNG with some of the samples")
    options = parser.parse_args()
    write_card(ASSETS, options.per_digit, options.sheet)


def write_card(folder: Path, per_digit: int, sheet: Path | None = None) -> None:
    """Measure the models in `folder` and write `folder/README.md`.

    Args:
        per_digit: samples of each digit for every way of sampling.
        sheet: where to write a PNG with some of the samples, one row per way of sampling.
    """
    start_comfyui()
    from rig import call

    from .sampling import load_models, sample_digits, with_bold_lora

    models = load_models(folder)
    patch = load_nodes(comfyui_path())["BadVersionPatch"]
    ways: list[tuple[str, ModelPatcher, float]] = [
        ("weak model alone", models.weak, 1.0),
        (MAIN_ALONE, models.main, 1.0),
    ]
    for scale in AUTOGUIDANCE_SCALES:
        (guided,) = call(patch, model=models.main, weak_model=models.weak, weak_scale=scale)
        ways.append((f"main, autoguidance with the weak one, w = {scale}", guided, 1.0))
    for scale in CFG_SCALES:
        ways.append((f"main, classifier-free guidance, scale {scale}", models.main, scale))
    ways.append((MAIN_BOLD, with_bold_lora(models.main, folder), 1.0))

    readings, rows, ink = [], [], {}
    for method, model, cfg in ways:
        progress = Progress(method, 10)
        pictures = sample_digits(model, models.vae, per_digit, cfg=cfg, progress=progress.step)
        readings.append(_read(method, pictures))
        ink[method] = ink_share(pictures)
        print(f"{method}: {readings[-1].right} of {readings[-1].pictures} read right", flush=True)
        rows.append(pictures.unflatten(0, (10, per_digit))[:, :SHEET_SAMPLES])
    if sheet is not None:
        save_sheet(rows, sheet)
    card = _card(folder, readings, ink, _reconstruction_psnr(models.vae))
    (folder / "README.md").write_text(card, encoding="utf-8")


def save_sheet(rows: list[Tensor], path: Path) -> None:
    """Write a PNG with one row per way of sampling, each [10, n, H, W, 3] in 0..1."""
    strips = [torch.cat(list(row.flatten(0, 1)), dim=1) for row in rows]
    sheet = (torch.cat(strips) * 255).round().to(torch.uint8)
    Image.fromarray(sheet.cpu().numpy()).save(path)


def _read(method: str, pictures: Tensor) -> Reading:
    """Pictures [10 * n, H, W, 3], sorted by digit."""
    per_digit = len(pictures) // 10
    right = read_digits(pictures) == np.repeat(np.arange(10), per_digit)
    shares = right.reshape(10, per_digit).mean(axis=1)
    return Reading(method, int(right.sum()), len(right), int(shares.argmin()), float(shares.min()))


@torch.no_grad()
def _reconstruction_psnr(vae: VAE) -> float:
    """PSNR in dB of the 360 held-out digits, encoded and decoded."""
    pictures = draw(digit_split().held_out_images, torch.Generator().manual_seed(2))
    pictures = pictures.movedim(1, -1)
    error = vae.decode(vae.encode(pictures)).cpu() - pictures
    return -10 * math.log10(error.square().mean().item())


def _ink_of_real_digits(bold: bool) -> float:
    images = digit_split().held_out_images
    return ink_share(draw(images, torch.Generator().manual_seed(2), bold=bold).movedim(1, -1))


def _card(folder: Path, readings: list[Reading], ink: dict[str, float], psnr: float) -> str:
    import comfyui_version

    files, total = [], 0
    for name in FILES:
        path = folder / name
        content = path.read_bytes()
        total += len(content)
        with safe_open(path, framework="pt") as stored:
            recipe = json.loads(stored.metadata()["recipe"])
            names = stored.keys()
            elements = sum(math.prod(stored.get_slice(name).get_shape()) for name in names)
        files.append((name, elements, len(content), sha256(content).hexdigest(), recipe))

    def table(header: str, lines: list[str]) -> str:
        rule = "|" + " --- |" * header.count(" | ") + " --- |"
        return "\n".join([f"| {header} |", rule, *lines])

    file_table = table(
        "file | weights | bytes | SHA-256",
        [f"| `{n}` | {e:,} | {b:,} | `{h}` |" for n, e, b, h, _ in files],
    )
    recipe_table = table(
        "file | how it was trained",
        [
            f"| `{n}` | " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in r.items()) + " |"
            for n, _, _, _, r in files
        ],
    )
    reading_table = table(
        "way of sampling | read right | worst digit",
        [
            f"| {r.method} | {r.right / r.pictures:.1%} | {r.worst_digit}, {r.worst_share:.0%} |"
            for r in readings
        ],
    )
    return CARD.format(
        file_table=file_table,
        total=total,
        recipe_table=recipe_table,
        reading_table=reading_table,
        pictures=readings[0].pictures,
        per_digit=readings[0].pictures // 10,
        accuracy=held_out_accuracy(),
        bold_accuracy=held_out_accuracy(bold=True),
        ink=ink[MAIN_ALONE],
        lora_ink=ink[MAIN_BOLD],
        real_ink=_ink_of_real_digits(bold=False),
        real_bold_ink=_ink_of_real_digits(bold=True),
        psnr=psnr,
        comfyui=comfyui_version.__version__,
        torch=torch.__version__,
        machine=platform.machine(),
    )


CARD = """\
# Tiny digit models

Small, real models for the tests and the demo. They draw handwritten digits, 64x64 pixels, and load
through ComfyUI's ordinary loader nodes.

{file_table}

Together {total:,} bytes.

- `digits_main.safetensors` and `digits_weak.safetensors`: SD3-type transformers, 4 blocks of width
  256 and 2 blocks of width 128. Put them into `models/diffusion_models`, load them with
  *Load Diffusion Model*. The weak one has half the depth and had a fraction of the training: a
  bad version as autoguidance wants it (arXiv 2406.02507).
- `digits_bold_lora.safetensors`: a LoRA of rank 4 on every block's attention and MLP of the main
  model, trained on the same digits with thick strokes. Put it into `models/loras`, load it with
  *LoraLoaderModelOnly*.
- `digits_vae.safetensors`: a TAESD-type autoencoder with 16 latent channels. Put it into
  `models/vae`, load it with *Load VAE*.
- Prompt: *Digit Conditioning* from `tests/digits/node_pack`, "0" to "9" or "none". It gives
  the context `[1, 2, 16]`, a start token and the class token, and `pooled_output` `[1, 16]`, the
  class again, all of them one-hot times 4.
- Latents: *EmptySD3LatentImage*, 64x64 pixels. Now and then the models were trained at 96x96, 64x96
  and 96x64 as well; 256x256 is the largest size that they accept.

## Figures

Every way of sampling draws the same {pictures:,} pictures, {per_digit} of each digit, from the same
noise. A support vector machine trained on real digits reads the digit that was asked for in:

{reading_table}

The LoRA makes strokes bolder: they cover {lora_ink:.1%} of the main model's pictures with it, and
{ink:.1%} without. Of the held-out real digits, drawn bold as the LoRA was trained on them, they
cover {real_bold_ink:.1%}; drawn as the models were trained on them, {real_ink:.1%}. The classifier
has seen no bold digit in its training: of those real ones it reads {bold_accuracy:.1%} right.

Euler, 20 steps, scheduler *simple*, ComfyUI {comfyui}, torch {torch}, on the CPU ({machine}). The
same classifier reads {accuracy:.1%} of 360 held-out real digits right. The autoencoder returns
held-out digits with a PSNR of {psnr:.1f} dB.

## Making

{recipe_table}

    make models    # makes the files and this page
    make card      # measures the files and makes this page

Data: the 1,797 handwritten digits of scikit-learn's `load_digits`, which are the test set of
*Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, CC BY 4.0). 1,437 were trained on, 360 were held out from everything. The hue of the
ink is random.

Weights: float16, but for the matrices of the context stream and the encoder, which are float8
(e4m3fn) and were frozen at their rounded values before training ended. ComfyUI computes in
whatever precision it finds right for the machine, float32 on a CPU.
"""


if __name__ == "__main__":
    main()
