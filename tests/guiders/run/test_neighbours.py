"""Beside other packs in the same graph: closed form, or an error that blames what is at fault."""

import logging

import pytest
import torch

from support import neighbours
from support.rig import Pushes, Run, add_weights, alone, close, core_guider, record, unguided
from support.traces import state

CFG, WEAK_SCALE, STEPS = 3.0, 1.7, 4


@pytest.fixture
def one(node):
    return node("DigitConditioning", digit="1")


@pytest.fixture(params=["guider", "patch"])
def run_of(request, guide, patch, positive, negative):
    """Sample by either node; the run, and what each model call predicted."""

    def run_of(model, **inputs):
        inputs = {"weak_scale": WEAK_SCALE, **inputs}
        run = Run.of(model, steps=STEPS)
        recorded, recording = record(model)
        if request.param == "guider":
            guider = guide(model=recorded, positive=positive, negative=negative, cfg=CFG, **inputs)
        else:
            guider = core_guider(patch(recorded, **inputs), positive, negative, CFG)
        run.sample(guider)
        return run, recording

    return run_of


CACHES = {
    "by index": lambda model: neighbours.step_cache(model, by_index=True),
    "for all": lambda model: neighbours.step_cache(model, by_index=False),
    "by order": neighbours.block_cache,
}
SAME_BASE = {
    "LoRA": lambda model, node: add_weights(model),
    "worse pass": lambda model, node: node(
        "BadVersionWeakenBySkippingBlocks", model=model, blocks="auto"
    ),
}


@pytest.mark.parametrize("weak", SAME_BASE)
@pytest.mark.parametrize("cache", CACHES)
def test_step_cache_on_both(cache, weak, run_of, main, positive, negative, node):
    """A cache on the network keeps what it knows of the weak pass apart from the main one."""
    cached = CACHES[cache](main)
    weaker = SAME_BASE[weak](cached, node)
    run_of(cached, weak_model=weaker)  # What is loaded once and stays is loaded by now.
    before = state(main, cached)
    run, recording = run_of(cached, weak_model=weaker)
    assert state(main, cached) == before
    # Each as of a pass alone, with a cache of its own.
    alone_on_main = CACHES[cache](main)
    alone_on_weak = SAME_BASE[weak](CACHES[cache](main), node)
    Pushes(alone_on_main, positive, negative, CFG, alone_on_weak, WEAK_SCALE).assert_hold(
        run, recording
    )


def test_cache_that_hands_the_main_prediction_on_is_told(run_of, main, caplog):
    cached = neighbours.shared_step_cache(main)
    interval = {"weak_model": add_weights(cached)}
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="changes nothing"):
        run_of(cached, **interval)


def test_writing_into_predictions(run_of, main, weak, positive, negative):
    changed = neighbours.writing_into_predictions(main)
    run, recording = run_of(changed, weak_model=weak)
    Pushes(changed, positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, recording)


@pytest.mark.parametrize("kind", ["weak prompt", "Perp-Neg"])
def test_entries_for_two_conditionings(kind, run_of, main, weak, positive, negative, one, node):
    """A batch with a third one fails; then each is predicted for alone, to the end of the run."""
    patched = neighbours.two_entries(main)
    if kind == "weak prompt":
        run, recording = run_of(patched, weak_positive=one)
        pushes = Pushes(patched, positive, negative, CFG, patched, WEAK_SCALE, one)
        pushes.assert_hold(run, recording)
    else:
        shape = node("BadVersionPerpNegShape", empty=one, weight=1.0)
        run, recording = run_of(patched, weak_model=weak, negative_shape=shape)
        assert all(each.isfinite().all() for each in recording.denoised)


def test_guider_that_asks_no_cfg_function(patch, main, weak, positive):
    recorded, recording = record(main)
    guider = neighbours.PositiveOnly(patch(recorded, weak_model=weak, weak_scale=WEAK_SCALE))
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    run = Run.of(main, steps=STEPS)
    latent = run.sample(guider)
    (C,), (W,) = (alone(run, recording, model, positive) for model in (main, weak))
    x = recording.x
    assert len(C) == STEPS and latent.isfinite().all()
    # What is recorded is what the guider has made; the sampler gets the push as well.
    sigmas = run.sigmas.tolist()
    for i in range(STEPS - 1):
        guided = C[i] + (WEAK_SCALE - 1) * (C[i] - W[i])
        after = guided + (x[i] - guided) * sigmas[i + 1] / sigmas[i]
        assert close(x[i + 1], after), f"model call {i} is off"


def test_guider_that_asks_no_cfg_function_for_a_part_of_the_image(patch, main, weak, positive):
    """Where the model predicts nothing there is no push, though the weak model predicts there."""
    inputs = {"weak_model": weak, "weak_positive": positive, "weak_scale": WEAK_SCALE}
    guider, plain = (neighbours.PositiveOnly(each) for each in (patch(main, **inputs), main))
    part = limited(positive, "mask")
    run = Run.of(main, steps=1)
    found = []
    for each in (guider, plain):
        each.set_conds(part, part)
        each.set_cfg(1.0)
        found.append(run.sample(each))
    difference = (found[0] - found[1]).abs()
    half = difference.shape[-1] // 2
    assert difference[..., :half].max() > 0 and (difference[..., half:] == 0).all()


