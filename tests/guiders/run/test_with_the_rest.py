"""The rest of ComfyUI keeps working with the push on, each time checked against the closed form."""

import comfy.hooks
import pytest
import torch

from support.rig import (
    Pushes,
    Recording,
    Run,
    add_weights,
    added_weights,
    core_guider,
    record,
    sampling_twice,
    weight_hook,
)
from support.small_models import conditionings, unet, video_model

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture
def check(positive, negative, guide, weak):
    """Guide, record and compare; ``main`` comes with whatever a test has stacked on it."""

    def check(
        main, run, positive=positive, negative=negative, weak=weak, after=lambda model: model
    ):
        recorded, recording = record(main)
        guider = guide(
            model=recorded,
            positive=positive,
            negative=negative,
            weak_model=weak,
            weak_scale=WEAK_SCALE,
        )
        if after is not None:
            guider = core_guider(after(guider.model_patcher), positive, negative, CFG)
        run.sample(guider)
        Pushes(after(main), positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, recording)
        return recording

    return check


@pytest.fixture
def picture(main):
    """A latent with something in it, and a run that starts from it."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 16, 8, 8, generator=generator)


def test_batch_of_five(check, main):
    check(main, Run.of(main, shape=(5, 16, 8, 8)))


def test_picture_that_is_not_square(check, main):
    check(main, Run.of(main, shape=(1, 16, 8, 14)))


def test_image_to_image_with_partial_denoise(check, main, picture):
    full = Run.of(main, steps=6)
    check(main, full.with_(latent=picture, sigmas=full.sigmas[-4:]))


def test_inpaint_mask_at_picture_size(check, main, picture):
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, :32] = 1
    run = Run.of(main).with_(latent=picture, mask=mask)
    recording = check(main, run)
    kept = main.model.process_latent_in(picture)[..., :2, :]
    assert not torch.equal(recording.denoised[-1][..., :2, :], kept)


def test_inpainting_model(check):
    """A U-Net that is shown the masked picture, for which both models need the run's own mask."""
    main, weak = (unet(seed, in_channels=9) for seed in (0, 1))
    positive, negative = conditionings
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, 16, 16, generator=generator)
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, :64] = 1
    run = Run.of(main).with_(latent=latent, mask=mask)
    check(main, run, positive, negative, weak)


def test_two_areas(check, main, node, positive):
    left = node(
        "ConditioningSetArea", conditioning=positive, width=32, height=64, x=0, y=0, strength=1.0
    )
    right = node(
        "ConditioningSetArea",
        conditioning=node("DigitConditioning", digit="8"),
        width=40,
        height=64,
        x=24,
        y=0,
        strength=0.8,
    )
    both = node("ConditioningCombine", conditioning_1=left, conditioning_2=right)
    check(main, Run.of(main), positive=both)


def test_masked_conditioning(check, main, node, positive):
    mask = torch.zeros(1, 64, 64)
    mask[..., :40] = 1
    masked = node(
        "ConditioningSetMask",
        conditioning=positive,
        mask=mask,
        strength=1.0,
        set_cond_area="default",
    )
    rest = node(
        "ConditioningSetMask",
        conditioning=node("DigitConditioning", digit="8"),
        mask=1 - mask,
        strength=0.7,
        set_cond_area="mask bounds",
    )
    both = node("ConditioningCombine", conditioning_1=masked, conditioning_2=rest)
    check(main, Run.of(main), positive=both)


