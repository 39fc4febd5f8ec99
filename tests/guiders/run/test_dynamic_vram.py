"""Bad versions of models that ComfyUI loads dynamically: the bits of those that it does not."""

from contextlib import nullcontext

import comfy.model_management
import pytest
import torch

from support.dynamic_vram import AVAILABLE, CARD, REASON, RESIDENT, dynamic_vram
from support.rig import (
    Pushes,
    Run,
    add_weights,
    added_weights,
    core_guider,
    record,
    weight_hook,
)
from support.traces import HEARD, TROUBLES, trouble

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=REASON)

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture
def load(node):
    """A model from its file anew."""
    return lambda which: node(
        "UNETLoader", unet_name=f"digits_{which}.safetensors", weight_dtype="default"
    )


@pytest.fixture(params=RESIDENT)
def resident(request):
    return request.param


KINDS = {
    "another checkpoint": lambda node, load, main: {"weak_model": load("weak")},
    "LoRA on the weak": lambda node, load, main: {"weak_model": add_weights(main)},
    "LoRA on the main": lambda node, load, main: {"model": add_weights(main), "weak_model": main},
    "different LoRAs": lambda node, load, main: {
        "model": add_weights(main),
        "weak_model": add_weights(main, strength=-0.2),
    },
    "fewer bits": lambda node, load, main: {
        "weak_model": node("BadVersionWeakenWithFewerBits", model=main, bits=3, blocks="all")
    },
    "skipped block": lambda node, load, main: {
        "weak_model": node("BadVersionWeakenBySkippingBlocks", model=main, blocks="1")
    },
    "auto": lambda node, load, main: {},
}


def test_the_fixture_itself(load, positive, negative, resident):
    """Without any of ours."""

    def latents():
        main = load("main")
        run = Run.of(main)
        models = [main, add_weights(main)]
        return main, [run.sample(core_guider(m, positive, negative, CFG)) for m in models]

    with dynamic_vram(resident):
        main, dynamic = latents()
        assert main.is_dynamic() and main.load_device == CARD
        kept = [getattr(m, "_v_signature", None) for m in main.model.modules()]
        assert (None in kept, b"here" in kept) == (True, resident != "none resident")
    main, static = latents()
    assert not main.is_dynamic()
    assert all(map(torch.equal, dynamic, static))


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_the_static_patcher(kind, resident, node, load, positive, negative, guide):
    def latents():
        main = load("main")
        inputs = {"model": main, "positive": positive} | KINDS[kind](node, load, main)
        if kind != "auto":
            inputs["negative"] = negative
        run = Run.of(main)
        guider = guide(**inputs)
        alone = run.sample(core_guider(inputs["model"], positive))
        guided = [run.sample(guider) for _ in range(2)]
        assert not torch.equal(alone, guided[0])
        assert torch.equal(run.sample(core_guider(inputs["model"], positive)), alone)
        return [alone, *guided]

    with dynamic_vram(resident):
        dynamic = latents()
    assert all(map(torch.equal, dynamic, latents()))


@pytest.mark.parametrize("kind", [*KINDS, "prompt alone"])
@pytest.mark.parametrize("hooked", ["positive", "weak_positive", "both"])
def test_hooked_conditionings(kind, hooked, node, load, positive, negative, guide):
    """For these ComfyUI runs a delegate in the main model's place, whose weights are others."""
    if kind == "auto" and hooked != "positive":
        pytest.skip("the guider weakens nothing of itself where there is a weak prompt")

    def latents():
        main = load("main")
        other = node("DigitConditioning", digit="1")
        inputs = {"model": main, "positive": positive}
        inputs |= {} if kind == "prompt alone" else KINDS[kind](node, load, main)
        if kind == "prompt alone" or hooked != "positive":
            inputs["weak_positive"] = other
        if kind != "auto":
            inputs["negative"] = negative
        plain = Run.of(main).sample(guide(**inputs))
        for name, model in (("positive", main), ("weak_positive", inputs.get("weak_model", main))):
            if hooked in (name, "both"):
                hook = weight_hook(added_weights(add_weights(unpatched(model), seed=8)))
                inputs[name] = [[cond, {**rest, "hooks": hook}] for cond, rest in inputs[name]]
        guider = guide(**inputs)
        guided = [Run.of(main).sample(guider) for _ in range(2)]
        assert not torch.equal(plain, guided[0])
        return guided

    with dynamic_vram("part resident"):
        dynamic = latents()
    for a, b in zip(dynamic, latents(), strict=True):
        assert torch.equal(a, b)


def unpatched(model):
    plain = model.clone()
    plain.patches = {}
    return plain


def test_weak_model_by_itself(load, weaken, positive):
    """Where ComfyUI patches dynamically, it makes copies of what patches."""
    run = None
    latents = []
    for where in (dynamic_vram("part resident"), nullcontext()):
        with where:
            weak = weaken(load("main"))
            run = run or Run.of(weak)
            latents.append(run.sample(core_guider(weak, positive)))
    assert torch.equal(*latents)


@pytest.fixture
def weaken(node):
    return lambda model: node(
        "BadVersionWeakenWithFewerBits", model=add_weights(model), bits=3, blocks="all"
    )


def test_other_models_stay_loaded(load, weaken, positive, guide, monkeypatch):
    """One model that is not loaded dynamically, and ComfyUI makes room by unloading the others."""
    asked = []
    free = comfy.model_management.free_memory

    def noted(*args, for_dynamic=False, **kwargs):
        asked.append(for_dynamic)
        return free(*args, for_dynamic=for_dynamic, **kwargs)

    with dynamic_vram("all resident"):
        monkeypatch.setattr(comfy.model_management, "free_memory", noted)
        main = load("main")
        guider = guide(model=main, positive=positive, weak_model=weaken(main))
        for _ in range(2):
            Run.of(main).sample(guider)
        assert asked and all(asked)


def test_other_tensors_after_the_first(resident, load, positive, guide, patch):
    """More of them than there was room for at first."""

    def latents():
        main = load("main")
        few = add_weights(main)
        few.patches = dict([*few.patches.items()][:2])
        patched = patch(main, weak_model=few)
        run = Run.of(main)
        return [
            run.sample(core_guider(model, positive))
            for model in (patched, add_weights(patched, strength=0.1, seed=5), patched)
        ]

    with dynamic_vram(resident):
        dynamic = latents()
    assert torch.equal(dynamic[0], dynamic[2])
    assert all(map(torch.equal, dynamic, latents()))


@pytest.mark.parametrize("how", TROUBLES)
def test_trouble_leaves_nothing(how, resident, load, weaken, positive, negative, guide):
    with dynamic_vram(resident):
        main = load("main")
        run = Run.of(main)
        core = core_guider(main, positive, negative, CFG)
        alone = run.sample(core)
        prompts = {"positive": positive, "negative": negative}
        guider = guide(model=main, weak_model=weaken(main), **prompts)
        latent = run.sample(guider)
        for call in (0, 1, 3):
            with trouble([main], call, how), pytest.raises((*HEARD, ValueError)):
                run.sample(guider)
            assert torch.equal(run.sample(guider), latent)
        assert torch.equal(run.sample(core), alone)


def test_closed_form(resident, load, weaken, positive, negative, guide):
    with dynamic_vram(resident):
        main = add_weights(load("main"))
        weak = weaken(main)
        run = Run.of(main)
        recorded, recording = record(main)
        guider = guide(model=recorded, positive=positive, negative=negative, weak_model=weak)
        run.sample(guider)
        Pushes(main, positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, recording)
