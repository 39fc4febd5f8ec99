"""Pushes beside those of the guider and the patch: a third bad version, a fourth, …"""

import pytest
import torch

from support.rig import (
    Run,
    add_weights,
    alone,
    close,
    core_guider,
    count_model_calls,
    record,
)
from support.traces import TROUBLES, assert_trouble_leaves_nothing

CFG, WEAK_SCALE = 3.0, 1.7


@pytest.fixture
def another(node):
    """One more push."""
    return lambda **inputs: node("BadVersionAnotherPush", **{"scale": 1.4, **inputs})


@pytest.fixture(scope="module")
def others(node):
    """Three more prompts."""
    return [node("DigitConditioning", digit=digit) for digit in "058"]


def test_all_pushes_add_up(main, weak, positive, negative, others, guide, patch, another):
    """Both of the guider's, one more weak model, one with a prompt of its own, two prompts."""
    lora = add_weights(main)
    more = another(weak_model=lora)
    more = another(scale=1.2, weak_model=weak, prompt=others[0], more_pushes=more)
    more = another(scale=1.6, prompt=others[1], more_pushes=more)
    more = another(scale=0.9, prompt=others[2], more_pushes=more)
    run = Run.of(main)
    recorded, recording = record(main)
    inputs = {"weak_model": weak, "more_pushes": more}
    guided = run.sample(guide(model=recorded, positive=positive, negative=negative, **inputs))
    C, N, five, eight = alone(run, recording, main, positive, negative, *others[1:])
    W, zero = alone(run, recording, weak, positive, others[0])
    (L,) = alone(run, recording, lora, positive)
    for i, c in enumerate(C):
        expected = c + (CFG - 1) * (c - N[i]) + (WEAK_SCALE - 1) * (c - W[i])
        expected = expected + 0.4 * (c - L[i]) + 0.2 * (c - zero[i])
        expected = expected + 0.6 * (c - five[i]) - 0.1 * (c - eight[i])
        assert close(recording.denoised[i], expected), f"call {i} is off"
    patched = patch(main, **inputs)
    assert torch.equal(run.sample(core_guider(patched, positive, negative, CFG)), guided)


def test_prompts_share_the_batch_of_the_main_model(
    main, positive, negative, others, guide, another
):
    run = Run.of(main, shape=(1, 16, 8, 8))
    more = another(prompt=others[0], more_pushes=another(prompt=others[1]))
    inputs = {"positive": positive, "negative": negative, "weak_scale": 1.0}
    with count_model_calls(main) as calls:
        run.sample(guide(model=main, more_pushes=more, **inputs))
    assert calls == [3]


def test_each_has_its_schedule_its_shape_and_its_steps(
    main, weak, positive, guide, another, curve, only, node
):
    """Off means no pass; a cap; and a push that is used twice."""
    run = Run.of(main, steps=4)
    lora = add_weights(main)
    cap = node("BadVersionCapShape", relative_to="number", limit=1.0)
    more = another(weak_model=weak, schedule=only(run, 1, 2))
    more = another(weak_model=lora, shape=cap, every=4, more_pushes=more)
    recorded, recording = record(main)
    with count_model_calls(main, weak) as calls:
        run.sample(guide(model=recorded, positive=positive, weak_scale=1.0, more_pushes=more))
    assert calls == [4 + 1, 2]
    (C,), (W,), (L,) = (alone(run, recording, model, positive) for model in (main, weak, lora))
    delta = C[0] - L[0]
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (length > 1.0).all()
    assert close(recording.denoised[0], C[0] + 0.4 * delta * (1.0 / length))
    for i in (1, 2):
        of_lora = recording.denoised[i] - C[i] - 0.4 * (C[i] - W[i])
        # Carried over from the first step, along the same direction.
        cosine = torch.nn.functional.cosine_similarity(of_lora.flatten(1), delta.flatten(1))
        assert (cosine > 0.999).all()


