"""What is chosen automatically: blocks, and a whole weak version."""

import logging

import pytest
import torch

from support.rare_models import EVERY_BY_NAME, RARE
from support.rig import Run, call, core_guider
from support.small_models import BY_NAME, sd3, sdxl
from support.weakening import OPAQUE, UNETS, distance, each_architecture, steps_of

AUTO = {
    "sd15": ("middle", "middle", "input 1, input 3"),
    "sdxl": ("middle", "middle", "input 3, input 5"),
    "sd3": ("joint 1", "joint 1", "joint 1"),
    "flux": ("double 1", "double 1", "double 1"),
    "lumina": ("layer 1", "layer 1", "layer 1"),
    "wan": ("block 1", "block 1", "block 1"),
    "hidream": ("single 0", "double 1", "single 0"),
    "cascade_c": ("", "", ""),
}


@pytest.mark.parametrize("name", AUTO)
def test_blocks_that_are_chosen(name, models, pack):
    """To skip, to weaken the attention of, to shuffle tokens in."""
    auto, network = (
        pack.guiders.weaken.auto,
        pack.guiders.weaken.network.Network.of(models(EVERY_BY_NAME[name])),
    )
    choices = auto.skipped_blocks, auto.attention_blocks, auto.token_blocks
    assert tuple(", ".join(map(str, choice(network))) for choice in choices) == AUTO[name]


@pytest.fixture
def by_hand(comfy_nodes):
    """The weak version of a model that the node makes of it with all inputs as they come."""

    def by_hand(architecture, model):
        unet = architecture.name in UNETS
        node = comfy_nodes[
            "BadVersionWeakenAttention" if unet else "BadVersionWeakenBySkippingBlocks"
        ]
        inputs = node.define_schema().inputs[1:]
        return call(node, model=model, **{i.id: i.default for i in inputs})[0]

    return by_hand


def said(caplog):
    """What the log says of bad versions, a run each."""
    return [m for m in map(logging.LogRecord.getMessage, caplog.records) if "pushes away" in m]


@each_architecture
def test_guider_weakens_the_model_by_itself(architecture, model, by_hand, guide, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    with caplog.at_level(logging.INFO):
        itself = run.sample(guide(model=model, positive=positive))
    weak = by_hand(architecture, model)
    assert torch.equal(itself, run.sample(guide(model=model, positive=positive, weak_model=weak)))
    assert distance(itself, run.sample(core_guider(model, positive))) > 1e-3
    (text,) = said(caplog)
    name = type(model.model.model_config).__name__
    assert text.startswith(f"Bad-Version Guider: pushes away from {name} ")
    what = "middle" if architecture.name in UNETS else "without"
    assert what in text


@pytest.mark.parametrize("architecture", RARE, ids=lambda architecture: architecture.name)
def test_guider_weakens_a_rare_model_by_itself(architecture, model, guide, caplog):
    run = steps_of(architecture, model)
    positive = architecture.conditioning(1)
    with caplog.at_level(logging.INFO):
        itself = run.sample(guide(model=model, positive=positive))
    plain = run.sample(core_guider(model, positive))
    if architecture.beside:
        itself, plain = itself.tensors[0], plain.tensors[0]
    assert distance(itself, plain) > 1e-3
    how = "half of the rank" if architecture.name in OPAQUE else "without"
    assert how in caplog.text


@each_architecture
def test_patch_weakens_the_model_by_itself(architecture, model, by_hand, patch, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    both = architecture.conditioning(1), architecture.conditioning(2)
    with caplog.at_level(logging.INFO):
        itself = run.sample(core_guider(patch(model), *both, 3.0))
    weak = by_hand(architecture, model)
    assert torch.equal(itself, run.sample(core_guider(patch(model, weak_model=weak), *both, 3.0)))
    assert all(text.startswith("Bad-Version Patch: ") for text in said(caplog)) and said(caplog)


@each_architecture
def test_off_weakens_nothing(architecture, model, guide, patch, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    core = run.sample(core_guider(model, positive))
    with caplog.at_level(logging.INFO):
        guider = guide(model=model, positive=positive, weak_scale=1.0)
        assert torch.equal(run.sample(guider), core)
        patched = patch(model, weak_scale=1.0)
        assert torch.equal(run.sample(core_guider(patched, positive)), core)
    assert said(caplog) == []


@each_architecture
def test_model_weakens_itself_beside_a_negative_prompt_too(
    architecture, model, guide, patch, caplog
):
    """The guider with a negative prompt is the patch on a sampler that has one."""
    run = Run.of(model, shape=architecture.latent, steps=2)
    both = architecture.conditioning(1), architecture.conditioning(2)
    with caplog.at_level(logging.INFO):
        guided = run.sample(guide(model=model, positive=both[0], negative=both[1], cfg=3.0))
    assert torch.equal(guided, run.sample(core_guider(patch(model), *both, 3.0)))
    plain = run.sample(core_guider(model, *both, 3.0))
    assert distance(guided, plain) > 1e-3
    assert "weak_scale 1.7, and from the negative prompt, cfg 3." in said(caplog)[0]
    off = guide(model=model, positive=both[0], negative=both[1], cfg=3.0, weak_scale=1.0)
    assert torch.equal(run.sample(off), plain)


@pytest.mark.parametrize("depth", [-1, -2])
def test_distilled_unet_weakens_itself(depth, guide):
    architecture, model = BY_NAME["sdxl"], sdxl(0, middle_depth=depth)
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    itself = run.sample(guide(model=model, positive=positive))
    assert distance(itself, run.sample(core_guider(model, positive))) > 1e-3


def test_what_is_neither_unet_nor_transformer_loses_rank(pack, monkeypatch):
    """Checked on the way only, since no such network is built small."""
    asked = []

    def with_low_rank(node, model, **settings):
        asked.append(settings)
        return model

    monkeypatch.setattr(pack.guiders.weaken.weights, "with_low_rank", with_low_rank)
    model = sd3(0)
    bare = model.clone()
    bare.add_object_patch("diffusion_model", torch.nn.Sequential(torch.nn.Linear(2, 2)))
    made = pack.guiders.weaken.auto.weak_version("Some Node", bare)
    assert asked[0]["keep"] == 0.5 and len(asked[0]["keys"]) > 10
    assert made.what == "SD3 with half of the rank of its weights"


def test_guider_behind_a_patch_weakens_the_model_from_before_it(guide, patch, by_hand):
    architecture = BY_NAME["sd3"]
    model = architecture.build(0)
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive, other = architecture.conditioning(1), architecture.conditioning(2)
    patched = patch(model, weak_positive=other)
    itself = run.sample(guide(model=patched, positive=positive))
    weak = by_hand(architecture, model)
    assert torch.equal(itself, run.sample(guide(model=patched, positive=positive, weak_model=weak)))
    assert distance(itself, run.sample(core_guider(patched, positive))) > 1e-3
