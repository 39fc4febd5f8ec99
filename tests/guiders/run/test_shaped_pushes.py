"""Shapes on the weak push, shapes that compare both pushes, and what shapes remember or ask for."""

import gc
import weakref

import comfy.hooks
import comfy.samplers
import comfy.utils
import pytest
import torch

from support.rig import (
    STARTS,
    Run,
    add_weights,
    added_weights,
    alone,
    along,
    at_most,
    batch_sizes,
    close,
    core_guider,
    count_model_calls,
    each,
    of_sample,
    record,
    sampler_of,
    weight_hook,
)
from support.small_models import conditionings, unet, video_model
from support.traces import TROUBLES, assert_trouble_leaves_nothing

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture(scope="module")
def eight(node):
    """Another digit, as a negative prompt that is no empty one."""
    return node("DigitConditioning", digit="8")


@pytest.fixture
def prompts(positive, eight):
    """Of a run with a negative push."""
    return {"positive": positive, "negative": eight}


@pytest.fixture
def taken_apart(main, weak, positive, eight):
    """What goes into every call of a run, each predicted by itself: C, N and W."""

    def taken_apart(run, recording):
        return list(
            zip(
                *alone(run, recording, main, positive, eight),
                *alone(run, recording, weak, positive),
                strict=True,
            )
        )

    return taken_apart


# How much of a push is to stay at each place of a latent, and a mask that says so.
PLACES = torch.rand(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def enlarged(places):
    """At the size of the image; any mean over the pixels of a place is that of the place."""
    return places.float().repeat_interleave(8, -2).repeat_interleave(8, -1)


# Of one sample, on the weak push: what is added to C at a scale s.
SHAPES = {
    "BadVersionProjectedShape": (
        {"eta": -0.5, "norm_threshold": 5.0, "momentum": 0.0},
        lambda x, C, R, s: (s - 1) * projected(at_most(C - R, 5.0), C, -0.5),
    ),
    "BadVersionCapShape": (
        {"relative_to": "number", "limit": 0.5},
        lambda x, C, R, s: (s - 1) * at_most(C - R, 0.5),
    ),
    "BadVersionRescaleShape": ({"phi": 1.0}, lambda x, C, R, s: held(C + (s - 1) * (C - R), C) - C),
    "BadVersionZeroStarShape": (
        {},
        lambda x, C, R, s: (s - 1) * (C - x + along(x - C, x - R)),
    ),
    "BadVersionFrequencyShape": (
        {"low": -0.4, "high": -0.4, "levels": 1},
        lambda x, C, R, s: -0.4 * (s - 1) * (C - R),
    ),
    "BadVersionRegionShape": (
        {"mask": enlarged(PLACES)[None], "feather": 0, "outside": 0.25},
        lambda x, C, R, s: (s - 1) * (0.25 + 0.75 * PLACES) * (C - R),
    ),
}


def projected(delta, C, eta):
    return delta - (1 - eta) * along(delta, C)


def held(G, C):
    return G * C.std() / G.std()


def perp_neg(C, R, U, s, weight):
    P, Q = C - U, R - U
    return U + s * (P - weight * (Q - along(Q, P)))


@pytest.mark.parametrize("name", SHAPES)
def test_shape_of_the_weak_push(name, weak_push, guide, main, positive, prompts, node, eight):
    settings, formula = SHAPES[name]
    inputs, weak, prompt = weak_push
    run = Run.of(main)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, **prompts, **inputs, weak_shape=node(name, **settings)))
    C, N = alone(run, recording, main, positive, eight)
    (W,) = alone(run, recording, weak, prompt or positive)
    seen = False
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        push = each(formula, recording.x[i], c, w, WEAK_SCALE)
        seen = seen or not close(push, (WEAK_SCALE - 1) * (c - w), 1e-2)
        assert close(recording.denoised[i], c + (CFG - 1) * (c - n) + push), f"call {i} is off"
    assert seen, "nothing would be missed without the shape"


