"""A push with a schedule: the push of each step, its cost, and what schedules remember."""

import comfy.hooks
import comfy.samplers
import pytest
import torch

from support.rig import (
    STARTS,
    Run,
    add_weights,
    added_weights,
    alone,
    batch_sizes,
    call,
    close,
    core_guider,
    each,
    of_sample,
    record,
    sampler_of,
    sampling_twice,
    weight_hook,
)
from support.small_models import conditionings, unet, video_model
from support.traces import TROUBLES, assert_trouble_leaves_nothing

WEAK_SCALE, CFG = 1.7, 3.0

DYNAMIC = {
    "prior": 0.1,
    "temperature": 0.06,
    "per_dimension": True,
    "offset": 0.0005,
    "floor": 0.001,
    "ceiling": 0.8,
}
CALIBRATED = {"share": 0.2, "cap": 1.5, "deviation": 0.0}
FROM_TOP_TO_END = {"direction": "falling", "curve": "linear", "start": 0.0, "end": 1.0}


@pytest.fixture
def pair(main, positive, negative):
    """What both nodes need, for a run with both pushes."""
    return {"model": main, "positive": positive, "negative": negative}


def test_both_pushes_have_a_schedule_each(weak_push, guide, curve, main, positive, negative):
    inputs, weak, prompt = weak_push
    run = Run.of(main, steps=5)
    of_weak, of_negative = (0.5, 0.0, 0.0, 2.0, -0.3), (1.0, 0.7, 0.0, 0.0, 1.2)
    recorded, recording = record(main)
    push = {
        "weak_schedule": curve(run, *of_weak),
        "negative_schedule": curve(run, *of_negative),
    }
    run.sample(guide(model=recorded, positive=positive, negative=negative, **inputs, **push))
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, prompt or positive)
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        expected = c + (CFG - 1) * of_negative[i] * (c - n)
        expected = expected + (WEAK_SCALE - 1) * of_weak[i] * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"


@pytest.fixture
def passes(main, weak):
    """How many latents each model has seen at each call, and which of the two came first."""
    seen = []

    def noted(name, model):
        original = model.model.apply_model

        def apply_model(x, *args, **kwargs):
            seen.append((name, len(x)))
            return original(x, *args, **kwargs)

        return apply_model

    models = {"main": main, "weak": weak}
    for name, model in models.items():
        model.model.apply_model = noted(name, model)
    yield seen
    for model in models.values():
        del model.model.apply_model


def test_weak_model_makes_no_pass_outside_of_its_interval(passes, guide, only, pair, main, weak):
    """And where the push is on, its pass comes after the main model's."""
    run = Run.of(main, steps=5, shape=(1, 16, 8, 8))
    run.sample(guide(**pair, weak_model=weak, weak_schedule=only(run, 1, 2)))
    main_pass, weak_pass = ("main", 2), ("weak", 1)
    assert passes == [main_pass, main_pass, weak_pass, main_pass, weak_pass, main_pass, main_pass]


def test_same_base_makes_no_pass_outside_of_its_interval(passes, guide, only, pair, main):
    run = Run.of(main, steps=5, shape=(1, 16, 8, 8))
    run.sample(guide(**pair, weak_model=add_weights(main), weak_schedule=only(run, 1, 2)))
    both, one = ("main", 2), ("main", 1)
    assert passes == [both, both, one, both, one, both, both]


def test_prompt_alone_leaves_the_batch_outside_of_its_interval(passes, guide, only, pair, main):
    run = Run.of(main, steps=5, shape=(1, 16, 8, 8))
    push = {"weak_schedule": only(run, 1, 2), "negative_schedule": only(run, 2, 3)}
    eight = [[-pair["negative"][0][0], pair["negative"][0][1]]]
    run.sample(guide(**pair, weak_positive=eight, **push))
    assert passes == [("main", size) for size in (1, 2, 3, 2, 1)]


