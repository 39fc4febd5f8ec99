"""A weak model that predicts in some of the steps only, and what the steps between make of it."""

import gc
import uuid

import comfy.sample
import comfy.samplers
import numpy as np
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler

from support.rig import (
    Run,
    add_weights,
    alone,
    along,
    at_most,
    batch_sizes,
    call,
    close,
    core_guider,
    count_model_calls,
    each,
    record,
    sampler_of,
)
from support.small_models import conditionings, unet
from support.traces import HEARD, TROUBLES, state, trouble

WEAK_SCALE, CFG = 1.7, 3.0
EVERY_STEP = {"weak_every": 1}


@pytest.fixture
def pair(main, positive, negative):
    """What both nodes need, for a run with both pushes."""
    return {"model": main, "positive": positive, "negative": negative}


def distance(sigma, flow):
    """Of a sample from its mean; latents of the models here have a standard deviation of 1."""
    if flow:
        sigma = sigma / (1 - sigma).clamp_min(1e-12)
    return sigma / (1 + sigma**2) ** 0.5


def carried(delta, sigma, sigma_now, flow=True):
    return delta * distance(sigma_now, flow) / distance(sigma, flow)


def deltas(recording, C, W, found, flow=True):
    """For each model call ``C − W`` of the call that it is taken from; None where that is none."""
    sigma = [float(s.max()) for s in recording.sigma]
    return [
        None
        if at is None
        else carried(C[at] - W[at], *map(torch.tensor, (sigma[at], sigma[now])), flow)
        for now, at in enumerate(found)
    ]


def predict(model, conditioning, x, sigma):
    """One prediction of one model from its own weights, without ComfyUI's sampling code."""
    ((context, extra),) = conditioning
    return model.model.apply_model(
        x,
        sigma.expand(len(x)),
        c_crossattn=context.expand(len(x), -1, -1),
        y=extra["pooled_output"].expand(len(x), -1),
    )


@pytest.mark.parametrize("every", [1, 2, 3])
def test_whole_run_equals_a_brute_force_euler_loop(every, main, weak, positive, negative, guide):
    run = Run.of(main, steps=7)
    guider = guide(
        model=main, positive=positive, negative=negative, weak_model=weak, weak_every=every
    )
    actual = run.sample(guider)

    x = comfy.sample.prepare_noise(run.latent, run.seed) * run.sigmas[0]
    for i, (sigma, next_sigma) in enumerate(zip(run.sigmas[:-1], run.sigmas[1:], strict=True)):
        C = predict(main, positive, x, sigma)
        N = predict(main, negative, x, sigma)
        if i % every == 0:
            found, at = C - predict(weak, positive, x, sigma), sigma
        push = (WEAK_SCALE - 1) * carried(found, at, sigma)
        denoised = C + (CFG - 1) * (C - N) + push
        x = x + (next_sigma - sigma) * (x - denoised) / sigma
    assert close(actual, main.model.process_latent_out(x), 1e-4)


# For each model call of some runs of four steps, the call whose difference it takes.
FOUND = {
    ("euler", 2): [0, 0, 2, 2],
    ("euler", 3): [0, 0, 0, 3],
    ("euler", 16): [0, 0, 0, 0],
    # Looks ahead at the next step, which then takes what was found there.
    ("heun", 2): [0, 0, 0, 3, 3, 3, 3],
    # Between two steps, and then at the next one.
    ("dpm_2", 2): [0, 0, 0, 0, 4, 4, 4],
    # Goes back once, first to more noise than where the last difference was found.
    ("restart", 2): [0, 0, 2, 3, 4],
    ("restart", 3): [0, 0, 0, 0, 0],
}


