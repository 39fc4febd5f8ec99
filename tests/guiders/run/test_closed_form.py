"""On is right: every guided prediction is the closed form of separate predictions."""

import comfy.sample
import pytest
import torch

from support.rig import Pushes, Run, add_weights, call, close, core_guider, record

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture(params=["another checkpoint", "same base, LoRA on the weak", "LoRA on the main"])
def pair(request, main, weak):
    """Main and weak model: two checkpoints, or one base with weights that differ."""
    if request.param == "another checkpoint":
        return main, weak
    patched = add_weights(main)
    return (main, patched) if "weak" in request.param else (patched, main)


@pytest.mark.parametrize("pushes", ["weak", "negative", "both"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde"])
def test_every_model_call_has_the_closed_form(pushes, sampler, pair, positive, negative, guide):
    main, weak = pair
    run = Run.of(main, sampler=sampler)
    inputs = {"negative": negative} if pushes != "weak" else {}
    inputs |= {"weak_model": weak} if pushes != "negative" else {"weak_scale": 1.0}
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, **inputs))
    Pushes(
        main,
        positive,
        inputs.get("negative"),
        CFG if "negative" in inputs else 1.0,
        inputs.get("weak_model"),
        WEAK_SCALE,
    ).assert_hold(run, recording)


def predict(model, conditioning, x, sigma):
    """One prediction of one model from its own weights, without ComfyUI's sampling code."""
    ((context, extra),) = conditioning
    return model.model.apply_model(
        x,
        sigma.expand(len(x)),
        c_crossattn=context.expand(len(x), -1, -1),
        y=extra["pooled_output"].expand(len(x), -1),
    )


def test_whole_run_equals_a_brute_force_euler_loop(main, weak, positive, negative, guide):
    run = Run.of(main, steps=6)
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    actual = run.sample(guider)

    x = comfy.sample.prepare_noise(run.latent, run.seed) * run.sigmas[0]
    for sigma, next_sigma in zip(run.sigmas[:-1], run.sigmas[1:], strict=True):
        C = predict(main, positive, x, sigma)
        N = predict(main, negative, x, sigma)
        W = predict(weak, positive, x, sigma)
        denoised = C + (CFG - 1) * (C - N) + (WEAK_SCALE - 1) * (C - W)
        x = x + (next_sigma - sigma) * (x - denoised) / sigma
    assert close(actual, main.model.process_latent_out(x), 1e-4)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "uni_pc", "euler_cfg_pp"])
def test_patch_in_ksampler_gives_the_bits_of_the_guider(
    sampler, pair, positive, negative, guide, patch, comfy_nodes
):
    main, weak = pair
    latent = {"samples": torch.zeros(2, 16, 8, 8)}
    (from_ksampler,) = call(
        comfy_nodes["KSampler"],
        model=patch(main, weak_model=weak),
        seed=5,
        steps=4,
        cfg=CFG,
        sampler_name=sampler,
        scheduler="simple",
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    # KSampler takes one more step of uni_pc, and leaves the last but one out.
    more = sampler == "uni_pc"
    (sigmas,) = call(
        comfy_nodes["BasicScheduler"],
        model=main,
        scheduler="simple",
        steps=4 + more,
        denoise=1.0,
    )
    if more:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    from_guider, _ = call(
        comfy_nodes["SamplerCustomAdvanced"],
        noise=call(comfy_nodes["RandomNoise"], noise_seed=5)[0],
        guider=guide(model=main, positive=positive, negative=negative, weak_model=weak),
        sampler=call(comfy_nodes["KSamplerSelect"], sampler_name=sampler)[0],
        sigmas=sigmas,
        latent_image=latent,
    )
    assert torch.equal(from_ksampler["samples"], from_guider["samples"])


def test_weak_positive_is_what_the_weak_model_sees(main, weak, positive, negative, guide):
    run = Run.of(main)
    recorded, recording = record(main)
    guider = guide(model=recorded, positive=positive, weak_model=weak, weak_positive=negative)
    run.sample(guider)
    Pushes(main, positive, weak=weak, weak_scale=WEAK_SCALE, weak_positive=negative).assert_hold(
        run, recording
    )


def test_weak_positive_alone_makes_the_model_its_own_bad_version(main, positive, negative, guide):
    """Then the weak push is classifier-free guidance by another name."""
    run = Run.of(main)
    weak_push = run.sample(guide(model=main, positive=positive, weak_positive=negative))
    cfg = run.sample(core_guider(main, positive, negative, WEAK_SCALE))
    assert close(weak_push, cfg, 1e-4)


def test_two_patches_on_one_model_add_up(main, weak, positive, negative, patch):
    other = add_weights(main)
    run = Run.of(main)
    recorded, recording = record(main)
    once = patch(recorded, weak_model=weak)
    twice = patch(once, weak_model=other, weak_scale=1.4)
    run.sample(core_guider(twice, positive, negative, CFG))
    C = run.replay(core_guider(main, positive), recording)
    core = run.replay(core_guider(main, positive, negative, CFG), recording)
    R1 = run.replay(core_guider(weak, positive), recording)
    R2 = run.replay(core_guider(other, positive), recording)
    for c, r1, r2, base, guided in zip(C, R1, R2, core, recording.denoised, strict=True):
        assert close(guided, base + 0.7 * (c - r1) + 0.4 * (c - r2))


def test_scale_below_one_pulls_towards_the_weak_model(main, weak, positive, guide):
    run = Run.of(main)
    pulled = run.sample(guide(model=main, positive=positive, weak_model=weak, weak_scale=0.0))
    assert close(pulled, run.sample(core_guider(weak, positive)), 1e-4)