ZERO_AT_FIRST = {
    "ramp, linear": ("BadVersionGuidanceRamp", {"direction": "rising", "curve": "linear"}),
    "ramp, power": ("BadVersionGuidanceRamp", {"direction": "rising", "curve": "power"}),
    "ramp, cosine": ("BadVersionGuidanceRamp", {"direction": "rising", "curve": "cosine"}),
    "peak": ("BadVersionGuidanceRamp", {"direction": "peak", "curve": "linear"}),
    "curve, linear": ("BadVersionGuidanceCurve", {"interpolation": "linear"}),
    "curve, smooth": ("BadVersionGuidanceCurve", {"interpolation": "smooth"}),
}


@pytest.mark.parametrize("name", ZERO_AT_FIRST)
def test_schedule_that_begins_at_0_makes_no_pass_for_its_first_step(
    name, passes, guide, pair, weak, node, main
):
    node_id, settings = ZERO_AT_FIRST[name]
    rest = {
        "BadVersionGuidanceRamp": {"low": 0.0, "high": 1.0, "start": 0.0, "end": 1.0, "power": 2.0},
        "BadVersionGuidanceCurve": {"points": "0: 0, 1: 1", "unit": "percent"},
    }[node_id]
    schedule = node(node_id, **settings, **rest)
    run = Run.of(main, shape=(1, 16, 8, 8))
    run.sample(guide(**pair, weak_model=weak, weak_schedule=schedule, negative_schedule=schedule))
    both, one = ("main", 2), ("weak", 1)
    assert passes == [("main", 1), both, one, both, one]


@pytest.mark.parametrize("push", ["negative", "weak"])
def test_empty_prompt_is_asked_for_inside_of_the_interval_only(
    push, passes, guide, only, pair, main, weak, node
):
    run = Run.of(main, steps=4, shape=(1, 16, 8, 8))
    empty = node("DigitConditioning", digit="8")
    inputs = {
        f"{push}_schedule": only(run, 1, 2),
        f"{push}_shape": node("BadVersionPerpNegShape", empty=empty, weight=1.0),
    }
    run.sample(guide(**pair, weak_model=weak, **inputs))
    sizes = [size for name, size in passes if name == "main"]
    assert sizes == {"negative": [1, 3, 3, 1], "weak": [2, 3, 3, 2]}[push]
    assert len(passes) - len(sizes) == {"negative": 4, "weak": 2}[push]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_weak_scale_of_1_is_core_and_costs_nothing(
    scale, passes, guide, patch, pair, main, weak, positive, negative, node
):
    """Whatever its schedule says, be it one that sets the scale by itself. At 0 it is no core."""
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, CFG))
    push = {
        "weak_schedule": node("BadVersionDistanceCalibrated", **CALIBRATED),
        "weak_shape": node("BadVersionPerpNegShape", empty=negative, weight=1.0),
    }
    passes.clear()
    inputs = {"weak_model": weak, "weak_scale": scale, **push}
    latents = [
        run.sample(guide(**pair, **inputs)),
        run.sample(core_guider(patch(main, **inputs), positive, negative, CFG)),
    ]
    assert [torch.equal(latent, core) for latent in latents] == [scale == 1.0] * 2
    assert (passes == [("main", 4)] * 6) == (scale == 1.0)


def test_weak_schedule_that_is_off_throughout_is_core(guide, only, pair, main, weak):
    run = Run.of(main, steps=5)
    late = run.with_(sigmas=run.sigmas[2:], latent=torch.ones(2, 16, 8, 8))
    off = guide(**pair, weak_model=weak, weak_schedule=only(run, 0, 1))
    core = core_guider(pair["model"], pair["positive"], pair["negative"], CFG)
    assert torch.equal(late.sample(off), late.sample(core))


def warnings(caplog):
    return [r.message for r in caplog.records if "it was off at every step" in r.message]


@pytest.mark.parametrize("push", ["weak", "negative"])
@pytest.mark.parametrize("on", [False, True])
def test_push_that_is_off_throughout_is_told_of(push, on, caplog, guide, only, pair, main, weak):
    """Once, with what the artist needs to set it right."""
    run = Run.of(main, steps=5)
    late = run.with_(sigmas=run.sigmas[2:])
    steps = (0, 1, 2) if on else (0, 1)
    late.sample(guide(**pair, weak_model=weak, **{f"{push}_schedule": only(run, *steps)}))
    told = warnings(caplog)
    assert len(told) == (0 if on else 1)
    if not on:
        assert told[0].startswith(f"Bad-Version Guider, input '{push}_schedule': ")
        assert f"{run.sigmas[2]:.4g} to 0" in told[0]


