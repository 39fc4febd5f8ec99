"""What a probe records, against predictions made apart and measured by hand."""

import gc
import uuid

import numpy as np
import pytest
import torch

from support.rig import Run, add_weights, alone, core_guider, record

STEPS = 4


@pytest.fixture
def probe(pack):
    """A probe of its own for each test."""
    return lambda name="run": pack.guiders.record.probe.Probe(uuid.uuid4().hex, name)


def recorded(guided, run):
    """Sample, and return the latent and what each call was given and predicted."""
    guided.model_patcher, recording = record(guided.model_patcher)
    guided.model_options = guided.model_patcher.model_options
    return run.sample(guided), recording


def norm(tensor):
    return tensor.double().flatten(1).norm(dim=1)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(
        a.double().flatten(1), b.double().flatten(1), dim=1, eps=0
    )


def assert_rows(actual, expected, tolerance=2e-5):
    """Compare ``[calls, batch]`` with a list of ``[batch]``."""
    expected = torch.stack([row.double() for row in expected]).numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_readings_of_both_pushes(main, weak, positive, negative, guide, probe):
    run, watched = Run.of(main, steps=STEPS), probe("both")
    guided = guide(model=main, positive=positive, negative=negative, weak_model=weak, probe=watched)
    latent, recording = recorded(guided, run)
    found = watched.record_of(latent)
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    weaks, negatives = ([c - r for c, r in zip(C, R, strict=True)] for R in (W, N))

    assert found.name == "both" and list(found.pushes) == ["weak", "negative"]
    assert_rows(found.sigma, recording.sigma)
    assert_rows(found.norm, map(norm, C))
    whole = [0.7 * w + 2 * n for w, n in zip(weaks, negatives, strict=True)]
    assert_rows(found.push, map(norm, whole))
    assert_rows(found.cosine, map(cosine, weaks, negatives))
    for name, scale, deltas in (("weak", 1.7, weaks), ("negative", 3.0, negatives)):
        push = found.pushes[name]
        assert (push.scale == scale).all()
        assert_rows(push.difference, map(norm, deltas))
        assert_rows(push.added, [(scale - 1) * norm(delta) for delta in deltas])
        assert_rows(push.cosine, map(cosine, deltas, C))
        assert_rows(push.parallel, [cosine(d, c) ** 2 for d, c in zip(deltas, C, strict=True)])
        assert np.isnan(push.posterior).all()
    for shift, statistic in (
        (found.mean_shift, lambda x: x.double().mean(dim=(2, 3))),
        (found.std_shift, lambda x: x.double().std(dim=(2, 3), correction=0)),
    ):
        pairs = zip(recording.denoised, C, strict=True)
        assert_rows(shift, [statistic(g) - statistic(c) for g, c in pairs])


def test_thumbnails_are_the_predictions_of_the_first_sample(
    main, weak, positive, negative, guide, probe
):
    run, watched = Run.of(main, shape=(2, 16, 8, 12), steps=3), probe()
    guided = guide(model=main, positive=positive, negative=negative, weak_model=weak, probe=watched)
    latent, recording = recorded(guided, run)
    thumbnails = watched.record_of(latent).thumbnails
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    assert thumbnails.calls == [0, 1, 2]
    assert thumbnails.latent_format is main.model.latent_format
    expected = {"C": C, "weak": W, "negative": N, "guided": recording.denoised}
    assert list(thumbnails.latents) == list(expected)
    for name, predictions in expected.items():
        for shown, prediction in zip(thumbnails.latents[name], predictions, strict=True):
            torch.testing.assert_close(shown.float(), prediction[0], rtol=1e-2, atol=1e-2)


def test_thumbnails_of_large_latents_and_long_runs_stay_small(pack, probe):
    watched = probe()
    recorder = watched.recorder(None)
    C = torch.arange(4 * 40 * 128.0).reshape(1, 4, 1, 40, 128).expand(2, 4, 3, 40, 128) / 1e3
    for step in range(30):
        recorder.call(torch.full((2,), 30.0 - step), C, C + step, {})
    recorder.finish(C)
    thumbnails = watched.record_of(C).thumbnails
    assert thumbnails.calls == [0, 4, 8, 12, 17, 21, 25, 29]
    assert list(thumbnails.latents) == ["C", "guided"]
    expected = C[0, :, 0].reshape(4, 10, 4, 32, 4).mean(dim=(2, 4))
    for index, call in enumerate(thumbnails.calls):
        shown = thumbnails.latents["guided"][index].float()
        torch.testing.assert_close(shown, expected + call, rtol=1e-2, atol=1e-2)