def test_coarse_and_fine_are_pushed_apart(guide, main, weak, positive, node, pack):
    """On a picture that is not square; the coarse part moves by one factor, the rest by another."""
    frequencies = pack.guiders.push.formulas.frequencies
    run = Run.of(main, shape=(2, 16, 8, 12))
    recorded, recording = record(main)
    shape = node("BadVersionFrequencyShape", low=0.2, high=1.5, levels=1)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_shape=shape))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    for c, w, guided in zip(C, W, recording.denoised, strict=True):
        coarse = frequencies(c - w, 1.0, 0.0, 1)
        push = 0.2 * coarse + 1.5 * (c - w - coarse)
        assert close(guided, c + (WEAK_SCALE - 1) * push)


@pytest.mark.parametrize("keep", ["different", "common"])
@pytest.mark.parametrize("push", ["weak", "negative", "both"])
def test_reject_compares_with_the_other_push(
    keep, push, guide, main, weak, prompts, node, taken_apart
):
    """With its plain difference, whatever shape and schedule that push has of its own."""

    def reject(delta, other):
        part = along(delta, other)
        return part if keep == "common" else delta - part

    run = Run.of(main)
    capped = {"negative": 4.0, "weak": 6.0}
    shapes = {
        f"{each}_shape": node("BadVersionCapShape", relative_to="number", limit=limit)
        for each, limit in capped.items()
    }
    own = {"both": ["weak", "negative"]}.get(push, [push])
    for each_push in own:
        name = f"{each_push}_shape"
        shapes[name] = node("BadVersionRejectShape", keep=keep, shape=shapes[name])
    ramp = node(
        "BadVersionGuidanceRamp",
        direction="falling",
        curve="linear",
        low=0.5,
        high=2.0,
        start=0.0,
        end=1.0,
        power=1.0,
    )
    recorded, recording = record(main)
    run.sample(guide(model=recorded, **prompts, weak_model=weak, **shapes, negative_schedule=ramp))
    sampling = main.get_model_object("model_sampling")
    for i, (C, N, W) in enumerate(taken_apart(run, recording)):
        of_negative, of_weak = (
            each(
                lambda C, R, other, name=name: (
                    reject(at_most(C - R, capped[name]), C - other)
                    if name in own
                    else at_most(C - R, capped[name])
                ),
                C,
                R,
                other,
            )
            for name, R, other in (("negative", N, W), ("weak", W, N))
        )
        factor = 2.0 - 1.5 * share_done(sampling, float(run.sigmas[i]))
        expected = C + (CFG - 1) * factor * of_negative + (WEAK_SCALE - 1) * of_weak
        assert close(recording.denoised[i], expected, 1e-4), f"model call {i} is off"


def share_done(sampling, sigma):
    """The percentage at which ComfyUI arrives at a sigma, found by trying them all."""
    percents = torch.linspace(0, 1, 200_001, dtype=torch.float64).tolist()
    low, high = 0, len(percents) - 1
    while low < high:
        middle = (low + high) // 2
        if float(sampling.percent_to_sigma(percents[middle])) > sigma:
            low = middle + 1
        else:
            high = middle
    return percents[low]


@pytest.mark.parametrize("push", ["weak", "negative"])
def test_cap_relative_to_the_other_push(push, guide, main, weak, prompts, node, taken_apart):
    run = Run.of(main)
    recorded, recording = record(main)
    ratio = {"weak": 0.7, "negative": 0.4}[push]
    shape = node("BadVersionCapShape", relative_to="other push", limit=ratio)
    run.sample(guide(model=recorded, **prompts, weak_model=weak, **{f"{push}_shape": shape}))
    held = []
    for i, (C, N, W) in enumerate(taken_apart(run, recording)):
        R, other = (W, N) if push == "weak" else (N, W)
        delta = each(lambda C, R, S: at_most(C - R, ratio * (C - S).norm()), C, R, other)
        held.append(not close(delta, C - R))
        plain = (CFG - 1) * (C - N) if push == "weak" else (WEAK_SCALE - 1) * (C - W)
        own = (WEAK_SCALE if push == "weak" else CFG) - 1
        assert close(recording.denoised[i], C + plain + own * delta), f"model call {i} is off"
    assert any(held)


