"""Latents in parts, sound with video: ComfyUI packs them in one row while it samples."""

import uuid
from types import SimpleNamespace

import pytest
import torch

from support.rig import Run, alone, along, at_most, call, close, core_guider, each, record
from support.small_models import conditionings, unet

nested = pytest.importorskip("comfy.nested_tensor", reason="this ComfyUI has no such latents")
import comfy.utils  # noqa: E402

WEAK_SCALE, CFG = 1.7, 3.0
SHAPES = [(2, 4, 3, 6, 8), (2, 3, 5, 7)]


def stand_in(factor):
    """A model for which a function of latent and prompt stands in, so that any latent will do."""
    model = unet(0)

    def predict(apply_model, args):
        x, prompt = args["input"], args["c"]["c_crossattn"].mean(dim=(1, 2))
        parts = comfy.utils.unpack_latents(x, SHAPES)
        # The sound is loud, and has a direction of its own.
        out = [
            factor * n * part + part.roll(1, -1) * prompt.view(-1, *[1] * (part.ndim - 1))
            for n, part in enumerate(parts, 1)
        ]
        return comfy.utils.pack_latents(out)[0]

    model.set_model_unet_function_wrapper(predict)
    return model


@pytest.fixture(scope="module")
def models():
    return SimpleNamespace(main=stand_in(0.5), weak=stand_in(0.3))


@pytest.fixture
def run(models):
    return Run.of(models.main).with_(latent=nested.NestedTensor([torch.zeros(s) for s in SHAPES]))


@pytest.fixture(params=["guider", "patch"])
def sampled(request, run, models, guide, patch):
    """Sample with both pushes; the latent, and for each call its parts by name."""
    positive, negative = conditionings

    def sampled(**inputs):
        recorded, recording = record(models.main)
        inputs |= {"weak_model": models.weak}
        if request.param == "guider":
            guider = guide(model=recorded, positive=positive, negative=negative, **inputs)
        else:
            guider = core_guider(patch(recorded, **inputs), positive, negative, CFG)
        latent = run.sample(guider)
        assert latent.is_nested
        assert [part.shape for part in latent.unbind()] == SHAPES
        C, N = alone(run, recording, models.main, positive, negative)
        (W,) = alone(run, recording, models.weak, positive)
        rows = zip(recording.x, C, N, W, recording.denoised, strict=True)
        parts = [
            list(zip(*(comfy.utils.unpack_latents(row, SHAPES) for row in call), strict=True))
            for call in rows
        ]
        return latent, recording.sigma, parts

    return sampled


def rescaled(C, R, other, s, phi=0.7):
    G = C + s * (C - R)
    return G * (phi * C.std() / G.std() + 1 - phi) - C


# Of one part of one sample: what each push adds, from C, its own R, the other's, and its strength.
PUSHES = {
    "none": (None, lambda C, R, other, s: s * (C - R)),
    "cap": (
        ("BadVersionCapShape", {"relative_to": "number", "limit": 2.0}),
        lambda C, R, other, s: s * at_most(C - R, 2.0),
    ),
    "reject": (
        ("BadVersionRejectShape", {"keep": "different"}),
        lambda C, R, other, s: s * (C - R - along(C - R, C - other)),
    ),
    "rescale": (("BadVersionRescaleShape", {"phi": 0.7}), rescaled),
}


@pytest.mark.parametrize("name", PUSHES)
def test_each_part_is_measured_by_itself(name, sampled, node):
    shape, formula = PUSHES[name]
    inputs = {}
    if shape is not None:
        node_id, settings = shape
        inputs = {f"{push}_shape": node(node_id, **settings) for push in ("weak", "negative")}
    _, _, calls = sampled(**inputs)
    for i, parts in enumerate(calls):
        for number, (_, C, N, W, guided) in enumerate(parts):
            of_negative = each(formula, C, N, W, CFG - 1)
            of_weak = each(formula, C, W, N, WEAK_SCALE - 1)
            expected = C + of_negative + of_weak
            assert close(guided, expected), f"part {number} of model call {i} is off"


def test_region_is_one_of_the_picture(sampled, node):
    """Sound has no place in it: it is pushed as without the region."""
    mask = torch.zeros(1, 48, 64)
    mask[..., :24] = 1
    region = node("BadVersionRegionShape", mask=mask, feather=0, outside=0.0)
    _, _, calls = sampled(weak_shape=region, negative_shape=region)
    inside = (torch.arange(8) < 3).float()
    for i, parts in enumerate(calls):
        for weight, (_, C, N, W, guided) in zip((inside, 1.0), parts, strict=True):
            expected = C + weight * ((CFG - 1) * (C - N) + (WEAK_SCALE - 1) * (C - W))
            assert close(guided, expected), f"model call {i} is off"


def test_distance_is_that_of_each_part(sampled, node):
    schedule = node("BadVersionDistanceCalibrated", share=0.3, cap=50.0, deviation=0.0)
    _, sigmas, calls = sampled(weak_schedule=schedule)
    for i, (sigma, parts) in enumerate(zip(sigmas, calls, strict=True)):
        s = float(sigma[0])
        for number, (_, C, N, W, guided) in enumerate(parts):
            length = 0.3 * C[0].numel() ** 0.5 * s / (1 + s * s) ** 0.5

            def push(C, W, length=length):
                delta = C - W
                return delta * min(length / delta.norm(), 50.0)

            expected = C + (CFG - 1) * (C - N) + each(push, C, W)
            assert close(guided, expected), f"part {number} of model call {i} is off"


def test_weak_every_and_a_probe(sampled, node, dynamic, comfy_nodes, pack):
    probe = pack.guiders.record.probe.Probe(uuid.uuid4().hex, "both")
    latent, _, calls = sampled(
        weak_every=2,
        weak_schedule=node("BadVersionDistanceCalibrated", share=0.3, cap=50.0, deviation=0.0),
        negative_schedule=dynamic(),
        probe=probe,
    )
    found = probe.record_of(latent)
    assert found.pushes["weak"].scale.shape == found.pushes["negative"].posterior.shape == (3, 2)
    (_, C, _, W, _), (_, C2, _, W2, _) = calls[0]
    lengths = sum((c - w).flatten(1).norm(dim=1) ** 2 for c, w in ((C, W), (C2, W2))) ** 0.5
    torch.testing.assert_close(
        torch.tensor(found.pushes["weak"].difference[0]), lengths.double(), rtol=1e-4, atol=0
    )
    for view in ("everything", "thumbnails"):
        inputs = {"latent": {"samples": latent}, "probe": probe, "language": "English"}
        call(comfy_nodes["BadVersionGuidancePlot"], view=view, **inputs)