@pytest.mark.parametrize(("sampler", "every"), FOUND)
def test_each_call_takes_what_was_found_in_its_block(sampler, every, guide, main, weak, positive):
    run = Run.of(main, steps=4, shape=(1, 16, 8, 8), sampler=sampler_of(sampler))
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_every=every))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    pushes = deltas(recording, C, W, FOUND[sampler, every])
    for i, (c, delta) in enumerate(zip(C, pushes, strict=True)):
        expected = c + (WEAK_SCALE - 1) * delta
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_beside_a_negative_prompt(weak_push, guide, pair, main, positive, negative):
    """Of which there is a prediction at every step."""
    inputs, weak, prompt = weak_push
    run = Run.of(main, steps=4)
    recorded, recording = record(main)
    run.sample(guide(**{**pair, **inputs, "model": recorded}, weak_every=3))
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, prompt or positive)
    for i, delta in enumerate(deltas(recording, C, W, [0, 0, 0, 3])):
        expected = C[i] + (CFG - 1) * (C[i] - N[i]) + (WEAK_SCALE - 1) * delta
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_on_an_eps_model(guide):
    main, weak, (positive, _) = unet(0), unet(1), conditionings
    run = Run.of(main, shape=(2, 4, 16, 16), steps=4)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_every=3))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    pushes = deltas(recording, C, W, [0, 0, 0, 3], flow=False)
    assert pushes[2].norm() < 0.9 * pushes[0].norm(), "that it is scaled is seen"
    for c, delta, guided in zip(C, pushes, recording.denoised, strict=True):
        assert close(guided, c + (WEAK_SCALE - 1) * delta)


def test_schedule_that_switches_it_off_in_between(
    guide, curve, pair, main, weak, positive, negative
):
    """Where it comes back on, the weak model predicts anew, and at its next block again."""
    run = Run.of(main, steps=6)
    of_weak, of_negative = (1.0, 0.5, 0.0, 2.0, -0.3, 1.2), (0.0, 1.0, 0.7, 0.0, 1.0, 1.0)
    recorded, recording = record(main)
    with count_model_calls(weak) as passes:
        run.sample(
            guide(
                **{**pair, "model": recorded},
                weak_model=weak,
                weak_every=4,
                weak_schedule=curve(run, *of_weak),
                negative_schedule=curve(run, *of_negative),
            )
        )
    found = [0, 0, None, 3, 4, 4]
    assert passes == [3]
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    for i, delta in enumerate(deltas(recording, C, W, found)):
        expected = C[i] + (CFG - 1) * of_negative[i] * (C[i] - N[i])
        if delta is not None:
            expected = expected + (WEAK_SCALE - 1) * of_weak[i] * delta
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_interval_that_begins_within_a_block(guide, only, pair, main, weak, positive, negative):
    run = Run.of(main, steps=6, shape=(1, 16, 8, 8))
    recorded, recording = record(main)
    inputs = {"weak_model": weak, "weak_every": 3, "weak_schedule": only(run, 1, 2, 3, 4)}
    with count_model_calls(weak) as passes:
        run.sample(guide(**{**pair, "model": recorded}, **inputs))
    assert passes == [2]
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    for i, delta in enumerate(deltas(recording, C, W, [None, 1, 1, 3, 3, None])):
        expected = C[i] + (CFG - 1) * (C[i] - N[i])
        if delta is not None:
            expected = expected + (WEAK_SCALE - 1) * delta
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_shapes_act_at_every_step(guide, pair, main, weak, positive, negative, node):
    """On what is carried over, with the present prediction; those of the other push see it, too."""
    eta, limit, beta, ratio = 0.2, 6.0, -0.5, 0.4
    run = Run.of(main, steps=4)
    recorded, recording = record(main)
    run.sample(
        guide(
            **{**pair, "model": recorded},
            weak_model=weak,
            weak_every=3,
            weak_shape=node(
                "BadVersionProjectedShape", eta=eta, norm_threshold=limit, momentum=beta
            ),
            negative_shape=node("BadVersionCapShape", relative_to="other push", limit=ratio),
        )
    )
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)

    def projected(delta, c):
        delta = at_most(delta, limit)
        parallel = along(delta, c)
        return delta - parallel + eta * parallel

    average = None
    for i, delta in enumerate(deltas(recording, C, W, [0, 0, 0, 3])):
        average = delta if average is None else delta + beta * average
        of_weak = each(projected, average, C[i])
        of_negative = each(lambda n, w: at_most(n, ratio * w.norm()), C[i] - N[i], delta)
        expected = C[i] + (WEAK_SCALE - 1) * of_weak + (CFG - 1) * of_negative
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_schedule_by_distance_measures_what_is_carried_over(
    guide, main, weak, positive, negative, node
):
    share, cap = 0.05, 10.0
    run = Run.of(main, steps=4)
    recorded, recording = record(main)
    schedule = node("BadVersionDistanceCalibrated", share=share, cap=cap, deviation=0.0)
    inputs = {"weak_model": weak, "weak_every": 2, "weak_schedule": schedule}
    run.sample(guide(model=recorded, positive=positive, **inputs))
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    for i, delta in enumerate(deltas(recording, C, W, [0, 0, 2, 2])):

        def push(delta, sigma):
            length = delta.numel() ** 0.5 * distance(sigma, True)
            return delta * (share * length / delta.norm()).clamp(max=cap)

        expected = C[i] + each(push, delta, recording.sigma[i])
        assert close(recording.denoised[i], expected), f"model call {i} is off"