@pytest.mark.parametrize("has_negative", [True, False])
def test_shapes_compare_with_any_other_push(
    has_negative, main, weak, positive, negative, guide, another, node
):
    """With the negative push where there is one, else with the next."""
    lora = add_weights(main)
    reject = node("BadVersionRejectShape", keep="different")
    run = Run.of(main)
    recorded, recording = record(main)
    inputs = {"negative": negative} if has_negative else {}
    more = another(weak_model=lora, shape=reject)
    run.sample(
        guide(model=recorded, positive=positive, weak_model=weak, more_pushes=more, **inputs)
    )
    C, N = alone(run, recording, main, positive, negative)
    (W,), (L,) = (alone(run, recording, model, positive) for model in (weak, lora))
    for i, c in enumerate(C):
        other = c - N[i] if has_negative else c - W[i]
        delta = c - L[i]
        share = (delta * other).sum((1, 2, 3), True) / (other * other).sum((1, 2, 3), True)
        expected = c + 0.7 * (c - W[i]) + 0.4 * (delta - share * other)
        if has_negative:
            expected = expected + (CFG - 1) * (c - N[i])
        assert close(recording.denoised[i], expected, 1e-4), f"call {i} is off"


def test_perp_neg_between_two_negative_prompts(
    main, positive, negative, others, guide, another, node
):
    """A second negative prompt, of which only what the positive one has not is pushed away from."""
    run = Run.of(main)
    perp = node("BadVersionPerpNegShape", empty=negative, weight=1.0)
    recorded, recording = record(main)
    more = another(prompt=others[0], shape=perp)
    inputs = {"positive": positive, "negative": others[1], "weak_scale": 1.0}
    run.sample(guide(model=recorded, more_pushes=more, **inputs))
    C, U, zero, five = alone(run, recording, main, positive, negative, *others[:2])
    for i, c in enumerate(C):
        P, Q = c - U[i], zero[i] - U[i]
        across = Q - (Q * P).sum((1, 2, 3), True) / (P * P).sum((1, 2, 3), True) * P
        perp_neg = U[i] + 1.4 * (P - across)
        expected = perp_neg + (CFG - 1) * (c - five[i])
        assert close(recording.denoised[i], expected, 1e-4), f"call {i} is off"


def test_scale_1_is_off_to_the_bit(main, weak, positive, negative, guide, another):
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, CFG))
    inputs = {"positive": positive, "negative": negative, "weak_scale": 1.0}
    off = another(scale=1.0, weak_model=weak)
    with count_model_calls(weak) as calls:
        assert torch.equal(run.sample(guide(model=main, more_pushes=off, **inputs)), core)
    assert calls == [0]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "Another Push, input 'weak_model': got nothing, and nothing in 'prompt'"),
        ({"prompt": [], "every": 0}, "Another Push, input 'every'"),
        ({"prompt": [], "scale": float("nan")}, "Another Push, input 'scale'"),
    ],
)
def test_what_cannot_be_is_refused(inputs, said, another, pack):
    with pytest.raises(pack.guiders.errors.GuidanceError) as error:
        another(**inputs)
    assert said in str(error.value)


def test_model_that_is_the_main_one_is_refused_by_the_name_of_its_node(
    main, positive, guide, another, pack
):
    with pytest.raises(pack.guiders.errors.GuidanceError) as error:
        guide(model=main, positive=positive, weak_scale=1.0, more_pushes=another(weak_model=main))
    assert "Another Push, input 'weak_model'" in str(error.value)


def test_push_that_was_never_on_is_told_by_the_name_of_its_node(
    main, weak, positive, guide, another, node, caplog
):
    run = Run.of(main)
    never = node("BadVersionGuidanceInterval", unit="sigma", start=9.0, end=8.0)
    more = another(weak_model=weak, schedule=never)
    run.sample(guide(model=main, positive=positive, weak_scale=1.0, more_pushes=more))
    assert "Another Push, input 'schedule': it was off at every step" in caplog.text