def test_push_that_was_not_asked_for_is_not_told_of(caplog, guide, only, pair, main):
    run = Run.of(main, steps=5)
    late = run.with_(sigmas=run.sigmas[2:])
    late.sample(guide(**pair, cfg=1.0, negative_schedule=only(run, 0, 1)))
    assert warnings(caplog) == []


def flow_posterior(p, x, t, C, N, x_next, t_next):
    """In the form that the paper has, on the noisy latents of a variance-exploding model."""
    t = t.clamp(max=1 - 1e-9)  # Where a flow model starts, that form has no end.
    ve = (x / (1 - t), t / (1 - t)), (x_next / (1 - t_next), t_next / (1 - t_next))
    return posterior(p, *ve[0], C, N, *ve[1])


def posterior(p, x, sigma, C, N, x_next, sigma_next):
    T, offset = (DYNAMIC[name] * 1000 / x.numel() for name in ("temperature", "offset"))
    ratio = (sigma_next / sigma) ** 2
    variance = sigma_next**2 * (1 - ratio)
    far, near = ((x_next - D - ratio * (x - D)).square().sum() for D in (N, C))
    p = p * ((-T * (far - near) + offset) / (2 * variance)).exp()
    return p.clamp(DYNAMIC["floor"], DYNAMIC["ceiling"])


def dynamic_factors(recording, C, N, starts, formula):
    """By brute force: every step starts from the call that has led to it."""
    p = []
    for i, start in enumerate(starts):
        if start is None:
            p.append(torch.full((len(recording.x[0]),), DYNAMIC["prior"]))
        else:
            x, sigma = recording.x, recording.sigma
            before = p[start], x[start], sigma[start], C[start], N[start]
            p.append(each(formula, *before, x[i], sigma[i]))
    return [each / (1 - each) for each in p]


def spread(factor):
    return factor.view(-1, 1, 1, 1)


@pytest.mark.parametrize("sampler", STARTS)
def test_dynamic_negative_follows_the_steps_that_were_taken(
    sampler, guide, main, positive, negative, node
):
    eight = node("DigitConditioning", digit="8")
    run = Run.of(main, sampler=sampler_of(sampler))
    recorded, recording = record(main)
    inputs = {"positive": positive, "negative": eight, "cfg": CFG}
    run.sample(
        guide(
            weak_scale=1.0,
            model=recorded,
            **inputs,
            negative_schedule=node("BadVersionDynamicNegative", **DYNAMIC),
        )
    )
    C, N = alone(run, recording, main, positive, eight)
    factors = dynamic_factors(recording, C, N, STARTS[sampler], flow_posterior)
    for i, (c, n, factor) in enumerate(zip(C, N, factors, strict=True)):
        push = (CFG - 1) * spread(factor) * (c - n)
        assert close(recording.denoised[i], c + push, 1e-4), f"model call {i} is off"
    final = factors[-1]
    assert final.min() > 0.005 and final.max() < 3.9, "held by its bounds"
    assert abs(final[0] / final[1] - 1) > 1e-3, "each sample has its own"


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_dynamic_negative_on_an_eps_model(sampler, guide, node):
    main, (positive, negative) = unet(0), conditionings
    run = Run.of(main, shape=(2, 4, 16, 16), sampler=sampler)
    recorded, recording = record(main)
    inputs = {"positive": positive, "negative": negative, "cfg": 1.2}
    run.sample(
        guide(
            weak_scale=1.0,
            model=recorded,
            **inputs,
            negative_schedule=node("BadVersionDynamicNegative", **DYNAMIC),
        )
    )
    C, N = alone(run, recording, main, positive, negative)
    factors = dynamic_factors(recording, C, N, STARTS[sampler], posterior)
    for i, (c, n, factor) in enumerate(zip(C, N, factors, strict=True)):
        push = 0.2 * spread(factor) * (c - n)
        assert close(recording.denoised[i], c + push, 1e-4), f"model call {i} is off"


