"""A sampler that changes the size of the latents between its steps: ComfyUI's SamplerLCMUpscale."""

import uuid

import numpy as np
import pytest
import torch

from support.rig import (
    Run,
    add_weights,
    alone,
    at_most,
    call,
    close,
    core_guider,
    count_model_calls,
    each,
    record,
)

WEAK_SCALE, CFG = 1.7, 3.0
SIDES = [8, 10, 12, 12]
# For each call, the one before it of the same size.
STARTS = [None, None, None, 2]
MOMENTUM = {"eta": 1.0, "norm_threshold": 6.0, "momentum": -0.6}


@pytest.fixture
def run(main, node):
    """Four steps that grow from 8 to 12."""
    sampler = node("SamplerLCMUpscale", scale_ratio=1.5, scale_steps=-1, upscale_method="bilinear")
    return Run.of(main, steps=4, sampler=sampler)


@pytest.fixture(params=["guider", "patch"])
def sampled(request, run, main, positive, negative, guide, patch):
    """Sample with both pushes; the latent, and what was recorded."""

    def sampled(**inputs):
        recorded, recording = record(main)
        if request.param == "guider":
            guider = guide(model=recorded, positive=positive, negative=negative, **inputs)
        else:
            guider = core_guider(patch(recorded, **inputs), positive, negative, CFG)
        latent = run.sample(guider)
        assert [x.shape[-1] for x in recording.x] == SIDES
        return latent, recording

    return sampled


@pytest.fixture
def taken_apart(run, main, weak, positive, negative):
    """The predictions of each call."""

    def taken_apart(recording, weak=weak):
        C, N = alone(run, recording, main, positive, negative)
        return C, N, alone(run, recording, weak, positive)[0]

    return taken_apart


def assert_hold(recording, expected):
    for i, (guided, wanted) in enumerate(zip(recording.denoised, expected, strict=True)):
        assert close(guided, wanted), f"model call {i} is off"


@pytest.mark.parametrize("kind", ["another checkpoint", "same base"])
def test_weak_model_predicts_anew_in_each_size(kind, sampled, taken_apart, main, weak):
    weak = weak if kind == "another checkpoint" else add_weights(main)
    with count_model_calls(weak) as passes:
        _, recording = sampled(weak_model=weak, weak_every=16)
    if kind == "another checkpoint":
        assert passes == [3]
    C, N, W = taken_apart(recording, weak)

    def distance(sigma):
        sigma = sigma / (1 - sigma).clamp_min(1e-12)
        return sigma / (1 + sigma**2) ** 0.5

    deltas = [c - w for c, w in zip(C, W, strict=True)]
    at, now = (recording.sigma[i][0].double() for i in (2, 3))
    deltas[3] = deltas[2] * float(distance(now) / distance(at))
    pairs = zip(C, N, deltas, strict=True)
    assert_hold(recording, [c + (CFG - 1) * (c - n) + (WEAK_SCALE - 1) * d for c, n, d in pairs])


def with_momentum(C, R):
    averages = []
    for c, r, start in zip(C, R, STARTS, strict=True):
        before = 0 if start is None else MOMENTUM["momentum"] * averages[start]
        averages.append(c - r + before)
    return [each(lambda a: at_most(a, MOMENTUM["norm_threshold"]), a) for a in averages]


def test_momentum_begins_anew_in_each_size(sampled, taken_apart, node, weak):
    apg = {
        f"{push}_shape": node("BadVersionProjectedShape", **MOMENTUM)
        for push in ("weak", "negative")
    }
    _, recording = sampled(weak_model=weak, **apg)
    C, N, W = taken_apart(recording)
    pairs = zip(C, with_momentum(C, N), with_momentum(C, W), strict=True)
    assert_hold(recording, [c + (CFG - 1) * n + (WEAK_SCALE - 1) * w for c, n, w in pairs])


def test_region_lies_at_the_same_place_in_each_size(sampled, taken_apart, node, weak):
    mask = torch.zeros(1, 240, 240)
    mask[..., :120] = 1
    region = node("BadVersionRegionShape", mask=mask, feather=0, outside=0.0)
    _, recording = sampled(weak_model=weak, weak_shape=region, negative_shape=region)
    expected = []
    for c, n, w in zip(*taken_apart(recording), strict=True):
        inside = (torch.arange(c.shape[-1]) < c.shape[-1] / 2).float()
        expected.append(c + inside * ((CFG - 1) * (c - n) + (WEAK_SCALE - 1) * (c - w)))
    assert_hold(recording, expected)


def test_dynamic_negative_begins_anew_in_each_size(sampled, taken_apart, dynamic, pack, weak):
    _, recording = sampled(weak_model=weak, negative_schedule=dynamic())
    C, N, W = taken_apart(recording)
    prior = torch.full((2,), 0.1)
    share = 1000 / C[3][0].numel()
    after = pack.guiders.push.formulas.posterior_of_negative(
        prior,
        *(part[2] for part in (recording.x, recording.sigma, C, N)),
        recording.x[3],
        recording.sigma[3],
        temperature=1.0 * share,
        offset=0.3 * share,
        flow=True,
    ).clamp(1e-6, 0.8)
    assert (after - prior).abs().max() > 1e-3
    for i, p in enumerate((prior, prior, prior, after)):
        strength = ((CFG - 1) * p / (1 - p)).view(2, 1, 1, 1)
        expected = C[i] + strength * (C[i] - N[i]) + (WEAK_SCALE - 1) * (C[i] - W[i])
        assert close(recording.denoised[i], expected, 1e-4), f"model call {i} is off"


@pytest.fixture
def watched(sampled, pack, weak):
    """A run with a probe: its probe, its latent and what was recorded beside it."""
    probe = pack.guiders.record.probe.Probe(uuid.uuid4().hex, "growing")
    latent, recording = sampled(weak_model=weak, probe=probe)
    return probe, latent, recording


def test_probe_keeps_all_sizes(watched, taken_apart):
    probe, latent, recording = watched
    found = probe.record_of(latent)
    C, N, W = taken_apart(recording)
    for name, R in (("weak", W), ("negative", N)):
        lengths = [(c - r).flatten(1).norm(dim=1) for c, r in zip(C, R, strict=True)]
        np.testing.assert_allclose(found.pushes[name].difference, torch.stack(lengths), rtol=1e-4)
    thumbnails = found.thumbnails
    assert thumbnails.calls == [0, 1, 2, 3]
    expected = {"C": C, "weak": W, "negative": N, "guided": recording.denoised}
    assert list(thumbnails.latents) == list(expected)
    for name, predictions in expected.items():
        for shown, prediction in zip(thumbnails.latents[name], predictions, strict=True):
            torch.testing.assert_close(shown.float(), prediction[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("vae", [None, "digits_vae.safetensors"], ids=["rough", "decoded"])
def test_probe_of_all_sizes_is_drawn_and_saved(vae, watched, comfy_nodes):
    probe, latent, _ = watched
    latent = {"samples": latent}
    if vae is not None:
        (vae,) = call(comfy_nodes["VAELoader"], vae_name=vae)
    for view in ("everything", "thumbnails"):
        inputs = {"latent": latent, "probe": probe, "view": view, "language": "English"}
        image, passed = call(comfy_nodes["BadVersionGuidancePlot"], vae=vae, **inputs)
        assert passed is latent and image.isfinite().all()
    node = comfy_nodes["BadVersionGuidanceRecord"]
    (passed,) = call(node, latent=latent, probe=probe, filename_prefix="guidance/growing")
    assert passed is latent