def test_latents_without_height_and_width_have_no_thumbnails(probe):
    watched = probe()
    recorder, C = watched.recorder(None), torch.randn(2, 8, 100)
    recorder.call(torch.ones(2), C, 2 * C, {})
    recorder.finish(C)
    found = watched.record_of(C)
    assert found.thumbnails is None
    assert_rows(found.push, [norm(C)])
    assert found.mean_shift.shape == (1, 2, 8)


def test_schedules_and_shapes_are_seen(main, weak, positive, negative, guide, node, only, probe):
    run, watched = Run.of(main, steps=STEPS), probe()
    guided = guide(
        model=main,
        positive=positive,
        negative=negative,
        weak_model=weak,
        weak_schedule=only(run, 1, 2),
        negative_shape=node("BadVersionProjectedShape", eta=0.0, norm_threshold=1.5, momentum=0.0),
        probe=watched,
    )
    latent, recording = recorded(guided, run)
    weak_push, negative_push = watched.record_of(latent).pushes.values()
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)

    assert weak_push.scale[:, 0].tolist() == [1.0, 1.7, 1.7, 1.0]
    assert (weak_push.added[[0, 3]] == 0).all()
    assert np.isnan(weak_push.difference[[0, 3]]).all() and np.isnan(weak_push.cosine[0]).all()
    inside = [norm(C[call] - W[call]) for call in (1, 2)]
    assert_rows(weak_push.difference[1:3], inside)
    assert_rows(weak_push.added[1:3], [0.7 * length for length in inside])

    assert_rows(negative_push.difference, [norm(c - n) for c, n in zip(C, N, strict=True)])
    assert (negative_push.parallel < 1e-6).all()
    assert (negative_push.added < 2 * 1.5 + 1e-3).all() and (negative_push.added > 0.1).all()


def test_posterior_of_a_dynamic_negative(main, positive, negative, guide, dynamic, probe):
    run, watched = Run.of(main, steps=STEPS, sampler="euler_ancestral"), probe()
    guided = guide(
        weak_scale=1.0,
        model=main,
        positive=positive,
        negative=negative,
        cfg=5.0,
        negative_schedule=dynamic(),
        probe=watched,
    )
    latent, recording = recorded(guided, run)
    (push,) = watched.record_of(latent).pushes.values()
    assert_rows(push.posterior[:1], [torch.full((2,), 0.1)])
    assert push.posterior[1, 0] != push.posterior[1, 1]
    np.testing.assert_allclose(push.scale, 1 + 4 * push.posterior / (1 - push.posterior), rtol=1e-5)
    C, N = alone(run, recording, main, positive, negative)
    lengths = torch.stack([norm(c - n) for c, n in zip(C, N, strict=True)]).numpy()
    np.testing.assert_allclose(push.added, (push.scale - 1) * lengths, rtol=1e-4, atol=1e-5)


def test_core_guidance_alone_is_recorded_too(main, positive, negative, patch, probe):
    """A probe on a patch whose own push is off shows what KSampler's cfg does."""
    run, watched = Run.of(main, steps=STEPS), probe()
    patched = patch(main, weak_scale=1.0, probe=watched)
    recorded_model, recording = record(patched)
    latent = run.sample(core_guider(recorded_model, positive, negative, 3.0))
    plain = run.sample(core_guider(main, positive, negative, 3.0))
    assert torch.equal(latent, plain)
    found = watched.record_of(latent)
    assert list(found.pushes) == ["negative"]
    C, N = alone(run, recording, main, positive, negative)
    assert_rows(found.push, [2 * norm(c - n) for c, n in zip(C, N, strict=True)])


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("kind", ["checkpoint", "same base", "prompt"])
def test_probe_changes_no_bit(main, weak, positive, negative, guide, probe, node, sampler, kind):
    run, watched = Run.of(main, steps=STEPS, sampler=sampler), probe()
    push = {
        "checkpoint": {"weak_model": weak},
        "same base": {"weak_model": add_weights(main)},
        "prompt": {"weak_positive": node("DigitConditioning", digit="1")},
    }[kind]
    inputs = {"model": main, "positive": positive, "negative": negative, **push}
    plain, watching = guide(**inputs), guide(**inputs, probe=watched)
    latent = run.sample(watching)
    assert torch.equal(latent, run.sample(plain))
    calls = {"euler": STEPS, "heun": 2 * STEPS - 1, "dpmpp_2m": STEPS}[sampler]
    assert len(watched.record_of(latent).sigma) == calls


