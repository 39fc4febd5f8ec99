"""The tiny digit models are trained well enough, and their bad versions are bad enough."""

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from comfyui.library import ASSETS
from comfyui.running import call
from digits.classifier import held_out_accuracy, read_digits
from digits.evaluate import held_out_pictures
from digits.pictures import digit_split, ink_share
from digits.sampling import load_models, with_bold_lora
from tiny.judge import load_judge
from tiny.sampling import sample_classes

PER_DIGIT = 20


@pytest.fixture(scope="module")
def models(comfy_nodes):
    return load_models(ASSETS)


def share_read_right(model, vae):
    pictures = sample_classes(model, vae, PER_DIGIT)
    return np.mean(read_digits(pictures) == np.repeat(np.arange(10), PER_DIGIT))


def test_classifier_reads_real_digits():
    assert held_out_accuracy() >= 0.97


def test_the_small_classifier_reads_real_digits_of_any_stroke():
    read = load_judge(ASSETS / "digits_judge.safetensors").read(held_out_pictures("varied"))
    assert float((read == digit_split().held_out_labels).float().mean()) >= 0.95


def test_main_model_alone_and_with_its_bad_version(models, comfy_nodes):
    """The thresholds of the card's thousand images, with room for the chance in fewer."""
    with torch.inference_mode():
        patch = comfy_nodes["BadVersionPatch"]
        (guided,) = call(patch, model=models.main, weak_model=models.weak, weak_scale=2.0)
        alone, weak, pushed = (
            share_read_right(model, models.vae) for model in (models.main, models.weak, guided)
        )
    assert alone >= 0.87
    assert weak <= alone - 0.1
    assert pushed >= 0.95
    assert pushed > alone


def test_every_weight_of_the_lora_is_applied(models, comfy_nodes, caplog):
    """By the loader node; ComfyUI only logs the keys that it does not know."""
    with caplog.at_level(logging.WARNING):
        (bold,) = call(
            comfy_nodes["LoraLoaderModelOnly"],
            model=models.main,
            lora_name="digits_bold_lora.safetensors",
            strength_model=1.0,
        )
    assert "not loaded" not in caplog.text
    stored = load_file(ASSETS / "digits_bold_lora.safetensors")
    ups = [name for name in stored if name.endswith(".lora_up.weight")]
    assert {name.replace(".lora_up", "") for name in ups} == set(bold.patches)
    assert len(ups) == 16 and not models.main.patches


def test_lora_makes_the_strokes_bold(models):
    """They stay readable, though the classifier has seen no bold digit."""
    pictures = {}
    with torch.inference_mode():
        for strength in (0.0, 1.0):
            model = with_bold_lora(models.main, ASSETS, strength)
            pictures[strength] = sample_classes(model, models.vae, 4)
    ink = {strength: ink_share(some) for strength, some in pictures.items()}
    assert ink[1.0] > 1.3 * ink[0.0]
    assert np.mean(read_digits(pictures[1.0]) == np.repeat(np.arange(10), 4)) >= 0.8
