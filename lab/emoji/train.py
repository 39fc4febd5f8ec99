"""Make the tiny emoji models; their autoencoder starts from that of the digits.

    make models
    OMP_NUM_THREADS=1 make lab RUN="emoji.train --only judge"

Runs on the CPU. About an hour on one core.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from tiny.judge import save_judge, train_judge
from tiny.making import make
from tiny.recipes import AutoencoderRecipe, FamilyRecipe, JudgeRecipe, Recipe
from tiny.storage import save_weights

from .pictures import source

AUTOENCODER = AutoencoderRecipe(
    crop_steps=2200,
    crop_batch=16,
    decoder_steps=400,
    decoder_batch=8,
    learning_rate=4e-4,
    seed=0,
    warm_up=0.05,
)
FAMILY = FamilyRecipe(
    main=Recipe(depth=3, steps=10_000, anneal_steps=0, batch=64, learning_rate=1e-3, seed=31),
    smaller_depth=2,
    earlier_steps=2000,
)
JUDGE = JudgeRecipe(steps=1600, batch=64, learning_rate=4e-3, seed=7)


def make_vae(folder: Path) -> None:
    """The autoencoder."""
    from tiny.autoencoder import train_autoencoder

    start = load_file(folder / "digits_vae.safetensors")
    vae = train_autoencoder(AUTOENCODER, source(), start)
    save_weights(vae, folder / "emoji_vae.safetensors", asdict(AUTOENCODER))


def make_judge(folder: Path) -> None:
    """The classifier."""
    judge = train_judge(JUDGE, source())
    save_judge(judge, folder / "emoji_judge.safetensors", JUDGE)


def make_family(folder: Path) -> None:
    """The main model and its bad versions."""
    from tiny.diffusion import encode_pictures
    from tiny.family import train_family
    from tiny.sampling import load_vae

    vae = load_vae(folder / "emoji_vae.safetensors").first_stage_model
    banks = encode_pictures(vae, source(), copies=24, seed=1, sizes=[(8, 8)])
    train_family(folder, "emoji", FAMILY, banks)


PARTS = {"vae": make_vae, "judge": make_judge, "family": make_family}

if __name__ == "__main__":
    make(__doc__.splitlines()[0], PARTS)