@pytest.mark.parametrize("shape", [None, "BadVersionPerpNegShape"])
def test_prompt_alone_leaves_the_batch_in_between(shape, guide, pair, main, node):
    """What a shape asks for is of the present step, and stays in it."""
    run = Run.of(main, steps=5, shape=(1, 16, 8, 8))
    eight, one = (node("DigitConditioning", digit=digit) for digit in "81")
    push = {} if shape is None else {"weak_shape": node(shape, empty=one, weight=0.7)}
    with batch_sizes(main) as sizes:
        run.sample(guide(**pair, weak_positive=eight, weak_every=2, **push))
    more = len(push)
    assert sizes == [size + more for size in (3, 2, 3, 2, 3)]


def test_four_steps_to_a_pass_are_a_quarter_of_the_passes(guide, pair, main, weak):
    run = Run.of(main, steps=20, shape=(1, 16, 8, 8))
    with count_model_calls(main, weak) as passes:
        run.sample(guide(**pair, weak_model=weak, weak_every=4))
    assert passes == [20, 5]


# With more than one call to a step, memory of earlier steps, noise, or sigmas of their own.
SAMPLERS = [
    "heun",
    "dpm_2_ancestral",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "res_multistep_ancestral_cfg_pp",
    "sa_solver_pece",
    "seeds_3",
    "uni_pc",
]
# Tries both of the next two steps, of which the second may be in another block.
LOOKS_FAR_AHEAD = "heunpp2"


@pytest.mark.parametrize("sampler", [*SAMPLERS, LOOKS_FAR_AHEAD])
def test_samplers_of_other_kinds(sampler, guide, main, weak, positive):
    run = Run.of(main, shape=(1, 16, 8, 8), steps=6, sampler=sampler)
    guider = guide(model=main, positive=positive, weak_model=weak, weak_every=3)
    with count_model_calls(main, weak) as passes:
        latent = run.sample(guider)
    assert latent.isfinite().all()
    assert passes[0] >= 6
    if sampler == LOOKS_FAR_AHEAD:
        assert 2 < passes[1] < passes[0] / 2
    else:
        assert passes[1] == 2


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde"])
def test_every_step_gives_the_bits_of_no_such_input(sampler, guide, pair, main, weak):
    run = Run.of(main, shape=(1, 16, 8, 8), sampler=sampler)
    without, every_step = (guide(**pair, weak_model=weak, **each) for each in ({}, EVERY_STEP))
    assert torch.equal(run.sample(without), run.sample(every_step))


def test_patch_gives_the_bits_of_the_guider(guide, patch, pair, main, weak, comfy_nodes):
    inputs = {"weak_model": weak, "weak_every": 2}
    patched = patch(main, **inputs)
    run = Run.of(main, sampler="dpmpp_2m", seed=5, steps=4)
    expected = run.sample(guide(**pair, **inputs))
    prompts = {name: pair[name] for name in ("positive", "negative")}
    # As nodes downstream do, which must not tear anything apart.
    for model in (patched, patched.clone().clone()):
        (from_ksampler,) = call(
            comfy_nodes["KSampler"],
            model=model,
            seed=5,
            steps=4,
            cfg=CFG,
            sampler_name="dpmpp_2m",
            scheduler="simple",
            latent_image={"samples": torch.zeros(2, 16, 8, 8)},
            **prompts,
        )
        assert torch.equal(from_ksampler["samples"], expected)


