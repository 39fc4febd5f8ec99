"""A push away from the image's own past, in ComfyUI's own sampler."""

import math

import pytest
import torch

from support.rig import (
    STARTS,
    Run,
    alone,
    close,
    core_guider,
    count_model_calls,
    record,
    sampler_of,
)
from support.small_models import conditionings, unet

SCALE, MEMORY, CFG = 1.8, 0.4, 3.0


@pytest.fixture
def history(node):
    """A push away from the past with settings that are no defaults, at all steps."""

    def history(mode="momentum", scale=SCALE, memory=MEMORY, **inputs):
        everywhere = node("BadVersionGuidanceInterval", unit="percent", start=0.0, end=1.0)
        inputs = {"schedule": everywhere, **inputs}
        return node("BadVersionHistoryPush", mode=mode, scale=scale, memory=memory, **inputs)

    return history


def past_of(xs, sigmas, results, starts):
    """The running mean of velocities that each call finds, by the calls that led there."""
    means = []
    for x, sigma, D, start in zip(xs, sigmas, results, starts, strict=True):
        v = ((x - D) / sigma.view(-1, 1, 1, 1)).double()
        means.append(v if start is None else (1 - MEMORY) * v + MEMORY * means[start])
    return [None if start is None else means[start] for start in starts]


def expected(recording, results, starts):
    """Momentum guidance at each call, from what the sampler would have got without it."""
    past = past_of(recording.x, recording.sigma, results, starts)
    for x, sigma, D, m in zip(recording.x, recording.sigma, results, past, strict=True):
        if m is None:
            yield D
            continue
        spread = sigma.view(-1, 1, 1, 1).double()
        v = (x - D) / spread
        yield (D - (SCALE - 1) * spread * (v - m)).float()


@pytest.mark.parametrize("sampler", STARTS)
def test_momentum_follows_the_steps_that_a_sampler_keeps(
    sampler, main, positive, negative, guide, history
):
    run = Run.of(main, sampler=sampler_of(sampler))
    recorded, recording = record(main)
    inputs = {"positive": positive, "negative": negative, "weak_scale": 1.0}
    run.sample(guide(model=recorded, more_pushes=history(), **inputs))
    results = run.replay(core_guider(main, positive, negative, CFG), recording)
    assert len(recording) == len(STARTS[sampler])
    moved = False
    for i, wanted in enumerate(expected(recording, results, STARTS[sampler])):
        assert close(recording.denoised[i], wanted), f"call {i} is off"
        moved = moved or not close(wanted, results[i], 1e-2)
    assert moved


def test_acts_on_all_other_pushes_and_on_what_other_nodes_make_of_them(
    main, weak, positive, negative, guide, history
):
    """After both pushes, and after a post-CFG function that comes last."""
    run = Run.of(main)
    recorded, recording = record(main)
    recorded.set_model_sampler_post_cfg_function(lambda args: 0.9 * args["denoised"])
    inputs = {"positive": positive, "negative": negative, "weak_model": weak}
    run.sample(guide(model=recorded, more_pushes=history(), **inputs))
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    results = [
        0.9 * (c + (CFG - 1) * (c - n) + 0.7 * (c - w)) for c, n, w in zip(C, N, W, strict=True)
    ]
    for i, wanted in enumerate(expected(recording, results, [None, 0, 1])):
        assert close(recording.denoised[i], wanted), f"call {i} is off"


def test_average_pushes_by_the_published_window(main, positive, guide, node):
    """Nothing of the mean of predictions is left below a share of noise of 0.4."""
    run = Run.of(main, steps=8)
    push = node("BadVersionHistoryPush", mode="average", scale=SCALE, memory=MEMORY)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_scale=1.0, more_pushes=push))
    results = run.replay(core_guider(main, positive), recording)
    g = None
    for sigma, D, guided in zip(recording.sigma, results, recording.denoised, strict=True):
        t = float(sigma.max())
        if g is not None and t >= 0.4:
            added, D64 = (guided - D).double(), D.double()
            assert added.norm() > 1e-3 * D.norm()
            # It is all at a right angle to D before the filter, and as strong as the window says.
            delta = D64 - g
            dims = (1, 2, 3)
            share = (delta * D64).sum(dims, True) / (D64 * D64).sum(dims, True)
            window = math.sqrt((t - 0.4) / 0.6)
            size = (SCALE - 1) * window * (delta - share * D64).norm()
            assert 0.5 * size < added.norm() < size
        else:
            assert close(guided, D, 1e-6)
        g = (1 - MEMORY) * D.double() if g is None else (1 - MEMORY) * D.double() + MEMORY * g


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_costs_no_pass_and_is_the_same_in_guider_and_patch(
    mode, main, positive, negative, guide, patch, history
):
    run = Run.of(main, steps=4)
    push = history(mode)
    inputs = {"positive": positive, "negative": negative}
    with count_model_calls(main) as calls:
        guided = run.sample(guide(model=main, weak_scale=1.0, more_pushes=push, **inputs))
    assert calls == [4]
    patched = patch(main, weak_scale=1.0, more_pushes=push)
    assert torch.equal(run.sample(core_guider(patched, positive, negative, CFG)), guided)
    # Twice the same: nothing of a run is left for the next.
    assert torch.equal(run.sample(core_guider(patched, positive, negative, CFG)), guided)
    assert not close(guided, run.sample(core_guider(main, positive, negative, CFG)), 1e-2)


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_scale_1_is_off_to_the_bit(mode, main, positive, negative, guide, history):
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, CFG))
    inputs = {"positive": positive, "negative": negative, "weak_scale": 1.0}
    off = guide(model=main, more_pushes=history(mode, scale=1.0), **inputs)
    assert torch.equal(run.sample(off), core)


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_batch_is_as_each_image_alone(mode, main, positive, guide, history):
    inputs = {"model": main, "positive": positive, "weak_scale": 1.0}
    inputs["more_pushes"] = history(mode)
    run = Run.of(main, steps=4)
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(5))
    both = guide(**inputs).sample(noise, run.latent, *sampled_by(run))
    for i in range(2):
        one = guide(**inputs).sample(noise[i : i + 1], run.latent[:1], *sampled_by(run))
        assert close(both[i], one[0], 1e-5)