COMPARING = {
    "BadVersionRejectShape": {"keep": "different"},
    "BadVersionCapShape": {"relative_to": "other push", "limit": 0.1},
}


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("push", ["weak", "negative"])
def test_with_the_other_push_off_nothing_is_compared(
    push, name, guide, only, main, weak, prompts, node, taken_apart
):
    """The other push is on at the middle one of three steps, and makes its pass there only."""
    run = Run.of(main)
    other = {"weak": "negative", "negative": "weak"}[push]
    recorded, recording = record(main)
    inputs = {
        f"{push}_shape": node(name, **COMPARING[name]),
        f"{other}_schedule": only(run, 1),
    }
    with batch_sizes(main) as sizes, batch_sizes(weak) as weak_sizes:
        run.sample(guide(model=recorded, **prompts, weak_model=weak, **inputs))
    assert sizes == ([2, 4, 2] if push == "weak" else [4, 4, 4])
    assert weak_sizes == ([2, 2, 2] if push == "weak" else [2])
    for i, (C, N, W) in enumerate(taken_apart(run, recording)):
        on = {"weak": (WEAK_SCALE - 1) * (C - W), "negative": (CFG - 1) * (C - N)}
        expected = C + on[push] + (on[other] if i == 1 else 0)
        assert close(recording.denoised[i], expected) == (i != 1), f"model call {i}"


@pytest.mark.parametrize("name", COMPARING)
def test_patch_at_cfg_of_1_has_nothing_to_compare_with(
    name, patch, main, weak, positive, negative, node
):
    run = Run.of(main)
    plain = core_guider(patch(main, weak_model=weak), positive, negative, 1.0)
    shape = node(name, **COMPARING[name])
    shaped = core_guider(patch(main, weak_model=weak, weak_shape=shape), positive, negative, 1.0)
    assert torch.equal(run.sample(shaped), run.sample(plain))


@pytest.mark.parametrize("name", COMPARING)
def test_guider_without_a_negative_prompt_refuses_to_compare_with_it(
    name, guide, main, weak, positive, node
):
    shape = node(name, **COMPARING[name])
    with pytest.raises(ValueError) as caught:
        guide(model=main, positive=positive, weak_model=weak, weak_shape=shape)
    text = str(caught.value)
    display = {"BadVersionRejectShape": "Reject Shape", "BadVersionCapShape": "Cap Shape"}[name]
    assert text.startswith(f"Bad-Version Guider, input 'weak_shape': got {display}, which compares")
    assert "Expected something connected to 'negative'" in text


@pytest.mark.parametrize("name", COMPARING)
def test_with_no_weak_model_the_other_push_is_that_of_the_model_itself(
    name, guide, main, positive, negative, node
):
    shape = node(name, **COMPARING[name])
    inputs = {"model": main, "positive": positive, "negative": negative, "negative_shape": shape}
    run = Run.of(main)
    itself = run.sample(guide(**inputs))
    weak = node("BadVersionWeakenBySkippingBlocks", model=main, blocks="auto")
    assert torch.equal(itself, run.sample(guide(**inputs, weak_model=weak)))
    alone = core_guider(main, positive, negative, CFG)
    assert close(run.sample(guide(**inputs, weak_scale=1.0)), run.sample(alone))


def test_perp_neg_on_both_pushes_predicts_the_empty_prompt_once(
    guide, main, weak, positive, negative, eight, node
):
    """And each push weighs it by its own scale."""
    run = Run.of(main)
    shapes = {
        "weak_shape": node("BadVersionPerpNegShape", empty=negative, weight=0.6),
        "negative_shape": node("BadVersionPerpNegShape", empty=negative, weight=1.2),
    }
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": eight}
    with batch_sizes(main) as sizes, batch_sizes(weak) as weak_sizes:
        run.sample(guide(model=recorded, **prompts, weak_model=weak, **shapes))
    assert sizes == [6, 6, 6] and weak_sizes == [2, 2, 2]
    C, N, U = alone(run, recording, main, positive, eight, negative)
    (W,) = alone(run, recording, weak, positive)
    for c, n, u, w, guided in zip(C, N, U, W, recording.denoised, strict=True):
        expected = each(perp_neg, c, n, u, CFG, 1.2) + each(perp_neg, c, w, u, WEAK_SCALE, 0.6) - c
        assert close(guided, expected)


