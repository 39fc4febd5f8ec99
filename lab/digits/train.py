"""Make the tiny digit models from nothing.

    make models
    OMP_NUM_THREADS=1 make lab RUN="digits.train --only underfit"

Runs on the CPU. An hour or two on one core.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tiny.judge import save_judge, train_judge
from tiny.making import make
from tiny.recipes import AutoencoderRecipe, FamilyRecipe, JudgeRecipe, LoraRecipe, Recipe
from tiny.storage import save_weights

from .lora import train_lora
from .pictures import training_source

if TYPE_CHECKING:
    from tiny.diffusion import Banks

AUTOENCODER = AutoencoderRecipe(
    crop_steps=1400,
    crop_batch=16,
    decoder_steps=250,
    decoder_batch=8,
    learning_rate=1e-3,
    seed=0,
)
WEAK = Recipe(depth=2, steps=200, anneal_steps=30, batch=64, learning_rate=2e-3, seed=2)
MAIN = Recipe(depth=4, steps=2700, anneal_steps=300, batch=64, learning_rate=1e-3, seed=3)
LORA = LoraRecipe(rank=4, steps=700, batch=32, learning_rate=3e-3, seed=4)
UNDERFIT = FamilyRecipe(
    main=Recipe(depth=2, steps=600, anneal_steps=0, batch=64, learning_rate=1e-3, seed=21),
    smaller_depth=1,
    earlier_steps=300,
)
JUDGE = JudgeRecipe(steps=800, batch=64, learning_rate=4e-3, seed=7)


def make_vae(folder: Path) -> None:
    """The autoencoder."""
    from tiny.autoencoder import train_autoencoder

    vae = train_autoencoder(AUTOENCODER, training_source())
    save_weights(vae, folder / "digits_vae.safetensors", asdict(AUTOENCODER))


def make_weak(folder: Path) -> None:
    """The bad version of the main model."""
    _make_model(folder, "weak", WEAK)


def make_main(folder: Path) -> None:
    """The main model."""
    _make_model(folder, "main", MAIN)


def make_lora(folder: Path) -> None:
    """The LoRA for bold strokes."""
    train_lora(folder, LORA)


def make_underfit(folder: Path) -> None:
    """The main model that has much left to learn, and its bad versions."""
    from tiny.diffusion import encode_pictures
    from tiny.family import train_family
    from tiny.sampling import load_vae

    vae = load_vae(folder / "digits_vae.safetensors").first_stage_model
    source = training_source("varied")
    banks = encode_pictures(vae, source, copies=8, seed=11, sizes=[(8, 8)])
    train_family(folder, "digits_underfit", UNDERFIT, banks)


def make_judge(folder: Path) -> None:
    """The classifier."""
    judge = train_judge(JUDGE, training_source("varied"))
    save_judge(judge, folder / "digits_judge.safetensors", JUDGE)


def _make_model(folder: Path, name: str, recipe: Recipe) -> None:
    from tiny.diffusion import train_mmdit

    model = train_mmdit(recipe, _banks(folder), f"{name} model")
    save_weights(model, folder / f"digits_{name}.safetensors", asdict(recipe))


@cache
def _banks(folder: Path) -> Banks:
    """What main and weak model learn."""
    from tiny.diffusion import encode_pictures
    from tiny.sampling import load_vae

    vae = load_vae(folder / "digits_vae.safetensors").first_stage_model
    return encode_pictures(vae, training_source(), copies=5, seed=1)


PARTS = {
    "vae": make_vae,
    "weak": make_weak,
    "main": make_main,
    "lora": make_lora,
    "underfit": make_underfit,
    "judge": make_judge,
}

if __name__ == "__main__":
    make(__doc__.splitlines()[0], PARTS)
