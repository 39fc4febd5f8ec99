"""The recipe works, and the weights that ship are of these very recipes."""

import json

import pytest
import torch
from safetensors import safe_open

STEPS = 60


@pytest.fixture(scope="module")
def recipe(playground):
    return playground.training.Recipe(width=16, layers=2, steps=STEPS, batch=256, seed=5)


def trained(playground, recipe, world):
    with torch.enable_grad():
        return playground.training.train(recipe, "short", world)


def test_short_training_learns_and_repeats_itself(playground, recipe, world, capsys):
    model, again = (trained(playground, recipe, world) for _ in range(2))
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert f"short: {STEPS}/{STEPS}" in capsys.readouterr().out

    def loss(model):
        generator = torch.Generator().manual_seed(0)
        return float(playground.training.matching_loss(model, world, 4000, generator))

    torch.manual_seed(0)
    assert loss(model) < 0.7 * loss(playground.denoiser.Denoiser(16, 2))


def test_weights_come_back_as_they_were_saved(playground, tmp_path):
    training = playground.training
    models = {name: training.load(name) for name in training.RECIPES}
    training.save(models, tmp_path / "copy.safetensors")
    for name, model in models.items():
        again = training.load(name, tmp_path / "copy.safetensors")
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other) and not other.requires_grad


def test_shipped_weights_name_their_recipes(playground):
    training = playground.training
    with safe_open(training.WEIGHTS, "pt") as file:
        recipes = json.loads(file.metadata()["recipes"])
    assert {name: training.Recipe(**each) for name, each in recipes.items()} == training.RECIPES
    assert training.WEIGHTS.stat().st_size < 300_000


def test_bad_versions_differ_from_the_main_model_as_they_should(playground):
    recipes = playground.training.RECIPES
    main, weak, small, short = (recipes[name] for name in ("main", "weak", "small", "short"))
    assert weak.width == small.width < main.width == short.width
    assert weak.steps == short.steps < main.steps == small.steps


def test_the_better_a_model_the_nearer_to_the_ideal(playground, world):
    def loss(name):
        generator = torch.Generator().manual_seed(3)
        model = playground.training.load(name)
        return float(playground.training.matching_loss(model, world, 8000, generator))

    losses = {name: loss(name) for name in playground.training.RECIPES}
    assert losses["main"] < min(losses["small"], losses["short"])
    assert losses["weak"] > max(losses["small"], losses["short"])
