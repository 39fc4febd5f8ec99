"""The classifier learns what it sees, and is the same when it has been stored."""

import json

import pytest
import torch
from safetensors import safe_open

from tiny.judge import CLASSES, load_judge, save_judge, train_judge
from tiny.pictures import Source
from tiny.recipes import JudgeRecipe

RECIPE = JudgeRecipe(steps=40, batch=20, learning_rate=4e-3, seed=1)


def draw(chosen, generator, height, width):
    """Another grey for each class, with some noise on it."""
    greys = (chosen % CLASSES).float() / CLASSES
    noise = torch.rand(len(chosen), 3, height, width, generator=generator)
    return (greys[:, None, None, None] + 0.1 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def judge():
    return train_judge(RECIPE, Source(torch.arange(20) % CLASSES, draw))


@pytest.fixture
def images():
    chosen = torch.arange(300)
    return draw(chosen, torch.Generator().manual_seed(9), 64, 64).movedim(1, -1), chosen % CLASSES


def test_learns_to_read(judge, images):
    pictures, labels = images
    read = judge.read(pictures)
    assert read.shape == (300,)
    assert float((read == labels).float().mean()) > 0.5


def test_stored_one_reads_the_same(judge, images, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_judge(judge, path, RECIPE)
    stored = load_judge(path)
    torch.testing.assert_close(stored(images[0]), judge(images[0]), rtol=0.02, atol=0.02)
    with safe_open(path, framework="pt") as file:
        assert JudgeRecipe(**json.loads(file.metadata()["recipe"])) == RECIPE


def test_storing_it_again_changes_nothing(judge, tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_judge(judge, one, RECIPE)
    save_judge(load_judge(one), other, RECIPE)
    assert one.read_bytes() == other.read_bytes()