@pytest.mark.parametrize("on", ["the prompts", "the empty one", "all"])
def test_perp_neg_of_prompts_with_a_lora_each(on, guide, main, positive, negative, eight, node):
    """A hook belongs to its prompt: without one, it is the model as it is that predicts."""

    def hooked(prompt, seed):
        hooks = weight_hook(added_weights(add_weights(main, seed=seed)))
        return comfy.hooks.set_hooks_for_conditioning(prompt, hooks)

    empty = negative
    if on != "the empty one":
        positive, eight = hooked(positive, 8), hooked(eight, 9)
    if on != "the prompts":
        empty = hooked(empty, 10)
    run = Run.of(main)
    recorded, recording = record(main)
    shape = node("BadVersionPerpNegShape", empty=empty, weight=1.0)
    run.sample(
        guide(
            weak_scale=1.0, model=recorded, positive=positive, negative=eight, negative_shape=shape
        )
    )
    C, N, U = alone(run, recording, main, positive, eight, empty)
    for c, n, u, guided in zip(C, N, U, recording.denoised, strict=True):
        assert close(guided, each(perp_neg, c, n, u, CFG, 1.0))


def test_two_empty_prompts_are_two(guide, main, weak, positive, negative, eight, node):
    run = Run.of(main)
    one = node("DigitConditioning", digit="1")
    shapes = {
        "weak_shape": node("BadVersionPerpNegShape", empty=one, weight=0.6),
        "negative_shape": node("BadVersionPerpNegShape", empty=negative, weight=1.2),
    }
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": eight}
    with batch_sizes(main) as sizes:
        run.sample(guide(model=recorded, **prompts, weak_model=weak, **shapes))
    assert sizes == [8, 8, 8]
    C, N, U, V = alone(run, recording, main, positive, eight, negative, one)
    (W,) = alone(run, recording, weak, positive)
    for c, n, u, v, w, guided in zip(C, N, U, V, W, recording.denoised, strict=True):
        expected = each(perp_neg, c, n, u, CFG, 1.2) + each(perp_neg, c, w, v, WEAK_SCALE, 0.6) - c
        assert close(guided, expected)


def test_perp_neg_with_a_weak_prompt_is_one_batch(guide, main, positive, negative, eight, node):
    """All that the main model can predict, in as many passes as ComfyUI needs."""
    run = Run.of(main)
    one = node("DigitConditioning", digit="1")
    shape = node("BadVersionPerpNegShape", empty=negative, weight=1.0)
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": eight, "weak_positive": one}
    with batch_sizes(main) as sizes:
        run.sample(guide(model=recorded, **prompts, negative_shape=shape))
    assert sizes == [8, 8, 8]
    C, N, U, W = alone(run, recording, main, positive, eight, negative, one)
    for c, n, u, w, guided in zip(C, N, U, W, recording.denoised, strict=True):
        assert close(guided, each(perp_neg, c, n, u, CFG, 1.0) + (WEAK_SCALE - 1) * (c - w))


def test_perp_neg_beside_a_batch_function_of_another_pack(
    guide, main, positive, negative, eight, node
):
    """It may take two prompts for granted, so the empty one is asked for apart."""

    def batch(args):
        pair, rest = args["conds"], (args["input"], args["sigma"], args["model_options"])
        assert len(pair) == 2
        return comfy.samplers.calc_cond_batch(args["model"], pair, *rest)

    stacked = main.clone()
    stacked.set_model_sampler_calc_cond_batch_function(batch)
    run = Run.of(main, shape=(1, 16, 8, 8))
    shape = node("BadVersionPerpNegShape", empty=negative, weight=1.0)
    prompts = {"positive": positive, "negative": eight}
    with batch_sizes(main) as sizes:
        ours = run.sample(guide(weak_scale=1.0, model=stacked, **prompts, negative_shape=shape))
    assert sizes == [2, 1] * 3
    assert close(
        ours, run.sample(guide(weak_scale=1.0, model=main, **prompts, negative_shape=shape))
    )


MOMENTUM = {"eta": 0.3, "norm_threshold": 6.0, "momentum": -0.6}


