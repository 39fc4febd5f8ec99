"""Off is off: the same bits as ComfyUI without this pack, and no pass of the weak model."""

import comfy.samplers
import pytest
import torch

from support.rig import Run, call, core_guider, count_model_calls


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_guider_off_is_core_for_every_sampler(
    sampler, main, weak, positive, negative, guide, patch
):
    run = Run.of(main, shape=(1, 16, 8, 8), sampler=sampler)
    core = run.sample(core_guider(main, positive, negative, 3.0))
    inputs = {"model": main, "positive": positive, "negative": negative, "weak_model": weak}
    with count_model_calls(weak) as weak_calls:
        assert torch.equal(run.sample(guide(**inputs, weak_scale=1.0)), core)
        patched = patch(main, weak_model=weak, weak_scale=1.0)
        assert torch.equal(run.sample(core_guider(patched, positive, negative, 3.0)), core)
    assert weak_calls == [0]
    assert not torch.equal(run.sample(guide(**inputs)), core)


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_patch_off_is_ksampler_for_every_scheduler(
    scheduler, main, weak, positive, negative, patch, comfy_nodes
):
    def ksampler(model):
        (latent,) = call(
            comfy_nodes["KSampler"],
            model=model,
            seed=5,
            steps=3,
            cfg=3.0,
            sampler_name="dpmpp_2m",
            scheduler=scheduler,
            positive=positive,
            negative=negative,
            latent_image={"samples": torch.zeros(1, 16, 8, 8)},
        )
        return latent["samples"]

    with count_model_calls(weak) as weak_calls:
        off = ksampler(patch(main, weak_model=weak, weak_scale=1.0))
    assert torch.equal(off, ksampler(main))
    assert weak_calls == [0]


def test_guider_with_negative_only_is_core(main, positive, negative, guide):
    run = Run.of(main)
    ours = guide(weak_scale=1.0, model=main, positive=positive, negative=negative)
    core = core_guider(main, positive, negative, 3.0)
    assert torch.equal(run.sample(ours), run.sample(core))


def test_guider_without_negative_makes_no_pass_for_one(main, weak, positive, guide):
    """Whatever ``cfg`` says: there is nothing to push away from."""
    run = Run.of(main)
    off = guide(model=main, positive=positive, weak_model=weak, weak_scale=1.0, cfg=5.0)
    with count_model_calls(main) as main_calls:
        latent = run.sample(off)
    assert main_calls == [len(run.sigmas) - 1]
    assert torch.equal(latent, run.sample(core_guider(main, positive)))


def test_cfg_pp_without_negative_takes_the_positive_for_it(main, weak, positive, guide):
    """Samplers of the CFG++ kind use the negative prediction even at cfg 1."""
    run = Run.of(main, sampler="euler_cfg_pp")
    off = guide(model=main, positive=positive, weak_model=weak, weak_scale=1.0)
    euler = run.with_(sampler="euler").sample(core_guider(main, positive))
    torch.testing.assert_close(run.sample(off), euler, rtol=1e-4, atol=1e-4)
