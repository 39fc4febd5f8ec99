"""What a model makes of itself where a source says how, family by family."""

import functools
import logging

import comfy.supported_models
import pytest
import torch

from support.newer_models import NEWER
from support.rare_models import EVERY
from support.rig import Run, call, core_guider
from support.small_models import BY_NAME, deepen
from support.weakening import distance, steps_of

# By family: a small model of it, the list that is as long as a real one's, and its blocks.
FAMILIES = {
    "SD1.5": ("sd15", None),
    "SDXL": ("sdxl", None),
    "SD3.5": ("sd35", 24),
    "Wan 2.1 / 2.2": ("wan", 30),
    "LTX-Video": ("ltxv", 28),
    "LTX-2": ("ltx_av", 48),
    "Mochi": ("mochi", 48),
    "Anima": ("anima", 28),
}
ARCHITECTURES = {each.name: each for each in (*EVERY, *NEWER)}
# Of models that came after ComfyUI 0.3.52.
LATER = {"LTXAV", "Anima", "Flux2", "ZImage", "ChromaRadiance", "WAN22_Camera"}

each_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family,
            marks=pytest.mark.skipif(
                name not in ARCHITECTURES, reason=f"this release of ComfyUI knows no {family}"
            ),
        )
        for family, (name, _) in FAMILIES.items()
    ],
)


@pytest.fixture
def architecture(family):
    return ARCHITECTURES[FAMILIES[family][0]]


@functools.cache
def built(family):
    """A model as deep as a real one; both tests of a family use it, and neither changes it."""
    name, depth = FAMILIES[family]
    model = ARCHITECTURES[name].build(0)
    return model if depth is None else deepen(model, ARCHITECTURES[name].blocks[0], depth)


@pytest.fixture
def model(family):
    return built(family)


@pytest.fixture
def run(architecture, model, recipe):
    """As short as it can be with steps inside and outside of the recipe's interval."""
    return steps_of(architecture, model, 2 if recipe.is_always_on else 8)


@pytest.fixture
def recipe(family, pack):
    (recipe,) = (each for each in pack.guiders.weaken.recipes.TABLE if each.family == family)
    return recipe


@pytest.fixture
def by_hand(recipe, weaken, comfy_nodes):
    """The same out of a Weaken node and a Guidance Interval."""

    def by_hand(model):
        if recipe.way == "skip":
            weak = weaken("skip", model, recipe.blocks)
        else:
            weak = weaken(recipe.mode, model, recipe.blocks, strength=1.0)
        interval = comfy_nodes["BadVersionGuidanceInterval"]
        (schedule,) = call(interval, unit="percent", start=recipe.start, end=recipe.end)
        return {"weak_model": weak, "weak_schedule": schedule}

    return by_hand


def first(latent):
    """The image or video of a latent, which may have sound beside it."""
    return latent.tensors[0] if getattr(latent, "is_nested", False) else latent


def test_every_recipe_with_a_source_is_tried(pack):
    table = pack.guiders.weaken.recipes.TABLE
    assert {each.family for each in table if each.source} == FAMILIES.keys()
    assert all(bool(each.source) == bool(each.way) == bool(each.strength) for each in table)


def test_names_are_those_that_comfyui_gives_its_models(pack):
    names = {name for each in pack.guiders.weaken.recipes.TABLE for name in each.models}
    assert {n for n in names if not hasattr(comfy.supported_models, n)} <= LATER


@each_family
def test_model_weakens_itself_by_the_recipe(
    architecture, model, recipe, run, by_hand, guide, caplog
):
    positive = architecture.conditioning(1)
    with caplog.at_level(logging.INFO):
        itself = first(run.sample(guide(model=model, positive=positive)))
    assert f"Settings from: {recipe.source}." in caplog.text
    hand = by_hand(model)
    assert torch.equal(itself, first(run.sample(guide(model=model, positive=positive, **hand))))
    assert torch.isfinite(itself).all()
    assert distance(itself, first(run.sample(core_guider(model, positive)))) > 1e-4
    always = guide(model=model, positive=positive, weak_model=hand["weak_model"])
    assert torch.equal(itself, first(run.sample(always))) == recipe.is_always_on