def with_momentum(C, R, starts):
    """By brute force: the average of the steps that have led to a call, shaped like APG."""
    averages, shaped = [], []
    for call, start in enumerate(starts):
        before = 0 if start is None else MOMENTUM["momentum"] * averages[start]
        averages.append(C[call] - R[call] + before)
        shaped.append(
            each(lambda m, c: projected(at_most(m, 6.0), c, 0.3), averages[call], C[call])
        )
    return shaped


@pytest.mark.parametrize("sampler", STARTS)
def test_momentum_follows_the_steps_that_were_taken(
    sampler, guide, main, weak, prompts, node, taken_apart
):
    """On both pushes, each with an average of its own."""
    run = Run.of(main, sampler=sampler_of(sampler))
    recorded, recording = record(main)
    shapes = {
        f"{push}_shape": node("BadVersionProjectedShape", **MOMENTUM)
        for push in ("weak", "negative")
    }
    run.sample(guide(model=recorded, **prompts, weak_model=weak, **shapes))
    C, N, W = zip(*taken_apart(run, recording), strict=True)
    of_negative, of_weak = (with_momentum(C, R, STARTS[sampler]) for R in (N, W))
    for i, (c, n, w) in enumerate(zip(C, of_negative, of_weak, strict=True)):
        expected = c + (CFG - 1) * n + (WEAK_SCALE - 1) * w
        assert close(recording.denoised[i], expected, 1e-4), f"model call {i} is off"


def twice_at_the_first(model, x, sigmas, extra_args, *_, **__):
    """Ask again at the first step, as samplers do that reject one which was too long."""
    ones = x.new_ones(len(x))
    first, again = (model(x, sigmas[0] * ones, **extra_args) for _ in range(2))
    twice_at_the_first.difference = again - first
    return first


def test_first_step_that_is_made_again_has_no_step_before_it(guide, main, prompts, node):
    run = Run.of(main, sampler=comfy.samplers.KSAMPLER(twice_at_the_first))
    run.sample(
        guide(
            model=main,
            **prompts,
            weak_scale=1.0,
            negative_shape=node("BadVersionProjectedShape", **MOMENTUM),
        )
    )
    assert twice_at_the_first.difference.norm() < 1e-4


def test_momentum_of_steps_inside_of_the_interval(
    guide, only, main, prompts, node, positive, eight
):
    """Outside there is no difference to average; it starts with the first one that there is."""
    run = Run.of(main, steps=4)
    recorded, recording = record(main)
    push = {
        "negative_shape": node("BadVersionProjectedShape", **MOMENTUM),
        "negative_schedule": only(run, 1, 2),
    }
    run.sample(guide(weak_scale=1.0, model=recorded, **prompts, **push))
    C, N = alone(run, recording, main, positive, eight)
    inside = with_momentum(C[1:3], N[1:3], [None, 0])
    for i, c in enumerate(C):
        expected = c + ((CFG - 1) * inside[i - 1] if i in (1, 2) else 0)
        assert close(recording.denoised[i], expected), f"model call {i} is off"


@pytest.fixture
def remembering(node, main, weak, prompts):
    """Inputs for a guider whose pushes both remember earlier steps."""
    shape = node("BadVersionProjectedShape", **MOMENTUM)
    return {
        "model": main,
        "weak_model": weak,
        **prompts,
        "weak_shape": shape,
        "negative_shape": shape,
    }


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_each_sample_has_its_own_momentum(sampler, guide, remembering, main):
    run = Run.of(main, shape=(3, 16, 8, 8), sampler=sampler)
    recorded, recording = record(main)
    run.sample(guide(**{**remembering, "model": recorded}))
    one = run.with_(latent=run.latent[:1])
    for sample in range(3):
        rows = of_sample(recording, sample)
        by_itself = one.replay(guide(**remembering), rows)
        for guided, wanted in zip(by_itself, rows.denoised, strict=True):
            assert close(guided, wanted)


def test_same_guider_twice(guide, remembering, main):
    guider, run = guide(**remembering), Run.of(main)
    assert torch.equal(run.sample(guider), run.sample(guider))


def test_two_guiders_share_shapes(guide, remembering, main):
    """They hold the very same chain, and sample in turn."""
    run = Run.of(main)
    expected = [run.sample(guide(**remembering, cfg=cfg)) for cfg in (2.0, 4.0)]
    first, second = (guide(**remembering, cfg=cfg) for cfg in (2.0, 4.0))
    for _ in range(2):
        assert torch.equal(run.sample(first), expected[0])
        assert torch.equal(run.sample(second), expected[1])


