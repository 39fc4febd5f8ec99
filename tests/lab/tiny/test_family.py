"""A family of models: what belongs to whom, and that it is the same each time."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tiny.diffusion import LatentBank
from tiny.family import train_family
from tiny.recipes import FamilyRecipe, Recipe

NAMES = ("main", "earlier", "smaller", "weak")
# Its learning rate shows after a step or two.
MAIN = Recipe(depth=2, steps=4, anneal_steps=0, batch=4, learning_rate=0.1, seed=5)
FAMILY = FamilyRecipe(MAIN, smaller_depth=1, earlier_steps=2)


@pytest.fixture(scope="module")
def banks():
    generator = torch.Generator().manual_seed(0)
    return {
        (8, 8): LatentBank(torch.randn(20, 16, 8, 8, generator=generator), torch.arange(20) % 10)
    }


@pytest.fixture(scope="module")
def family(banks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    train_family(folder, "some", FAMILY, banks)
    return folder


def weights(folder, name):
    return load_file(folder / f"some_{name}.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_bits_are_the_same_each_time(family, banks, tmp_path):
    train_family(tmp_path, "some", FAMILY, banks)
    assert len(list(tmp_path.iterdir())) == len(NAMES)
    assert all(same(weights(family, name), weights(tmp_path, name)) for name in NAMES)


def test_earlier_ones_are_on_the_way_of_the_later_ones(family, banks, tmp_path):
    shorter = FamilyRecipe(replace(MAIN, steps=2), smaller_depth=1, earlier_steps=1)
    train_family(tmp_path, "some", shorter, banks)
    for earlier, later in (("earlier", "main"), ("weak", "smaller")):
        assert same(weights(family, earlier), weights(tmp_path, later))
        assert not same(weights(family, earlier), weights(family, later))


def test_smaller_ones_are_smaller(family):
    for name, blocks in zip(NAMES, (2, 2, 1, 1), strict=True):
        found = {key.split(".")[1] for key in weights(family, name) if key.startswith("joint_bl")}
        assert len(found) == blocks


def test_files_tell_how_they_were_made(family):
    small = replace(MAIN, depth=1, seed=6)
    wanted = (MAIN, replace(MAIN, steps=2), small, replace(small, steps=2))
    for name, recipe in zip(NAMES, wanted, strict=True):
        with safe_open(family / f"some_{name}.safetensors", framework="pt") as stored:
            assert Recipe(**json.loads(stored.metadata()["recipe"])) == recipe
