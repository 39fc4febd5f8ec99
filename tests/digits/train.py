"""Make the tiny models from nothing: autoencoder, main and weak model, LoRA, and their card.

    make models

Runs on the CPU. Under an hour on two cores.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from .comfyui import start_comfyui
from .evaluate import ASSETS, write_card
from .storage import save_weights


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for files and card")
    parser.add_argument(
        "--per-digit", type=int, default=100, help="samples of each digit on the card"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    # The modules below import ComfyUI, which must have been started before.
    start_comfyui()
    from .autoencoder import AutoencoderRecipe, train_autoencoder
    from .diffusion import Recipe, encode_pictures, train_mmdit
    from .lora import RECIPE, train_lora

    autoencoder = AutoencoderRecipe(
        crop_steps=1400,
        crop_batch=16,
        decoder_steps=250,
        decoder_batch=8,
        learning_rate=1e-3,
        seed=0,
    )
    vae = train_autoencoder(autoencoder)
    save_weights(vae, options.out / "digits_vae.safetensors", asdict(autoencoder))

    banks = encode_pictures(vae, copies=5, seed=1)
    recipes = {
        "weak": Recipe(depth=2, steps=200, anneal_steps=30, batch=64, learning_rate=2e-3, seed=2),
        "main": Recipe(depth=4, steps=2700, anneal_steps=300, batch=64, learning_rate=1e-3, seed=3),
    }
    for name, recipe in recipes.items():
        model = train_mmdit(recipe, banks, f"{name} model")
        save_weights(model, options.out / f"digits_{name}.safetensors", asdict(recipe))

    train_lora(options.out, RECIPE)
    write_card(options.out, options.per_digit)


if __name__ == "__main__":
    main()