def test_names_in_the_record_and_in_the_log(
    main, weak, positive, negative, guide, another, pack, caplog
):
    caplog.set_level("INFO")
    run = Run.of(main)
    probe = pack.guiders.record.probe.Probe("key", "p")
    more = another(prompt=negative, more_pushes=another(weak_model=weak))
    inputs = {"weak_model": weak, "probe": probe, "more_pushes": more}
    latent = run.sample(guide(model=main, positive=positive, **inputs))
    record_of = probe.record_of(latent)
    assert list(record_of.pushes) == ["weak", "another", "another_2"]
    total = [record_of.pushes[name].added for name in record_of.pushes]
    assert (record_of.push <= sum(total) * 1.001).all()
    columns = record_of.columns()
    assert columns["another_2_scale"][:, 0] == pytest.approx([1.4] * 3)
    assert "weak_model, weak_scale 1.7, and from weak_model of Another Push, scale 1.4, and " in (
        caplog.text
    )
    assert "the model with prompt of Another Push, scale 1.4" in caplog.text


@pytest.mark.parametrize("how", TROUBLES, ids=["exception", "interrupt"])
@pytest.mark.parametrize("at_call", [1, 3])
def test_trouble_leaves_everything_as_it_was(
    how, at_call, main, weak, positive, guide, another, node
):
    lora = add_weights(main)
    history = node("BadVersionHistoryPush", mode="momentum", scale=1.5, memory=0.6)
    more = another(weak_model=lora, more_pushes=another(weak_model=weak, more_pushes=history))
    run = Run.of(main)
    guider = guide(model=main, positive=positive, weak_scale=1.0, more_pushes=more)
    patchers = [main, weak, lora, guider.model_patcher]
    assert_trouble_leaves_nothing(lambda: run.sample(guider), patchers, at_call, how, 9)


@pytest.fixture
def stop(node):
    """A stop that comes when two predictions have come close."""
    return lambda cosine: node("BadVersionStopWhenSettled", cosine=cosine, start=0.0)


# Above what the predictions have at the first step, below what they have at the last.
RESTS_AT = {"weak": 0.93, "negative": 0.985, "another": 0.93}


@pytest.mark.parametrize("push", RESTS_AT)
def test_settled_push_is_dropped_with_its_pass(
    push, main, weak, positive, negative, guide, another, stop, caplog
):
    caplog.set_level("INFO")
    rests_at = RESTS_AT[push]
    run = Run.of(main, steps=10, shape=(1, 16, 8, 8))
    recorded, recording = record(main)
    if push == "negative":
        inputs = {"negative": negative, "negative_schedule": stop(rests_at), "weak_scale": 1.0}
        bad, prompt, strength = main, negative, CFG - 1
    elif push == "weak":
        inputs = {"weak_model": weak, "weak_schedule": stop(rests_at)}
        bad, prompt, strength = weak, positive, WEAK_SCALE - 1
    else:
        more = another(weak_model=weak, schedule=stop(rests_at))
        inputs = {"weak_scale": 1.0, "more_pushes": more}
        bad, prompt, strength = weak, positive, 0.4
    with count_model_calls(main, weak) as calls:
        run.sample(guide(model=recorded, positive=positive, **inputs))
    (C,), (R,) = (alone(run, recording, m, p) for m, p in ((main, positive), (bad, prompt)))
    stopped = None
    for i, (c, r) in enumerate(zip(C, R, strict=True)):
        on = stopped is None
        assert close(recording.denoised[i], c + strength * (c - r) if on else c), f"call {i} is off"
        cosine = torch.nn.functional.cosine_similarity(
            c.flatten().double(), r.flatten().double(), 0
        )
        if on and cosine >= rests_at:
            stopped = i
    assert stopped is not None and 0 < stopped < 8
    saved = 9 - stopped
    if bad is weak:
        assert calls == [10, 10 - saved]
    assert f"saved its pass, at {saved} of 10 model calls" in caplog.text


def test_stop_that_never_comes_leaves_the_bits(main, weak, positive, negative, guide, stop):
    run = Run.of(main)
    inputs = {"model": main, "positive": positive, "negative": negative, "weak_model": weak}
    never = {"weak_schedule": stop(1.0), "negative_schedule": stop(1.0)}
    assert torch.equal(run.sample(guide(**inputs, **never)), run.sample(guide(**inputs)))