def test_conditioning_time_ranges(check, main, node, positive):
    early = node("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.5)
    late = node(
        "ConditioningSetTimestepRange",
        conditioning=node("DigitConditioning", digit="8"),
        start=0.5,
        end=1.0,
    )
    both = node("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    check(main, Run.of(main, steps=6), positive=both)


def test_lora_on_the_main_model(check, main):
    check(add_weights(main), Run.of(main))


def test_lora_put_behind_the_patch(check, main):
    check(main, Run.of(main), after=add_weights)


@pytest.fixture
def hooked(main, positive):
    """The positive conditioning with a LoRA of its own, whose strength changes on the way."""
    weights = added_weights(add_weights(main, seed=8))
    hooks = weight_hook(weights, (0.5, 0.0), (-0.3, 0.4))
    return comfy.hooks.set_hooks_for_conditioning(positive, hooks)


@pytest.fixture(params=["another checkpoint", "same base"])
def sibling(request, main, node):
    """A weak model on which the hooked LoRA fits, too."""
    if request.param == "same base":
        return add_weights(main)
    again = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    return add_weights(again)


def test_hook_lora_with_keyframes(check, main, sibling, hooked, positive):
    """Weight hooks travel with the conditioning; their keyframes advance for each model apart."""
    run = Run.of(main, steps=6)
    recording = check(main, run, positive=hooked, weak=sibling)
    without = run.replay(core_guider(main, positive), recording)
    with_hook = run.replay(core_guider(main, hooked), recording)
    assert not any(map(torch.equal, with_hook, without))


def test_hook_lora_left_in_the_weights_by_the_main_pass(main, sibling, hooked, guide):
    """Without a negative pass behind it, the hook is still in place at the weak model's turn."""
    run = Run.of(main, steps=6)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=hooked, weak_model=sibling))
    Pushes(main, hooked, weak=sibling, weak_scale=WEAK_SCALE).assert_hold(run, recording)


def test_hook_lora_on_the_weak_positive_only(main, sibling, hooked, positive, guide):
    run = Run.of(main, steps=6)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_model=sibling, weak_positive=hooked))
    Pushes(main, positive, weak=sibling, weak_scale=WEAK_SCALE, weak_positive=hooked).assert_hold(
        run, recording
    )


def test_control_net(check, main, controlled, positive, negative):
    """The weak model sees the positive conditioning with its control net."""
    both = controlled(positive, negative, end_percent=0.6)
    check(main, Run.of(main, steps=4), *both, weak=add_weights(main))


STACKED = {
    "RescaleCFG": {"multiplier": 0.7},
    "SkipLayerGuidanceDiT": {
        "double_layers": "1",
        "single_layers": "",
        "scale": 2.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
    },
    "CFGZeroStar": {},
}


@pytest.mark.parametrize("name", STACKED)
def test_core_node_stacked_before(name, check, main, node):
    check(node(name, model=main, **STACKED[name]), Run.of(main))


def test_post_cfg_functions_of_others_get_the_push_too(main, weak, positive, negative, guide):
    """What caps or rescales the guided result must see all of it, even where it came first."""
    halved = main.clone()
    halved.set_model_sampler_post_cfg_function(lambda args: 0.5 * args["denoised"])
    run = Run.of(main)
    recorded, recording = record(halved)
    run.sample(guide(model=recorded, positive=positive, negative=negative, weak_model=weak))
    plain = Recording(recording.x, recording.sigma, [2 * d for d in recording.denoised])
    Pushes(main, positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, plain)


@pytest.mark.parametrize("name", ["RescaleCFG", "SkipLayerGuidanceDiT"])
def test_core_node_stacked_after(name, check, main, node):
    check(main, Run.of(main), after=lambda model: node(name, model=model, **STACKED[name]))


def test_perturbed_attention_on_a_unet(check, node):
    """An eps-prediction U-Net: core's node works on these."""
    main, weak, positive, negative = unet(0), unet(1), *conditionings
    run = Run.of(main, shape=(2, 4, 16, 16))
    stacked = node("PerturbedAttentionGuidance", model=main, scale=1.5)
    check(stacked, run, positive, negative, weak)
    check(
        main,
        run,
        positive,
        negative,
        weak,
        after=lambda m: node("PerturbedAttentionGuidance", model=m, scale=1.5),
    )


def test_sampler_cfg_function(check, main):
    stacked = main.clone()
    stacked.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + 2.0 * (args["cond"] - args["uncond"]) * args["sigma"].max()
    )
    check(stacked, Run.of(main))