def test_guider_that_leaves_no_place(patch, main, weak, positive):
    guider = neighbours.OfItsOwn(patch(main, weak_model=weak, weak_scale=WEAK_SCALE))
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    with pytest.raises(ValueError, match=r"Patch, input 'weak_model': got the guider OfItsOwn, "):
        Run.of(main).sample(guider)


# Patches that mix the two prompts inside a pass, as normalized attention guidance


def mixed(main, weak, run, recording, positive, negative):
    """What each predicts where a pass has both prompts."""
    for model in (main, weak):
        both = unguided(neighbours.mixing_prompts(model))
        both.model_options["disable_cfg1_optimization"] = True
        yield run.replay(core_guider(both, positive, negative, 1.0), recording)


@pytest.mark.parametrize("kind", ["LoRA", "worse pass"])
def test_prompts_are_mixed_on_both_sides(kind, run_of, main, positive, negative, node):
    mixing = neighbours.mixing_prompts(main)
    run, recording = run_of(mixing, weak_model=SAME_BASE[kind](mixing, node))
    C, W = mixed(main, SAME_BASE[kind](main, node), run, recording, positive, negative)
    (N,) = alone(run, recording, main, negative)
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        expected = n + CFG * (c - n) + (WEAK_SCALE - 1) * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def test_negative_schedule_that_is_off_leaves_prompts_mixed(run_of, main, positive, negative, node):
    mixing = neighbours.mixing_prompts(main)
    off = node("BadVersionGuidanceInterval", unit="percent", start=0.0, end=0.5)
    run, recording = run_of(mixing, weak_scale=1.0, negative_schedule=off)
    C, _ = mixed(main, main, run, recording, positive, negative)
    assert close(recording.denoised[-1], C[-1]) and not close(recording.denoised[0], C[0])


# Conditionings that predict nothing somewhere


def limited(conditioning, how):
    extras = {
        "time": {"start_percent": 0.0, "end_percent": 0.4},
        "area": {"area": (4, 4, 2, 0), "strength": 1.0},
        "mask": {"mask": torch.cat([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)], dim=2)},
    }[how]
    return [[embedding, {**settings, **extras}] for embedding, settings in conditioning]


@pytest.mark.parametrize("how", ["time", "area", "mask"])
def test_no_push_where_nothing_was_predicted(how, run_of, main, positive, negative, one):
    prompt = limited(one, how)
    run, recording = run_of(main, weak_positive=prompt)
    C, N, W = alone(run, recording, main, positive, negative, prompt)
    seen = [False, False]
    for i, (c, n, w) in enumerate(zip(C, N, W, strict=True)):
        where = torch.ones_like(c)
        if how == "time":
            reached = main.get_model_object("model_sampling").percent_to_sigma(0.4)
            where *= float(recording.sigma[i].max() >= reached)
        elif how == "area":
            where[..., 4:], where[..., :2, :], where[..., 6:, :] = 0, 0, 0
        else:
            where[..., where.shape[-1] // 2 :] = 0
        expected = n + CFG * (c - n) + (WEAK_SCALE - 1) * where * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"
        seen = [seen[0] or bool((where == 0).any()), seen[1] or bool((where == 1).any())]
    assert all(seen)


# Blame


def test_main_model_that_predicts_nan_is_blamed(run_of, main, weak):
    with pytest.raises(ValueError, match="input 'model': the prediction of SD3 at sigma 1 has NaN"):
        run_of(neighbours.spoiling(main), weak_model=weak)


def test_main_model_that_predicts_nan_later_is_blamed(run_of, main, weak):
    with pytest.raises(ValueError, match="input 'model': the prediction of SD3 at sigma"):
        run_of(neighbours.spoiling(main, at_call=2), weak_model=weak)


def test_weak_model_that_predicts_nan_is_blamed(run_of, main, weak):
    with pytest.raises(ValueError, match="input 'weak_model': the prediction of SD3 at sigma 1"):
        run_of(main, weak_model=neighbours.spoiling(weak))


def test_another_node_that_makes_nan_is_blamed(run_of, main, weak):
    spoiled = main.clone()
    spoiled.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * float("nan"))
    with pytest.raises(ValueError, match=r"guided prediction of the step before .* other nodes"):
        run_of(spoiled, weak_model=weak)


def test_latent_with_nan_is_blamed(guide, main, weak, positive, negative):
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    run.latent.fill_(float("nan"))
    with pytest.raises(ValueError, match="Guider: the latent or the noise that the sampler starts"):
        run.sample(guider)


@pytest.mark.parametrize("kind", ["other checkpoint", "same base", "weak prompt"])
def test_node_that_fails_on_the_weak_model_is_blamed(kind, run_of, main, weak, one):
    """And not a prompt, which has done nothing."""
    error = KeyError("no such block")
    inputs = {
        "other checkpoint": {"weak_model": neighbours.breaking(weak, error)},
        "same base": {"weak_model": neighbours.breaking(add_weights(main), error)},
        "weak prompt": {"weak_model": neighbours.breaking(main, error), "weak_positive": one},
    }[kind]
    with pytest.raises(ValueError, match=r"input 'weak_model': .*KeyError: 'no such block'"):
        run_of(main, **inputs)