def calibrated(sigma, difference, flow):
    """Of one sample; latents of both models have a standard deviation of 1."""
    if flow:
        sigma = sigma / (1 - sigma).clamp_min(1e-12)
    d = difference.numel() ** 0.5 * sigma / (sigma**2 + 1) ** 0.5
    return (CALIBRATED["share"] * d / difference.norm()).clamp(max=CALIBRATED["cap"])


@pytest.mark.parametrize("weak_scale, sign", [(1.7, 1), (90.0, 1), (0.5, -1)])
def test_distance_calibrated_sets_the_scale_by_itself(
    weak_scale, sign, guide, curve, main, weak, positive, negative, node
):
    """On both pushes, one with another schedule too; the node's scale says which way to go."""
    run = Run.of(main)
    factors = (0.5, 1.0, 1.6)
    alone_it = node("BadVersionDistanceCalibrated", **CALIBRATED)
    chain = node("BadVersionDistanceCalibrated", **CALIBRATED, schedule=curve(run, *factors))
    recorded, recording = record(main)
    run.sample(
        guide(
            model=recorded,
            positive=positive,
            negative=negative,
            weak_model=weak,
            weak_scale=weak_scale,
            weak_schedule=alone_it,
            negative_schedule=chain,
        )
    )
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    lengths = []
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        of_w, of_n = (each(calibrated, recording.sigma[i], c - r, True) for r in (w, n))
        expected = c + sign * spread(of_w) * (c - w) + factors[i] * spread(of_n) * (c - n)
        assert close(recording.denoised[i], expected), f"model call {i} is off"
        lengths += [*of_w.tolist(), *of_n.tolist()]
    assert min(lengths) < CALIBRATED["cap"] == max(lengths), "both ways are seen"


def test_distance_calibrated_on_an_eps_model(guide, node):
    main, weak, (positive, _) = unet(0), unet(1), conditionings
    run = Run.of(main, shape=(2, 4, 16, 16))
    recorded, recording = record(main)
    schedule = node("BadVersionDistanceCalibrated", **CALIBRATED)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_schedule=schedule))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    for i, (c, w) in enumerate(zip(C, W, strict=True)):
        factor = each(calibrated, recording.sigma[i], c - w, False)
        assert close(recording.denoised[i], c + spread(factor) * (c - w))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_distance_calibrated_where_both_prompts_are_the_same(share, guide, pair, main, node):
    """There is nothing to push along, and so no push."""
    run = Run.of(main)
    schedule = node("BadVersionDistanceCalibrated", share=share, cap=10.0, deviation=0.0)
    same = {**pair, "negative": pair["positive"]}
    core = run.sample(core_guider(main, pair["positive"]))
    assert close(run.sample(guide(weak_scale=1.0, **same, negative_schedule=schedule)), core)


def test_dynamic_negative_where_both_prompts_are_the_same(guide, pair, main, node):
    run = Run.of(main)
    same = {**pair, "negative": pair["positive"]}
    guider = guide(
        weak_scale=1.0, **same, negative_schedule=node("BadVersionDynamicNegative", **DYNAMIC)
    )
    assert close(run.sample(guider), run.sample(core_guider(main, pair["positive"])))


@pytest.fixture
def live(node):
    """Schedules that remember, on both pushes."""
    return {
        "weak_schedule": node("BadVersionDynamicNegative", **DYNAMIC),
        "negative_schedule": node(
            "BadVersionDynamicNegative",
            **DYNAMIC,
            schedule=node(
                "BadVersionGuidanceRamp", **FROM_TOP_TO_END, low=0.5, high=2.0, power=1.0
            ),
        ),
    }


@pytest.fixture
def all_live(pair, live, weak):
    return {**pair, **live, "weak_model": weak}


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_each_sample_has_its_own_state(sampler, guide, all_live, main):
    """What a batch was given and predicted is what each of its samples is by itself."""
    run = Run.of(main, shape=(3, 16, 8, 8), sampler=sampler)
    recorded, recording = record(main)
    run.sample(guide(**{**all_live, "model": recorded}))
    one = run.with_(latent=run.latent[:1])
    for sample in range(3):
        rows = of_sample(recording, sample)
        by_itself = one.replay(guide(**all_live), rows)
        for guided, wanted in zip(by_itself, rows.denoised, strict=True):
            assert close(guided, wanted, 1e-4)