@each_family
def test_node_gives_what_the_recipe_says(
    family, model, recipe, run, comfy_nodes, architecture, guide
):
    node = comfy_nodes["BadVersionRecipe"]
    weak, scale, schedule, text = call(node, model=model, language="English")
    assert scale == 1 + recipe.strength
    assert text.startswith(f"{family}: ") and text.endswith(f"Source: {recipe.source}.")
    assert f"weak_scale {scale:g}" in text
    if not recipe.is_always_on:
        assert f"from {100 * recipe.start:g} to {100 * recipe.end:g} % of sampling" in text
    *_, chinese = call(node, model=model, language="中文")
    assert chinese.startswith(f"{family}：") and f"{scale:g}" in chinese
    assert recipe.source in chinese
    connected = {"weak_model": weak, "weak_schedule": schedule, "weak_scale": scale}
    positive = architecture.conditioning(1)
    itself = guide(model=model, positive=positive, weak_scale=scale)
    assert torch.equal(
        first(run.sample(guide(model=model, positive=positive, **connected))),
        first(run.sample(itself)),
    )


@pytest.mark.parametrize("name", ["sd35", "wan"])
def test_network_of_another_depth_is_weakened_as_before(name, pack):
    model = BY_NAME[name].build(0)
    assert pack.guiders.weaken.recipes.recipe_of(model) is None
    made = pack.guiders.weaken.auto.weak_version("Some Node", model)
    assert made.way == "skip" and made.schedules == () and made.source == ""


@pytest.mark.parametrize("name", ["flux", "lumina"])
def test_node_says_that_its_numbers_are_a_place_to_start(name, comfy_nodes):
    model = BY_NAME[name].build(0)
    _, scale, schedule, text = call(
        comfy_nodes["BadVersionRecipe"], model=model, language="English"
    )
    assert (scale, schedule) == (2.0, ())
    assert text.startswith({"flux": "FLUX.1: ", "lumina": "Lumina2: "}[name])
    assert "a place to start" in text and "Source" not in text


def test_schedule_of_the_artist_takes_the_place_of_the_recipes(comfy_nodes, weaken, guide):
    model = deepen(BY_NAME["sd35"].build(0), "joint_blocks", 24)
    run = Run.of(model, shape=BY_NAME["sd35"].latent, steps=4)
    positive = BY_NAME["sd35"].conditioning(1)
    (late,) = call(comfy_nodes["BadVersionGuidanceInterval"], unit="percent", start=0.5, end=1.0)
    own = guide(model=model, positive=positive, weak_schedule=late)
    hand = guide(
        model=model,
        positive=positive,
        weak_schedule=late,
        weak_model=weaken("skip", model, "7-9"),
    )
    assert torch.equal(run.sample(own), run.sample(hand))


def test_recipe_that_is_off_in_the_whole_run_is_told_of(guide, caplog):
    """As where an image is only refined: the artist has connected no schedule that could be it."""
    model = deepen(BY_NAME["sd35"].build(0), "joint_blocks", 24)
    run = Run.of(model, shape=BY_NAME["sd35"].latent, steps=4)
    run = run.with_(sigmas=run.sigmas[2:])
    positive = BY_NAME["sd35"].conditioning(1)
    with caplog.at_level(logging.WARNING):
        refined = run.sample(guide(model=model, positive=positive))
    assert torch.equal(refined, run.sample(core_guider(model, positive)))
    assert (
        "input 'weak_schedule': nothing is connected, and the interval of SLG (Stability AI, SD3.5 "
        "Medium) was off at every step of this run" in caplog.text
    )
