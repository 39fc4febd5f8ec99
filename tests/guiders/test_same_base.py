"""A weak model that shares its weights with the main one, in every way ComfyUI may hold them."""

import comfy.model_patcher
import pytest
import torch
from comfy.patcher_extension import PatcherInjection

from rig import Legs, Run, add_weights, close, core_guider, record

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture
def assert_closed_form(positive, negative, guide):
    """Guide ``main`` away from ``weak``, and compare with the two run apart."""

    def assert_closed_form(main, weak, run=None):
        run = run or Run.of(main)
        recorded, recording = record(main)
        guider = guide(model=recorded, positive=positive, negative=negative, weak_model=weak)
        latent = run.sample(guider)
        Legs(main, positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, recording)
        return latent

    return assert_closed_form


@pytest.fixture(params=["LoRA on the weak", "LoRA on the main", "different LoRAs"])
def pair(request, main):
    """Main and weak model on one base."""
    lora = add_weights(main)
    return {
        "LoRA on the weak": (main, lora),
        "LoRA on the main": (lora, main),
        "different LoRAs": (lora, add_weights(main, strength=-0.2)),
    }[request.param]


def test_equals_a_second_checkpoint(pair, main, node, positive, negative, guide):
    """The weights of the weak version, loaded from elsewhere, give the same picture."""
    guided, weak = pair
    other = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    if weak.patches:
        own = {key: [] for key in weak.patches}
        other.patches = own | {key: list(patches) for key, patches in weak.patches.items()}
    run = Run.of(main)
    inputs = {"model": guided, "positive": positive, "negative": negative}
    by_swap = run.sample(guide(**inputs, weak_model=weak))
    assert close(by_swap, run.sample(guide(**inputs, weak_model=other)), 1e-6)


def test_partly_offloaded(pair, assert_closed_form, monkeypatch):
    """ComfyUI then patches the offloaded weights on the fly, at each use."""
    main, weak = pair
    whole = assert_closed_form(main, weak)
    load = comfy.model_patcher.ModelPatcher.partially_load
    offloaded = []

    def partially_load(self, device_to, extra_memory=0, **options):
        # A card on which there is always room for so many bytes of weights, and no more.
        room = 4_000_000 - self.loaded_size()
        loaded = load(self, device_to, max(0.1, min(extra_memory, room)), **options)
        offloaded.append(self.model.model_lowvram)
        return loaded

    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "partially_load", partially_load)
    try:
        assert close(assert_closed_form(main, weak), whole)
        assert all(offloaded)
    finally:
        comfy.model_management.unload_all_models()


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weights_in_8_bits(dtype, node, assert_closed_form):
    """Patched weights are rounded back to 8 bits; the swapped ones as ComfyUI rounds them."""
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype=dtype)
    weights = base.model.diffusion_model.joint_blocks[0].x_block.attn.qkv.weight
    assert weights.dtype.itemsize == 1
    assert_closed_form(add_weights(base), base)


def test_another_noise_schedule_on_the_weak_model(main, node, assert_closed_form):
    """An object patch: this one tells the network another time at the same sigma."""
    other = node("ModelSamplingAuraFlow", model=main, shift=3.0)
    assert_closed_form(main, other)
    assert_closed_form(other, add_weights(main), Run.of(other))


def test_patched_attention_on_the_weak_model(main, assert_closed_form):
    """Nothing but other transformer options: no weight is touched."""
    weak = main.clone()
    weak.set_model_patch(lambda q, k, v, *_: {"q": q, "k": k, "v": 0.5 * v}, "attn1_patch")
    weak.set_model_unet_function_wrapper(
        lambda apply_model, args: 0.9 * apply_model(args["input"], args["timestep"], **args["c"])
    )
    assert_closed_form(main, weak)


def test_injections_of_either_model(main, assert_closed_form, positive, guide):
    """Some packs do not patch weights but change modules while their model is in use."""

    def scaling(factor):
        block = main.model.diffusion_model.joint_blocks[1]

        def inject(patcher):
            forward = type(block).forward
            block.forward = lambda *args, **kwargs: tuple(
                None if t is None else factor * t for t in forward(block, *args, **kwargs)
            )

        def eject(patcher):
            block.__dict__.pop("forward", None)

        return PatcherInjection(inject=inject, eject=eject)

    stronger, weaker = main.clone(), add_weights(main)
    stronger.set_injections("test", [scaling(1.05)])
    weaker.set_injections("test", [scaling(0.9)])
    assert_closed_form(stronger, weaker)
    assert_closed_form(main, weaker)
    assert_closed_form(stronger, main)
    # ComfyUI leaves the main model injected behind a run.
    run = Run.of(main)
    guider = guide(model=stronger, positive=positive, weak_model=weaker)
    assert torch.equal(run.sample(guider), run.sample(guider))


def test_a_fresh_pair_that_was_never_loaded(node, assert_closed_form):
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    assert_closed_form(base, add_weights(base))


def test_switching_between_workflows(main, positive, negative, guide):
    """The same base, guided, then alone, then with its LoRA as the main model, then guided."""
    lora = add_weights(main)
    run = Run.of(main)
    inputs = {"positive": positive, "negative": negative}
    guided = guide(model=main, weak_model=lora, **inputs)
    first = run.sample(guided)
    alone = run.sample(core_guider(main, positive, negative, CFG))
    with_lora = run.sample(core_guider(lora, positive, negative, CFG))
    assert torch.equal(run.sample(guided), first)
    assert torch.equal(run.sample(core_guider(lora, positive, negative, CFG)), with_lora)
    assert torch.equal(run.sample(core_guider(main, positive, negative, CFG)), alone)
