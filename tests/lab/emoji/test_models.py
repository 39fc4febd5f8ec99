"""The tiny emoji models are trained well enough to tell what they draw, and what was drawn."""

import pytest
import torch

from comfyui.library import ASSETS
from emoji.evaluate import CFG, real_pictures
from tiny.card import reconstruction_psnr
from tiny.judge import CLASSES, load_judge
from tiny.sampling import load_model, load_vae, sample_classes

EACH = 8


@pytest.fixture(scope="module")
def judge():
    return load_judge(ASSETS / "emoji_judge.safetensors")


@pytest.fixture(scope="module")
def vae(comfy_nodes):
    return load_vae(ASSETS / "emoji_vae.safetensors")


@pytest.fixture(scope="module")
def main(comfy_nodes):
    return load_model(ASSETS / "emoji_main.safetensors")


@pytest.mark.parametrize(("held_out", "copies", "least"), [(False, 1, 0.95), (True, 4, 0.6)])
def test_classifier_reads_real_emoji(judge, held_out, copies, least):
    """Those that are new to it less well: what is a fruit and what a meal is a convention."""
    pictures, labels = real_pictures(held_out, copies)
    assert float((judge.read(pictures) == labels).float().mean()) >= least


def test_autoencoder_returns_emoji_that_are_new_to_it(vae):
    pictures, _ = real_pictures(held_out=True, copies=1)
    assert reconstruction_psnr(vae, pictures) >= 23


def test_drawn_emoji_are_of_the_kind_that_was_asked_for(main, vae, judge):
    """More of them away from the empty prompt, from the same noise."""
    alone, pushed = (
        judge.read(sample_classes(main, vae, EACH, cfg)).view(CLASSES, EACH)
        == torch.arange(CLASSES)[:, None]
        for cfg in (1.0, CFG)
    )
    assert float(alone.float().mean()) >= 0.4
    assert int(pushed.sum()) > int(alone.sum())
