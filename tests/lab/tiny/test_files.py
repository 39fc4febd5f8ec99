"""The stored models are what their cards say: small, loadable, and made as the commands do."""

import json
import logging
from dataclasses import replace

import pytest
from safetensors import safe_open

import digits.evaluate
import digits.train
import emoji.evaluate
import emoji.train
from comfyui.library import ASSETS
from tiny.card import describe
from tiny.sampling import load_model, load_vae

DIGITS = (*digits.evaluate.WORKFLOW_FILES, *digits.evaluate.BENCH_FILES)
CARDS = {"README.md": DIGITS, "EMOJI.md": emoji.evaluate.FILES}


def of_family(stem, family):
    """The recipe of each of its files."""
    small = replace(family.main, depth=family.smaller_depth, seed=family.main.seed + 1)
    return {
        f"{stem}_main": family.main,
        f"{stem}_earlier": replace(family.main, steps=family.earlier_steps),
        f"{stem}_smaller": small,
        f"{stem}_weak": replace(small, steps=family.earlier_steps),
    }


RECIPES = {
    "digits_vae": digits.train.AUTOENCODER,
    "digits_weak": digits.train.WEAK,
    "digits_main": digits.train.MAIN,
    "digits_bold_lora": digits.train.LORA,
    "digits_judge": digits.train.JUDGE,
    "emoji_vae": emoji.train.AUTOENCODER,
    "emoji_judge": emoji.train.JUDGE,
    **of_family("digits_underfit", digits.train.UNDERFIT),
    **of_family("emoji", emoji.train.FAMILY),
}
DEPTHS = {name: recipe.depth for name, recipe in RECIPES.items() if hasattr(recipe, "depth")}


@pytest.fixture
def complaints(caplog, comfy_nodes):
    """What ComfyUI says about weights that are missing or left over: it only logs them."""
    with caplog.at_level(logging.DEBUG):
        yield lambda: [
            line
            for line in caplog.messages
            if any(word in line.lower() for word in ("missing", "unexpected", "left over"))
            and not line.rstrip().endswith("[]")
        ]


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (digits.evaluate.WORKFLOW_FILES, 20_000_000),
        (digits.evaluate.BENCH_FILES, 6_000_000),
        (emoji.evaluate.FILES, 25_000_000),
    ],
)
def test_files_are_small(names, most):
    assert sum((ASSETS / name).stat().st_size for name in names) <= most


@pytest.mark.parametrize("card", CARDS)
def test_card_describes_these_very_files(card):
    text = (ASSETS / card).read_text(encoding="utf-8")
    files = describe(ASSETS, CARDS[card])
    assert files.files in text
    assert files.recipes in text
    assert f"Together {files.total:,} bytes." in text


def test_every_file_has_a_card_and_a_recipe():
    stored = {path.name for path in ASSETS.glob("*.safetensors")}
    assert stored == {name for names in CARDS.values() for name in names}
    assert stored == {f"{name}.safetensors" for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_command_has_the_recipe_of_the_file(name):
    with safe_open(ASSETS / f"{name}.safetensors", framework="pt") as stored:
        numbers = json.loads(stored.metadata()["recipe"])
    assert type(RECIPES[name])(**numbers) == RECIPES[name]


@pytest.mark.parametrize("name", DEPTHS)
def test_loader_finds_every_weight_of_a_model(name, complaints):
    model = load_model(ASSETS / f"{name}.safetensors")
    assert complaints() == []
    assert len(model.model.diffusion_model.joint_blocks) == DEPTHS[name]


@pytest.mark.parametrize("name", ["digits_vae", "emoji_vae"])
def test_loader_finds_every_weight_of_an_autoencoder(name, complaints):
    vae = load_vae(ASSETS / f"{name}.safetensors")
    assert complaints() == []
    assert vae.latent_channels == 16
    assert type(vae.first_stage_model).__name__ == "TAESD"