def test_two_patches_on_one_model_carry_apart(patch, main, weak, positive):
    other = add_weights(main)
    run = Run.of(main, steps=6, shape=(1, 16, 8, 8))
    recorded, recording = record(main)
    once = patch(recorded, weak_model=weak, weak_every=2)
    twice = patch(once, weak_model=other, weak_scale=1.4, weak_every=3)
    run.sample(core_guider(twice, positive))
    C, R1, R2 = (alone(run, recording, model, positive)[0] for model in (main, weak, other))
    first = deltas(recording, C, R1, [0, 0, 2, 2, 4, 4])
    second = deltas(recording, C, R2, [0, 0, 0, 3, 3, 3])
    for c, one, two, guided in zip(C, first, second, recording.denoised, strict=True):
        assert close(guided, c + 0.7 * one + 0.4 * two)


def test_sampler_that_begins_again_takes_nothing_along(guide, main, weak, positive):
    def euler_twice(model, x, sigmas, extra_args, *_, **__):
        sample_euler(model, x.flip(0), sigmas, extra_args, disable=True)
        return sample_euler(model, x, sigmas, extra_args, disable=True)

    guider = guide(model=main, positive=positive, weak_model=weak, weak_every=16)
    run = Run.of(main)
    once = run.sample(guider)
    with count_model_calls(weak) as passes:
        twice = run.with_(sampler=comfy.samplers.KSAMPLER(euler_twice)).sample(guider)
    assert torch.equal(twice, once) and passes == [2]


@pytest.mark.parametrize("how", TROUBLES, ids=["exception", "interrupt"])
def test_nothing_lasts_beyond_a_run(how, guide, pair, main, pack):
    """Be it cancelled: the next one has the bits of the first, and no latent is kept."""
    weak = add_weights(main)
    run = Run.of(main, steps=5, shape=(1, 16, 8, 8))
    guider = guide(**pair, weak_model=weak, weak_every=16)
    latent = run.sample(guider)
    patchers = [main, weak, guider.model_patcher]
    before = state(*patchers)
    with trouble(patchers, 3, how) as calls, pytest.raises(HEARD):
        run.sample(guider)
    assert len(calls) == 4
    assert torch.equal(run.sample(guider), latent)
    assert state(*patchers) == before
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is pack.guiders.push.memory.Carried]


def test_probe_reads_what_is_carried_over(guide, pair, main, weak, pack, positive):
    run = Run.of(main, steps=4)
    watched = pack.guiders.record.probe.Probe(uuid.uuid4().hex, "run")
    recorded, recording = record(main)
    run.sample(
        guide(**{**pair, "model": recorded}, weak_model=weak, weak_every=2, probe=watched),
    )
    push = watched.record_of().pushes["weak"]
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    lengths = [d.flatten(1).norm(dim=1) for d in deltas(recording, C, W, [0, 0, 2, 2])]
    np.testing.assert_allclose(push.difference, torch.stack(lengths), rtol=1e-4)
    np.testing.assert_allclose(push.added, (WEAK_SCALE - 1) * torch.stack(lengths), rtol=1e-4)


def test_weak_model_that_changes_nothing(guide, pair):
    with pytest.raises(ValueError, match="changes nothing: at every step"):
        Run.of(pair["model"]).sample(
            guide(**pair, weak_positive=pair["positive"], weak_every=2),
        )


SIGMAS = (14.6, 5.0, 2.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("sigma", "step"),
    [
        (20.0, 0),
        (14.6, 0),
        (14.6 * (1 - 1e-6), 0),
        (5.1, 0),
        (5.0 * (1 + 1e-6), 1),
        (5.0, 1),
        (2.5, 1),
        (0.5, 3),
        (0.1, 3),
    ],
)
def test_step_of_a_sigma(sigma, step, pack):
    noise = pack.guiders.push.noise.Noise(False, lambda percent: 10 * (1 - percent), sigmas=SIGMAS)
    assert noise.step_of(sigma) == step


@pytest.mark.parametrize("flow", [False, True])
def test_formula_scales_each_sample_by_its_own_noise(flow, pack):
    carried_over = pack.guiders.push.formulas.carried_over
    delta = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    sigma, now = torch.tensor([1.0, 0.7, 0.5]), torch.tensor([0.9, 0.3, 0.5])
    actual = carried_over(delta, sigma, now, 1.0, flow)
    assert close(actual, carried(delta, *(s.view(3, 1, 1, 1) for s in (sigma, now)), flow))
    assert carried_over(delta.half(), sigma, now, 1.0, flow).dtype == torch.float16
    nothing = carried_over(delta, torch.zeros(3), torch.zeros(3), 1.0, flow)
    assert torch.equal(nothing, torch.zeros_like(delta))