def test_same_guider_twice(guide, all_live, main):
    guider, run = guide(**all_live), Run.of(main)
    assert torch.equal(run.sample(guider), run.sample(guider))


def test_two_guiders_share_schedules(guide, all_live, main):
    """They hold the very same chain, and sample in turn."""
    run = Run.of(main)
    expected = [run.sample(guide(**all_live, cfg=cfg)) for cfg in (2.0, 4.0)]
    first, second = (guide(**all_live, cfg=cfg) for cfg in (2.0, 4.0))
    for _ in range(2):
        assert torch.equal(run.sample(first), expected[0])
        assert torch.equal(run.sample(second), expected[1])


def test_cloned_by_nodes_downstream(patch, live, main, weak, positive, negative):
    patched = patch(main, weak_model=weak, **live)
    run = Run.of(main)
    expected = run.sample(core_guider(patched, positive, negative, CFG))
    clone = patched.clone().clone()
    for model in (clone, patched):
        assert torch.equal(run.sample(core_guider(model, positive, negative, CFG)), expected)


def test_patch_gives_the_bits_of_the_guider(patch, guide, all_live, live, main, weak):
    run = Run.of(main)
    prompts = all_live["positive"], all_live["negative"]
    patched = core_guider(patch(main, weak_model=weak, **live), *prompts, CFG)
    assert torch.equal(run.sample(patched), run.sample(guide(**all_live)))


def test_wrapper_of_another_pack_that_samples_twice(guide, all_live, main):
    """The second time, which is within the same run to us, begins at the first sigma again."""
    run = Run.of(main)
    once = run.sample(guide(**all_live))
    assert torch.equal(run.sample(guide(**{**all_live, "model": sampling_twice(main)})), once)


def test_video_latents(guide, node):
    main, weak, (positive, negative) = video_model(0), video_model(1), conditionings
    run = Run.of(main, shape=(1, 16, 3, 4, 6))
    recorded, recording = record(main)
    interval = node("BadVersionGuidanceInterval", unit="sigma", start=9.0, end=float(run.sigmas[2]))
    calibrated_ = node(
        "BadVersionDistanceCalibrated", **{**CALIBRATED, "deviation": 1.0}, schedule=interval
    )
    run.sample(
        guide(
            model=recorded,
            positive=positive,
            negative=negative,
            weak_model=weak,
            weak_schedule=calibrated_,
        )
    )
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        expected = c + (CFG - 1) * (c - n)
        if i < 2:
            factor = each(calibrated, recording.sigma[i], c - w, True)
            expected = expected + factor.view(-1, 1, 1, 1, 1) * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_context_windows(node, guide, windowed):
    """A window is a call of its own to the model, but no step of its own to the schedules."""
    main, weak, (positive, negative) = video_model(0), video_model(1), conditionings
    model = windowed(main)
    run = Run.of(main, shape=(1, 16, 6, 4, 4))
    interval = node("BadVersionGuidanceInterval", unit="sigma", start=9.0, end=float(run.sigmas[1]))
    prompts = {"positive": positive, "negative": negative}
    push = {"weak_schedule": interval, "negative_schedule": interval}
    with batch_sizes(main) as sizes, batch_sizes(weak) as weak_sizes:
        run.sample(guide(model=model, weak_model=weak, **prompts, **push))
    windows = len(sizes) // 3
    assert windows > 1
    assert sizes == [2] * windows + [1] * 2 * windows
    assert weak_sizes == [1] * windows


def test_prompt_that_cannot_be_taken_is_told_at_the_first_step_that_needs_it(
    guide, only, pair, main, weak
):
    run = Run.of(main, steps=4)
    bad = conditionings[0]
    push = {"weak_positive": bad, "weak_schedule": only(run, 2, 3)}
    for inputs in (push, {**push, "weak_model": weak}):
        with pytest.raises(ValueError) as caught:
            run.sample(guide(**pair, **inputs))
        assert str(caught.value).startswith("Bad-Version Guider, input 'weak_positive': got a ")
        assert "(1, 5, 24)" in str(caught.value)