def test_each_latent_finds_its_own_run(main, weak, positive, guide, probe):
    watched = probe()
    guided = guide(model=main, positive=positive, weak_model=weak, probe=watched)
    run = Run.of(main, steps=2)
    latents = [run.with_(seed=seed).sample(guided) for seed in (1, 2, 3)]
    found = [watched.record_of(latent) for latent in latents]
    assert len({tuple(each.push[0]) for each in found}) == 3
    # The same after rounding, or after another node has worked on it; another size finds the last.
    assert watched.record_of(latents[0].half()) is found[0]
    assert watched.record_of(0.9 * latents[1]) is found[1]
    assert watched.record_of(latents[0][:1]) is watched.record_of() is found[2]
    # Of two runs with the same latent, the newer one.
    again = run.with_(seed=1).sample(guided)
    assert torch.equal(again, latents[0])
    assert watched.record_of(again) is watched.record_of() is not found[0]


def test_probe_made_anew_finds_what_the_same_node_has_recorded(pack, probe):
    first, C = probe("first"), torch.randn(1, 4, 8, 8)
    recorder = first.recorder(None)
    recorder.call(torch.ones(1), C, C, {})
    recorder.finish(C)
    assert pack.guiders.record.probe.Probe(first.key, "again").record_of(C) is first.record_of(C)
    assert probe().record_of(C) is None


def test_oldest_runs_are_forgotten(pack, probe):
    watched = probe()
    latents = [torch.full((1, 1, 2, 2), float(number)) for number in range(260)]
    for latent in latents:
        recorder = watched.recorder(None)
        recorder.call(torch.ones(1), latent, latent, {})
        recorder.finish(latent)
    assert watched.record_of(latents[4]).norm[0] == 2 * 4
    assert watched.record_of(latents[3]).norm[0] == 2 * 4


def test_run_that_fails_leaves_no_record(main, weak, positive, guide, probe):
    watched = probe()
    guided = guide(model=main, positive=positive, weak_model=weak, probe=watched)

    def cancel(step, *_):
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Run.of(main, steps=3).sample(guided, callback=cancel)
    assert watched.record_of() is None


def test_latents_in_parts_are_told_apart(pack):
    """Sound with video comes as several latents in one."""
    nested = pytest.importorskip("comfy.nested_tensor", reason="this ComfyUI has no such latents")
    parts = (torch.randn(2, 4, 3, 8, 8), torch.randn(2, 8, 20))
    packed = torch.cat([part.reshape(2, 1, -1) for part in parts], dim=2)
    count, marks = pack.guiders.record.probe._marks(nested.NestedTensor(parts))
    assert count == packed.numel()
    assert torch.equal(marks, pack.guiders.record.probe._marks(packed)[1])


def test_predictions_are_not_kept(probe):
    """What a call leaves behind is a thousandth of what it saw."""
    recorder = probe().recorder(None)
    before = {id(each) for each in gc.get_objects() if issubclass(type(each), torch.Tensor)}
    shape = (2, 4, 3, 256, 256)
    for step in range(5):
        C = torch.randn(shape)
        recorder.call(torch.full((2,), 5.0 - step), C, 1.1 * C, {})
    del C
    gc.collect()
    left = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    sizes = [each.untyped_storage().nbytes() for each in left if id(each) not in before]
    assert sizes and max(sizes) < 40_000


def test_guider_of_another_kind_is_recorded_as_a_whole(
    main, weak, positive, negative, node, patch, probe
):
    """Only plain classifier-free guidance has a push of its own; all else is in the whole push."""
    run, watched = Run.of(main, steps=3), probe()
    patched, recording = record(patch(main, weak_model=weak, probe=watched))
    guider = node(
        "PerpNegGuider",
        model=patched,
        positive=positive,
        negative=negative,
        empty_conditioning=negative,
        cfg=3.0,
        neg_scale=1.0,
    )
    found = watched.record_of(run.sample(guider))
    (C,) = alone(run, recording, main, positive)
    (W,) = alone(run, recording, weak, positive)
    assert list(found.pushes) == ["weak"]
    assert_rows(found.pushes["weak"].added, [0.7 * norm(c - w) for c, w in zip(C, W, strict=True)])
    pairs = zip(recording.denoised, C, strict=True)
    assert_rows(found.push, [norm(guided - c) for guided, c in pairs])
