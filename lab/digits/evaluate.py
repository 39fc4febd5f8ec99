"""Measure the tiny digit models and write the card beside them.

    make card
    make lab RUN="digits.evaluate --sheet sheet.png"

Every figure on the card comes from here, through ComfyUI's own loaders and sampler.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from comfyui.install import comfyui_path
from comfyui.library import load_nodes
from tiny.card import (
    Way,
    circumstances,
    command,
    describe,
    draw,
    reading_table,
    reconstruction_psnr,
)
from tiny.judge import CLASSES, load_judge

from . import pictures
from .classifier import held_out_accuracy, read_digits
from .pictures import Stroke, digit_split, ink_share

WORKFLOW_FILES = (
    "digits_main.safetensors",
    "digits_weak.safetensors",
    "digits_bold_lora.safetensors",
    "digits_vae.safetensors",
)
BENCH_FILES = (
    "digits_underfit_main.safetensors",
    "digits_underfit_earlier.safetensors",
    "digits_underfit_smaller.safetensors",
    "digits_underfit_weak.safetensors",
    "digits_judge.safetensors",
)
AUTOGUIDANCE_SCALES = (2.0, 2.5)
CFG_SCALES = (2.0,)
MAIN_ALONE = "main model alone"
MAIN_BOLD = "main with the LoRA for bold strokes"


def write_card(folder: Path, each: int, sheet: Path | None = None) -> None:
    """Measure the models in `folder` and write `folder/README.md`.

    Args:
        each: images of each digit for every way of sampling.
        sheet: where to write a PNG with some of the images, one row per way of sampling.
    """
    from comfyui.running import call
    from node_pack import DIGIT_CLASSES

    from .sampling import load_models, with_bold_lora

    models = load_models(folder)
    patch = load_nodes(comfyui_path())["BadVersionPatch"]
    ways = [Way("weak model alone", models.weak), Way(MAIN_ALONE, models.main)]
    for scale in AUTOGUIDANCE_SCALES:
        (guided,) = call(patch, model=models.main, weak_model=models.weak, weak_scale=scale)
        ways.append(Way(f"main, autoguidance with the weak one, w = {scale}", guided))
    for scale in CFG_SCALES:
        ways.append(Way(f"main, classifier-free guidance, scale {scale}", models.main, scale))
    ways.append(Way(MAIN_BOLD, with_bold_lora(models.main, folder)))

    readings, ink = [], {}
    for reading, drawn in draw(ways, models.vae, each, read_digits, sheet):
        readings.append(reading)
        ink[reading.way] = ink_share(drawn)

    files = describe(folder, (*WORKFLOW_FILES, *BENCH_FILES))
    judge = load_judge(folder / "digits_judge.safetensors")
    read = judge.read(held_out_pictures("varied"))
    card = CARD.format(
        files=files,
        readings=reading_table(readings, DIGIT_CLASSES, "digit"),
        pictures=CLASSES * each,
        each=each,
        accuracy=held_out_accuracy(),
        bold_accuracy=held_out_accuracy("bold"),
        judge_accuracy=float((read == digit_split().held_out_labels).float().mean()),
        ink=ink[MAIN_ALONE],
        lora_ink=ink[MAIN_BOLD],
        real_ink=ink_share(held_out_pictures("plain")),
        real_bold_ink=ink_share(held_out_pictures("bold")),
        psnr=reconstruction_psnr(models.vae, held_out_pictures("plain")),
        circumstances=circumstances(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def held_out_pictures(stroke: Stroke) -> Tensor:
    """The 360 held-out digits, each drawn once; [360, 64, 64, 3] in 0..1."""
    generator = torch.Generator().manual_seed(2)
    images = digit_split().held_out_images
    return pictures.draw(images, generator, stroke=stroke).movedim(1, -1)


CARD = """\
# Tiny digit models

Small, real models for the workflows, the tests and the benchmarks. They draw handwritten digits,
64x64 pixels, and load through ComfyUI's ordinary loader nodes. [EMOJI.md](EMOJI.md) is about those
that draw emoji.

{files.files}

Together {files.total:,} bytes.

- `digits_main.safetensors` and `digits_weak.safetensors`: SD3-type transformers, 4 blocks of width
  256 and 2 blocks of width 128. Put them into `models/diffusion_models`, load them with
  *Load Diffusion Model*. The weak one has half the depth and had a fraction of the training: a
  bad version as autoguidance wants it (arXiv 2406.02507).
- `digits_bold_lora.safetensors`: a LoRA of rank 4 on every block's attention and MLP of the main
  model, trained on the same digits with thick strokes. Put it into `models/loras`, load it with
  *LoraLoaderModelOnly*.
- `digits_vae.safetensors`: a TAESD-type autoencoder with 16 latent channels. Put it into
  `models/vae`, load it with *Load VAE*.
- `digits_underfit_main.safetensors` and the three beside it: a main model that was stopped while it
  still learned fast, and bad versions of it, for the benchmark: where there is nothing left to
  learn, no way to guide can show what it is worth. They were trained on strokes from thin to bold.
  The earlier one is the main model after half of its steps, the smaller one has half of its depth,
  the weak one is both. They load as the other two do, and use the same autoencoder.
- `digits_judge.safetensors`: a small convolutional classifier of pictures of digits, trained on
  real ones with strokes from thin to bold. It is the benchmark's; ComfyUI has no loader for it.
- Prompt: *Digit Conditioning* from `lab/node_pack`, "0" to "9" or "none". It gives
  the context `[1, 2, 16]`, a start token and the class token, and `pooled_output` `[1, 16]`, the
  class again, all of them one-hot times 4.
- Latents: *EmptySD3LatentImage*, 64x64 pixels. Now and then main and weak model were trained at
  96x96, 64x96 and 96x64 as well; 256x256 is the largest size that they accept.

## Figures

Every way of sampling draws the same {pictures:,} pictures, {each} of each digit, from the same
noise. A support vector machine trained on real digits reads the digit that was asked for in:

{readings}

The LoRA makes strokes bolder: they cover {lora_ink:.1%} of the main model's pictures with it, and
{ink:.1%} without. Of the held-out real digits, drawn bold as the LoRA was trained on them, they
cover {real_bold_ink:.1%}; drawn as the models were trained on them, {real_ink:.1%}. The support
vector machine has seen no bold digit in its training: of those real ones it reads
{bold_accuracy:.1%} right.

{circumstances}. The
support vector machine reads {accuracy:.1%} of 360 held-out real digits right; the convolutional
classifier reads {judge_accuracy:.1%}, with strokes from thin to bold. The autoencoder returns
held-out digits with a PSNR of {psnr:.1f} dB.

## Making

{files.recipes}

    make models    # makes the files and this page
    make card      # measures the files and makes this page

With one thread, as `make models` has it, training gives the same bits again on the same machine.
These files were made earlier, the first four with two threads, the others from pictures that were
rounded in another way: made anew, they come out alike, but not bit for bit the same.

Data: the 1,797 handwritten digits of scikit-learn's `load_digits`, which are the test set of
*Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, CC BY 4.0). 1,437 were trained on, 360 were held out from everything. The hue of the
ink is random.

Weights: float16, but for some matrices of the first two models and of the autoencoder, those of the
context stream and of the encoder, which are float8 (e4m3fn) and were frozen at their rounded values
before training ended. ComfyUI computes in whatever precision it finds right for the machine,
float32 on a CPU.
"""


if __name__ == "__main__":
    command(__doc__.splitlines()[0], each=100, write=write_card)