@pytest.mark.parametrize(
    "sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "res_multistep_ancestral_cfg_pp"]
)
def test_cfg_pp_samplers(sampler, check, main):
    check(main, Run.of(main, sampler=sampler))


def test_v_prediction_against_eps(check, node):
    """The two kinds mean the same by a sigma, so their predictions may be mixed."""
    main, positive, negative = unet(0), *conditionings
    weak = node("ModelSamplingDiscrete", model=unet(1), sampling="v_prediction", zsnr=False)
    check(main, Run.of(main, shape=(2, 4, 16, 16)), positive, negative, weak)


def test_video_latents(check):
    main, weak, positive, negative = video_model(0), video_model(1), *conditionings
    check(main, Run.of(main, shape=(1, 16, 5, 4, 6)), positive, negative, weak)


def test_context_windows(check, node, windowed):
    """The weak model sees the same windows, though only the main model has the node."""
    main, weak, positive, negative = video_model(0), video_model(1), *conditionings
    run = Run.of(main, shape=(1, 16, 9, 4, 4))
    recorded, recording = record(windowed(main))
    from_main_only = node("BadVersionPatch", model=recorded, weak_model=weak, weak_scale=WEAK_SCALE)
    run.sample(core_guider(from_main_only, positive, negative, CFG))
    pushes = Pushes(windowed(main), positive, negative, CFG, windowed(weak), WEAK_SCALE)
    pushes.assert_hold(run, recording)


@pytest.fixture(params=["another checkpoint", "same base", "other prompt"])
def bad_version(request, main, weak, negative):
    """One of each kind, as inputs of our nodes."""
    return {
        "another checkpoint": {"weak_model": weak},
        "same base": {"weak_model": add_weights(main)},
        "other prompt": {"weak_positive": negative},
    }[request.param]


def test_wrapper_of_another_pack_that_samples_twice(bad_version, main, positive, guide):
    """What the push hangs into a run must be gone when the same run is gone through again."""
    run = Run.of(main)
    once = run.sample(guide(model=main, positive=positive, **bad_version))
    twice = guide(model=sampling_twice(main), positive=positive, **bad_version)
    assert torch.equal(run.sample(twice), once)


def test_wrapper_behind_the_patch_that_samples_twice(
    bad_version, main, weak, positive, negative, patch
):
    """There both times are within one run of the weak model."""
    patched = patch(main, **bad_version)
    run = Run.of(main)
    once = run.sample(core_guider(patched, positive, negative, CFG))
    twice = core_guider(sampling_twice(patched), positive, negative, CFG)
    assert torch.equal(run.sample(twice), once)
    assert weak.model.current_patcher is None


def test_same_guider_twice(main, weak, positive, negative, guide):
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    assert torch.equal(run.sample(guider), run.sample(guider))


def test_two_guiders_in_one_graph(main, weak, positive, negative, guide):
    """In turn, with another scale each, sharing both models."""
    inputs = {"model": main, "positive": positive, "negative": negative}
    run = Run.of(main)
    alone = [
        run.sample(guide(**inputs, weak_model=weak, weak_scale=1.3)),
        run.sample(guide(**inputs, weak_model=add_weights(main), weak_scale=2.2)),
    ]
    first = guide(**inputs, weak_model=weak, weak_scale=1.3)
    second = guide(**inputs, weak_model=add_weights(main), weak_scale=2.2)
    for _ in range(2):
        assert torch.equal(run.sample(first), alone[0])
        assert torch.equal(run.sample(second), alone[1])


def test_cloned_by_nodes_downstream(main, weak, positive, negative, patch):
    """Every patch node behind ours clones the model; the push must survive and stay single."""
    patched = patch(main, weak_model=weak)
    run = Run.of(main)
    expected = run.sample(core_guider(patched, positive, negative, CFG))
    clone = patched.clone().clone()
    assert torch.equal(run.sample(core_guider(clone, positive, negative, CFG)), expected)
