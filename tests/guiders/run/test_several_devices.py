"""Guidance where ComfyUI shares the parts of a prompt out among devices: all of them CPUs here."""

import comfy.model_management
import pytest
import torch

from support.rig import Pushes, Run, add_weights, core_guider, record
from support.traces import HEARD, TROUBLES, state, trouble

multigpu = pytest.importorskip(
    "comfy.multigpu", reason="this ComfyUI uses one device", exc_type=ImportError
)

WEAK_SCALE, CFG = 1.7, 3.0
DEVICES = [torch.device("cpu"), torch.device("cpu", 0)]


@pytest.fixture
def split(monkeypatch):
    """A model with a copy on the other device."""
    monkeypatch.setattr(
        comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES
    )
    yield lambda model: multigpu.create_multigpu_deepclones(model, 2, reuse_loaded=True)
    comfy.model_management.unload_all_models()


@pytest.fixture
def passes(monkeypatch):
    """The models that ComfyUI has made a pass of, by class and identity."""
    import comfy.model_base

    seen = []
    apply_model = comfy.model_base.BaseModel.apply_model

    def noted(self, *args, **kwargs):
        seen.append(id(self))
        return apply_model(self, *args, **kwargs)

    monkeypatch.setattr(comfy.model_base.BaseModel, "apply_model", noted)
    return seen


@pytest.fixture
def two_parts(node, positive):
    """A prompt that ComfyUI predicts from in two parts."""
    return positive + node("DigitConditioning", digit="5")


@pytest.fixture
def fresh(node):
    return lambda which="main": node(
        "UNETLoader", unet_name=f"digits_{which}.safetensors", weight_dtype="default"
    )


def lora(model):
    return add_weights(model)


def fewer_bits(model, node):
    return node("BadVersionWeakenWithFewerBits", model=model, bits=3, blocks="all")


KINDS = {
    "same base, split before": lambda node, split, plain, weak: (
        main := split(plain),
        add_weights(main),
        add_weights(plain),
    ),
    "same base, split after": lambda node, split, plain, weak: (
        split(plain),
        add_weights(plain),
        add_weights(plain),
    ),
    "same base, fewer bits": lambda node, split, plain, weak: (
        main := split(plain),
        fewer_bits(main, node),
        fewer_bits(plain, node),
    ),
    "worse pass": lambda node, split, plain, weak: (
        main := split(plain),
        node("BadVersionWeakenBySkippingBlocks", model=main, blocks="1"),
        node("BadVersionWeakenBySkippingBlocks", model=plain, blocks="1"),
    ),
    "another checkpoint": lambda node, split, plain, weak: (split(plain), weak, weak),
    "another checkpoint, both split": lambda node, split, plain, weak: (
        split(plain),
        split(weak),
        weak,
    ),
    "another checkpoint alone split": lambda node, split, plain, weak: (plain, split(weak), weak),
}


@pytest.fixture(params=KINDS)
def models(request, node, split, fresh):
    """Main and weak model as they are connected, and each on one device."""
    plain, weak = fresh(), fresh("weak")
    main, weak, weak_alone = KINDS[request.param](node, split, plain, weak)
    return main, weak, plain, weak_alone


def test_closed_form(models, two_parts, negative, guide, passes):
    main, weak, main_alone, weak_alone = models
    run = Run.of(main)
    recorded, recording = record(main)
    guider = guide(model=recorded, positive=two_parts, negative=negative, weak_model=weak)
    first = run.sample(guider)
    if main.get_additional_models_with_key("multigpu"):
        assert len(set(passes)) >= 2 + (not weak.is_clone(main)), "nothing was shared out"
    Pushes(main_alone, two_parts, negative, CFG, weak_alone, WEAK_SCALE).assert_hold(run, recording)
    assert torch.equal(run.sample(guider), first)


def test_prompt_alone(split, fresh, two_parts, positive, negative, guide):
    plain = fresh()
    main, run = split(plain), Run.of(plain)
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": negative, "weak_positive": two_parts}
    run.sample(guide(model=recorded, **prompts))
    Pushes(plain, positive, negative, CFG, plain, WEAK_SCALE, two_parts).assert_hold(run, recording)


@pytest.mark.parametrize("how", TROUBLES)
def test_trouble_leaves_nothing(how, split, fresh, two_parts, negative, guide):
    plain = fresh()
    main = split(plain)
    prompts = {"positive": two_parts, "negative": negative}
    guider = guide(model=main, weak_model=add_weights(main), **prompts)
    run = Run.of(main)
    latent = run.sample(guider)
    patchers = [main, *main.get_additional_models_with_key("multigpu")]
    before = state(*patchers)
    for call in (1, 2, 4):
        with trouble(patchers, call, how), pytest.raises((*HEARD, ValueError)):
            run.sample(guider)
        assert torch.equal(run.sample(guider), latent)
        assert state(*patchers) == before


@pytest.mark.parametrize(
    "weaken",
    [
        ("BadVersionWeakenBySkippingBlocks", {"blocks": "1"}),
        ("BadVersionWeakenWithDropout", {"rate": 0.2, "seed": 1, "blocks": "all"}),
        ("BadVersionWeakenByNoisyClock", {"strength": 2.0, "power": 0.5, "seed": 1}),
    ],
    ids=lambda value: value[0],
)
def test_weak_model_as_the_main_one(weaken, split, fresh, node, two_parts, negative):
    """Two threads make its passes at once."""
    name, inputs = weaken
    plain = fresh()
    weak = node(name, model=plain, **inputs)
    run = Run.of(plain).with_(latent=torch.zeros(1, 16, 8, 8))
    expected = run.sample(core_guider(weak, two_parts, negative, CFG))
    for _ in range(3):
        shared = run.sample(core_guider(split(weak), two_parts, negative, CFG))
        torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-4)