def sampled_by(run):
    import comfy.samplers

    return comfy.samplers.sampler_object(run.sampler), run.sigmas


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_models_that_add_noise_have_a_past_too(mode, guide, history):
    """A U-Net, whose sigmas go far above 1; sampled by a multistep method."""
    model = unet(seed=1)
    positive, negative = conditionings
    run = Run.of(model, shape=(1, 4, 8, 8), steps=5, sampler="dpmpp_2m")
    recorded, recording = record(model)
    inputs = {"positive": positive, "negative": negative, "weak_scale": 1.0}
    run.sample(guide(model=recorded, more_pushes=history(mode), **inputs))
    results = run.replay(core_guider(model, positive, negative, CFG), recording)
    if mode == "momentum":
        starts = [None, 0, 1, 2, 3]
        for i, wanted in enumerate(expected(recording, results, starts)):
            assert close(recording.denoised[i], wanted, 1e-4), f"call {i} is off"
    assert torch.equal(recording.denoised[0], results[0])
    assert not close(recording.denoised[2], results[2], 1e-3)


def test_two_pasts_add_up(main, positive, guide, history):
    run = Run.of(main)
    inputs = {"positive": positive, "weak_scale": 1.0}
    recorded, recording = record(main)
    twice = history(more_pushes=history(scale=1.4))
    run.sample(guide(model=recorded, more_pushes=twice, **inputs))
    results = run.replay(core_guider(main, positive), recording)
    # 0.8 + 0.4 of one and the same push, against 0.8.
    for i, wanted in enumerate(expected(recording, results, [None, 0, 1])):
        assert close(recording.denoised[i], results[i] + 1.5 * (wanted - results[i]))


@pytest.mark.parametrize("shape", ["BadVersionRejectShape", "BadVersionPerpNegShape"])
def test_shapes_that_compare_are_refused(shape, node, negative, pack):
    inputs = {"keep": "different"} if "Reject" in shape else {"empty": negative, "weight": 1.0}
    made = node(shape, **inputs)
    with pytest.raises(pack.guiders.errors.GuidanceError, match="History Push, input 'shape'"):
        node("BadVersionHistoryPush", mode="momentum", scale=1.5, memory=0.6, shape=made)


def test_shape_acts_on_what_the_mode_leaves(main, positive, guide, history, node):
    """A cap, which is measured on each image."""
    run = Run.of(main)
    recorded, recording = record(main)
    cap = node("BadVersionCapShape", relative_to="number", limit=1.5)
    inputs = {"positive": positive, "weak_scale": 1.0}
    run.sample(guide(model=recorded, more_pushes=history(shape=cap), **inputs))
    results = run.replay(core_guider(main, positive), recording)
    for i, wanted in enumerate(expected(recording, results, [None, 0, 1])):
        push = (wanted - results[i]) / (SCALE - 1)
        longest = push.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
        capped = push * (1.5 / longest).clamp(max=1.0)
        assert close(recording.denoised[i], results[i] + (SCALE - 1) * capped, 1e-4)


def test_is_recorded_and_shown(main, positive, guide, history, pack, caplog):
    """Under a name of its own, measured from what the sampler would have got."""
    run = Run.of(main)
    probe = pack.guiders.record.probe.Probe("key", "p")
    inputs = {"positive": positive, "weak_scale": 1.0, "probe": probe}
    caplog.set_level("INFO")
    latent = run.sample(guide(model=main, more_pushes=history(), **inputs))
    record_of = probe.record_of(latent)
    assert list(record_of.pushes) == ["history"]
    past = record_of.pushes["history"]
    assert past.scale[:, 0] == pytest.approx([1.0, SCALE, SCALE])
    assert past.added[1:] == pytest.approx((SCALE - 1) * past.difference[1:], rel=1e-3)
    assert record_of.push == pytest.approx(past.added, rel=1e-3)
    assert "pushes away from the image's own past, scale 1.8" in caplog.text
