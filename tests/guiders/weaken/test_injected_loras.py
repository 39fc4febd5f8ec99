"""LoRAs that ComfyUI's bypass loader injects beside the weights, alone and with others in them."""

import comfy.sd
import comfy.utils
import pytest
import torch

from comfyui.install import ROOT
from support.rig import Pushes, Run, add_weights, close, core_guider, record
from support.traces import state

pytest.importorskip(
    "comfy.weight_adapter.bypass", reason="this ComfyUI has no loader that injects LoRAs"
)

NODE = "Some Weaken Node"
LORA = ROOT / "lab" / "assets" / "digits_bold_lora.safetensors"


@pytest.fixture(scope="module")
def weights(pack):
    return pack.guiders.weaken.weights


@pytest.fixture(scope="module")
def injected():
    """A clone with the LoRA beside the weights."""
    lora = comfy.utils.load_torch_file(str(LORA), safe_load=True)

    def injected(model, strength=0.8):
        loader = comfy.sd.load_bypass_lora_for_models
        (clone, _) = loader(model, None, lora, strength, 0.0)
        assert clone.injections
        return clone

    return injected


@pytest.fixture(scope="module")
def patched():
    """A clone with the same LoRA in the weights."""
    lora = comfy.utils.load_torch_file(str(LORA), safe_load=True)
    return lambda model, strength=0.8: comfy.sd.load_lora_for_models(
        model, None, lora, strength, 0.0
    )[0]


@pytest.fixture
def check(positive, negative, guide):
    """The weak version is, in the closed form, the model that it is to be; nothing is left."""

    def check(model, weak, expected, main_alone):
        run = Run.of(model)
        before = run.sample(core_guider(model, positive, negative, 3.0))
        recorded, recording = record(model)
        inputs = {"model": recorded, "positive": positive, "negative": negative}
        guider = guide(**inputs, weak_model=weak)
        latent = run.sample(guider)
        assert not close(latent, before, 1e-3), "the push would not be seen"
        traces = state(model, weak)
        assert torch.equal(run.sample(guider), latent)
        assert state(model, weak) == traces
        del recording.x[3:], recording.sigma[3:], recording.denoised[3:]
        pushes = Pushes(main_alone, positive, negative, 3.0, expected, 1.7)
        pushes.assert_hold(run, recording)
        assert torch.equal(run.sample(core_guider(model, positive, negative, 3.0)), before)

    return check


@pytest.mark.parametrize("keep", [0.0, 0.4, -0.5, 2.0])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a plain one"])
def test_strength_is_scaled(keep, beside, weights, injected, patched, main, check):
    model, base = injected(main), main
    if beside:
        model, base = add_weights(model), add_weights(main, 0.3 * keep) if keep else main
    weak = weights.without_loras(NODE, model, keep=keep)
    expected = patched(base, 0.8 * keep) if keep else base
    main_alone = patched(add_weights(main) if beside else main)
    check(model, weak, expected, main_alone)


def test_strength_is_scaled_twice(weights, injected, patched, main, check):
    model = injected(main)
    half = weights.without_loras(NODE, model, keep=0.5)
    quarter = weights.without_loras(NODE, half, keep=0.5)
    check(model, quarter, patched(main, 0.2), patched(main))
    assert not weights.without_loras(NODE, half, keep=0.0).injections.get("bypass_lora")


@pytest.mark.parametrize("amount", [1.0, 0.6, 1.5, -0.5])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a plain one"])
def test_towards_the_base(amount, beside, weights, injected, patched, main, check):
    model = injected(main)
    expected = patched(main, 0.8 * (1 - amount)) if amount != 1 else main
    if beside:
        model = add_weights(model)
        expected = add_weights(expected, 0.3 * (1 - amount)) if amount != 1 else main
    weak = weights.against_base(NODE, model, main, amount=amount)
    check(model, weak, expected, patched(add_weights(main) if beside else main))


def test_towards_a_base_that_has_it_as_well(weights, injected, patched, main, check):
    base = injected(main)
    model = add_weights(base)
    weak = weights.against_base(NODE, model, base, amount=1.0)
    check(model, weak, patched(main), patched(add_weights(main)))


def test_towards_a_base_that_alone_has_it(weights, injected, patched, main, check):
    model = add_weights(main)
    weak = weights.against_base(NODE, model, injected(main), amount=0.5)
    check(model, weak, patched(add_weights(main, 0.15), 0.4), model)


def test_towards_another_checkpoint(weights, injected, patched, main, node, check):
    other = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    other = add_weights(other, seed=9)
    model = injected(main)
    weak = weights.against_base(NODE, model, other, amount=0.5)
    check(model, weak, patched(add_weights(main, 0.15, seed=9), 0.4), patched(main))


def test_of_another_checkpoint_cannot_be_had(weights, injected, main, node, pack):
    other = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'base_model'.*\(bypass\)"):
        weights.against_base(NODE, main, injected(other), amount=0.5)


def test_same_injection_on_both_is_no_difference(weights, injected, main, pack):
    model = injected(main)
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'base_model'.*very weights"):
        weights.against_base(NODE, model, model.clone(), amount=1.0)


def test_model_from_before_the_loader_is_a_weak_model(injected, patched, main, check):
    check(injected(main), main, main, patched(main))