def test_weak_model_that_changes_nothing_where_it_is_on(guide, only, pair, main):
    run = Run.of(main, steps=4)
    push = {"weak_positive": pair["positive"], "weak_schedule": only(run, 2, 3)}
    with pytest.raises(ValueError, match="changes nothing: at every step"):
        run.sample(guide(**pair, **push))


@pytest.fixture
def hooked(main):
    """Put a LoRA on a prompt, whose strength changes on the way."""

    def hooked(prompt, seed):
        hooks = weight_hook(added_weights(add_weights(main, seed=seed)), (0.5, 0.0), (-0.3, 0.6))
        return comfy.hooks.set_hooks_for_conditioning(prompt, hooks)

    return hooked


@pytest.mark.parametrize("kind", ["prompt of its own", "same base"])
def test_hooks_of_pushes_that_set_in_late(
    kind, guide, only, hooked, main, positive, negative, node
):
    """On each prompt a LoRA of its own, whose strength changes once the pushes are on.

    A first strength that is over by then would come for one step all the same: ComfyUI guarantees
    every keyframe a step.
    """
    run = Run.of(main, steps=6)
    weak, weak_prompt = main, hooked(node("DigitConditioning", digit="1"), 10)
    if kind == "same base":
        weak = add_weights(main)
    prompts = {"positive": hooked(positive, 8), "negative": hooked(negative, 9)}
    recorded, recording = record(main)
    push = {"weak_schedule": only(run, 3, 5), "negative_schedule": only(run, 2, 5)}
    inputs = {"weak_positive": weak_prompt} | ({"weak_model": weak} if weak is not main else {})
    run.sample(guide(model=recorded, **prompts, **inputs, **push))
    C, N = alone(run, recording, main, *prompts.values())
    (W,) = alone(run, recording, weak, weak_prompt)
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        expected = c + (i >= 2) * (CFG - 1) * (c - n) + (i >= 3) * (WEAK_SCALE - 1) * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler(sampler, guide, all_live, main, node):
    """What lasts over steps begins anew with each run, and gives a picture."""
    run = Run.of(main, shape=(1, 16, 8, 8), steps=4, sampler=sampler)
    shape = node("BadVersionProjectedShape", eta=0.0, norm_threshold=5.0, momentum=-0.5)
    guider = guide(**all_live, negative_shape=shape, weak_shape=shape)
    latent = run.sample(guider)
    assert latent.isfinite().all()
    assert torch.equal(run.sample(guider), latent)


def test_patch_in_ksampler_gives_the_bits_of_the_guider(
    guide, patch, live, all_live, main, weak, positive, negative, comfy_nodes
):
    latent = {"samples": torch.zeros(2, 16, 8, 8)}
    (from_ksampler,) = call(
        comfy_nodes["KSampler"],
        model=patch(main, weak_model=weak, **live),
        seed=5,
        steps=3,
        cfg=CFG,
        sampler_name="dpmpp_2m",
        scheduler="simple",
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    run = Run.of(main, sampler="dpmpp_2m", seed=5)
    assert torch.equal(from_ksampler["samples"], run.sample(guide(**all_live)))


STEPS = 3


@pytest.fixture
def guided(weak_push, guide, live, only, pair, main, node):
    """A guider with everything that lasts over steps, its run, and its models as loaded."""
    inputs, weak, _ = weak_push
    run = Run.of(main, steps=STEPS)
    push = {
        **live,
        "weak_schedule": only(run, 1, 2, schedule=live["weak_schedule"]),
        "negative_shape": node("BadVersionPerpNegShape", empty=pair["negative"], weight=0.7),
    }
    guider = guide(**{**pair, **inputs, **push, "negative": node("DigitConditioning", digit="1")})
    return guider, run, [main, weak, guider.model_patcher]


@pytest.mark.parametrize("how", TROUBLES, ids=["exception", "interrupt"])
@pytest.mark.parametrize("at_call", [1, 2, 4])
def test_trouble_leaves_everything_as_it_was(how, at_call, guided):
    """At the first pass for a weak model, and after it; nested as the references are."""
    guider, run, patchers = guided
    assert_trouble_leaves_nothing(lambda: run.sample(guider), patchers, at_call, how, STEPS)