def test_cloned_by_nodes_downstream(patch, remembering, main):
    inputs = dict(remembering)
    positive, negative = inputs.pop("positive"), inputs.pop("negative")
    patched = patch(inputs.pop("model"), **inputs)
    run = Run.of(main)
    expected = run.sample(core_guider(patched, positive, negative, CFG))
    for model in (patched.clone().clone(), patched):
        assert torch.equal(run.sample(core_guider(model, positive, negative, CFG)), expected)


def test_nothing_is_kept_after_a_run(guide, remembering, main, pack):
    """Not even until Python looks for cycles: latents of a video are large."""
    kept = []

    class Spy(pack.guiders.push.shapes.Shape):
        def start(self, noise):
            def shape(delta, step, strength):
                kept.extend(map(weakref.ref, (step, step.x, step.C, step.R, delta)))
                return delta

            return shape

    spied = {
        name: (*remembering[name], Spy(), *remembering[name])
        for name in ("weak_shape", "negative_shape")
    }
    guider, run = guide(**{**remembering, **spied}), Run.of(main)
    run.sample(guider)  # What is made once and stays is made by now.
    kept.clear()
    gc.collect()
    gc.disable()
    try:
        run.sample(guider)
        assert len(kept) == 2 * 3 * 5
        assert not any(reference() is not None for reference in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", TROUBLES, ids=["exception", "interrupt"])
@pytest.mark.parametrize("at_call", range(4))
def test_trouble_leaves_everything_as_it_was(
    how, at_call, weak_push, guide, main, positive, negative, eight, node
):
    """With an empty prompt beside the weak model, one within the other."""
    inputs, weak, _ = weak_push
    shape = node("BadVersionProjectedShape", **MOMENTUM)
    shapes = {
        "weak_shape": shape,
        "negative_shape": node("BadVersionPerpNegShape", empty=negative, weight=1.0, shape=shape),
    }
    guider = guide(model=main, positive=positive, negative=eight, **inputs, **shapes)
    run = Run.of(main, shape=(1, 16, 8, 8))
    patchers = [main, weak, guider.model_patcher]
    assert_trouble_leaves_nothing(lambda: run.sample(guider), patchers, at_call, how, 3)


BAD_EMPTY = [
    ("none", "always"),
    ("another checkpoint", "always"),
    ("prompt alone", "always"),
    ("none", "late"),
    ("prompt alone", "late"),
]


@pytest.mark.parametrize("weak_push, when", BAD_EMPTY)
def test_empty_prompt_that_the_model_cannot_take(
    weak_push, when, guide, only, main, weak, positive, negative, eight, node
):
    """The node that it is connected to is named, and nothing is left changed."""
    run = Run.of(main)
    plain = core_guider(main, positive, negative, CFG)
    before = run.sample(plain)
    inputs = {
        "none": {},
        "another checkpoint": {"weak_model": weak},
        "prompt alone": {"weak_positive": eight},
    }[weak_push]
    if when == "late":
        inputs["negative_schedule"] = only(run, 1, 2)
    shape = node("BadVersionPerpNegShape", empty=conditionings[0], weight=1.0)
    prompts = {"positive": positive, "negative": negative}
    recorded, recording = record(main)
    with pytest.raises(Exception) as caught:
        run.sample(guide(model=recorded, **prompts, negative_shape=shape, **inputs))
    text = str(caught.value)
    assert text.startswith("Perp-Neg Shape, input 'empty': got a conditioning ")
    assert "(1, 5, 24)" in text and "Expected " in text
    assert len(recording) == {"always": 0, "late": 1}[when]
    assert torch.equal(run.sample(plain), before)


def test_shape_that_has_no_height_and_width(guide, node):
    """Sound, for which a U-Net stands in that is never asked."""
    main, (positive, negative) = unet(0), conditionings
    main.set_model_unet_function_wrapper(
        lambda apply_model, args: args["input"] * (0.5 + args["c"]["c_crossattn"].mean())
    )
    run = Run.of(main, shape=(2, 4, 32))
    prompts = {"positive": positive, "negative": negative}
    assert run.sample(guide(model=main, **prompts)).isfinite().all()
    frequency = node("BadVersionFrequencyShape", low=0.5, high=1.0, levels=1)
    region = node("BadVersionRegionShape", mask=torch.eye(8), feather=0, outside=0.0)
    for name, shape in (("Frequency Shape", frequency), ("Region Shape", region)):
        with pytest.raises(ValueError) as caught:
            run.sample(guide(model=main, **prompts, negative_shape=shape))
        assert str(caught.value).startswith(f"{name}, input ")
        assert "(2, 4, 32)" in str(caught.value) and "Expected " in str(caught.value)


@pytest.mark.parametrize("levels", [1, 8])
@pytest.mark.parametrize(
    "name", ["BadVersionFrequencyShape", "BadVersionProjectedShape", "BadVersionPerpNegShape"]
)
def test_video_latents(name, levels, guide, node):
    """Frequencies are those of each frame; all else counts the whole video as one sample."""
    main, weak, (positive, negative) = video_model(0), video_model(1), conditionings
    other = [[-positive[0][0], {}]]
    settings = {
        "BadVersionFrequencyShape": {"low": 0.4, "high": 0.4, "levels": levels},
        "BadVersionProjectedShape": {"eta": 0.0, "norm_threshold": 5.0, "momentum": 0.0},
        "BadVersionPerpNegShape": {"empty": other, "weight": 1.0},
    }[name]
    run = Run.of(main, shape=(1, 16, 3, 4, 6))
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": negative}
    shape = node(name, **settings)
    run.sample(guide(model=recorded, **prompts, weak_model=weak, negative_shape=shape))
    C, N, U = alone(run, recording, main, positive, negative, other)
    (W,) = alone(run, recording, weak, positive)
    for c, n, u, w, guided in zip(C, N, U, W, recording.denoised, strict=True):
        pushed = {
            "BadVersionFrequencyShape": lambda c, n, u: c + 0.4 * (CFG - 1) * (c - n),
            "BadVersionProjectedShape": lambda c, n, u: (
                c + (CFG - 1) * projected(at_most(c - n, 5.0), c, 0.0)
            ),
            "BadVersionPerpNegShape": lambda c, n, u: perp_neg(c, n, u, CFG, 1.0),
        }[name]
        assert close(guided, each(pushed, c, n, u) + (WEAK_SCALE - 1) * (c - w), 1e-4)


def test_eps_model_with_everything_on_it(guide, only, node):
    main, (positive, negative) = unet(0), conditionings
    weak, other = add_weights(main), [[-positive[0][0], {}]]
    run = Run.of(main, shape=(2, 4, 16, 16))
    push = {
        "weak_shape": node("BadVersionProjectedShape", eta=0.0, norm_threshold=3.0, momentum=0.0),
        "negative_shape": node("BadVersionPerpNegShape", empty=other, weight=0.5),
        "weak_schedule": only(run, 0, 1),
    }
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": negative}
    with count_model_calls(main) as calls:
        run.sample(guide(model=recorded, **prompts, weak_model=weak, **push))
    assert calls == [3 + 2]
    C, N, U = alone(run, recording, main, positive, negative, other)
    (W,) = alone(run, recording, weak, positive)
    for i, (c, n, u, w) in enumerate(zip(C, N, U, W, strict=True)):
        expected = each(perp_neg, c, n, u, CFG, 0.5)
        if i < 2:
            push = each(lambda c, w: projected(at_most(c - w, 3.0), c, 0.0), c, w)
            expected = expected + (WEAK_SCALE - 1) * push
        assert close(recording.denoised[i], expected, 1e-4), f"model call {i} is off"


@pytest.fixture(params=["guider", "patch"])
def sampled(request, guide, patch, weak, prompts):
    """Sample with both pushes, by either node."""

    def sampled(run, model, prompts=prompts, weak=weak, **inputs):
        inputs |= {"weak_model": weak}
        if request.param == "guider":
            return run.sample(guide(model=model, **prompts, **inputs))
        return run.sample(core_guider(patch(model, **inputs), *prompts.values(), CFG))

    return sampled


def test_region_that_is_everywhere_changes_no_bit(sampled, node, main):
    run = Run.of(main)
    everywhere = {
        f"{push}_shape": node("BadVersionRegionShape", feather=20, **region)
        for push, region in (
            ("weak", {"mask": torch.ones(1, 64, 60), "outside": 0.0}),
            ("negative", {"mask": torch.zeros(1, 64, 60), "outside": 1.0}),
        )
    }
    assert torch.equal(sampled(run, main, **everywhere), sampled(run, main))


@pytest.mark.parametrize("passes", ["one batch", "one by one"])
@pytest.mark.parametrize("masks", [1, 2, 3, 5])
def test_region_of_each_image_of_a_batch(
    masks, passes, sampled, node, main, weak, positive, eight, monkeypatch
):
    """Repeated where there are fewer, as ComfyUI repeats them; however it splits the passes."""
    run = Run.of(main, shape=(3, 16, 8, 8))
    if passes == "one by one":
        monkeypatch.setattr(main.model, "memory_required", lambda *_, **__: 1e30)
    generator = torch.Generator().manual_seed(masks)
    places = torch.rand(masks, 8, 8, generator=generator)
    region = node("BadVersionRegionShape", mask=enlarged(places), feather=0, outside=0.0)
    recorded, recording = record(main)
    with batch_sizes(main) as sizes:
        sampled(run, recorded, weak_shape=region, negative_shape=region)
    assert sizes == {"one batch": [6] * 3, "one by one": [3] * 6}[passes]
    weight = comfy.utils.repeat_to_batch_size(places, 3)[:, None]
    C, N = alone(run, recording, main, positive, eight)
    (W,) = alone(run, recording, weak, positive)
    for c, n, w, guided in zip(C, N, W, recording.denoised, strict=True):
        assert close(guided, c + weight * ((CFG - 1) * (c - n) + (WEAK_SCALE - 1) * (c - w)))


@pytest.mark.parametrize("masks", [1, 3, 9])
def test_region_of_each_frame_of_a_video(masks, sampled, node):
    """Nine images are three latent frames: one, and four each."""
    main, weak, (positive, negative) = video_model(0), video_model(1), conditionings
    run = Run.of(main, shape=(2, 16, 3, 4, 6))
    places = torch.rand(masks, 4, 6, generator=torch.Generator().manual_seed(masks))
    region = node("BadVersionRegionShape", mask=enlarged(places), feather=0, outside=0.0)
    recorded, recording = record(main)
    prompts = {"positive": positive, "negative": negative}
    sampled(run, recorded, prompts, weak, weak_shape=region)
    weight = {
        1: lambda: places,
        3: lambda: places,
        9: lambda: torch.stack([places[0], places[1:5].mean(0), places[5:].mean(0)]),
    }[masks]()
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    for c, n, w, guided in zip(C, N, W, recording.denoised, strict=True):
        expected = c + (CFG - 1) * (c - n) + (WEAK_SCALE - 1) * weight * (c - w)
        assert close(guided, expected, 1e-4)


@pytest.mark.parametrize("order", ["last", "first"])
def test_order_of_a_region_and_a_shape_that_measures(order, guide, main, positive, weak, node):
    """Last, it cuts what all of the image was measured for; first, only the region is measured."""
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    region = {"mask": left, "feather": 0, "outside": 0.0}
    rescale = {"phi": 1.0}
    if order == "last":
        chain = node("BadVersionRescaleShape", **rescale)
        chain = node("BadVersionRegionShape", **region, shape=chain)
    else:
        chain = node("BadVersionRegionShape", **region)
        chain = node("BadVersionRescaleShape", **rescale, shape=chain)
    run = Run.of(main)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_shape=chain))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    inside = torch.zeros(8, 8)
    inside[:, :4] = 1
    for c, w, guided in zip(C, W, recording.denoised, strict=True):
        if order == "last":
            push = inside * each(lambda c, w: held(c + (WEAK_SCALE - 1) * (c - w), c) - c, c, w)
        else:
            push = each(lambda c, w: held(c + (WEAK_SCALE - 1) * inside * (c - w), c) - c, c, w)
        assert close(guided, c + push)
        outside = (guided - c)[..., 4:].norm() / push.norm()
        assert outside < 1e-5 if order == "last" else outside > 1e-2
