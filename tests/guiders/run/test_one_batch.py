"""A weak push that differs in its conditioning only shares one batch with the main run's own."""

import comfy.hooks
import comfy.samplers
import pytest
import torch

from support.rig import (
    Pushes,
    Run,
    add_weights,
    added_weights,
    close,
    core_guider,
    count_model_calls,
    record,
    weight_hook,
)
from support.small_models import conditionings, unet, video_model

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture(scope="module")
def other(node):
    """A prompt for the weak push."""
    return node("DigitConditioning", digit="8")


@pytest.fixture
def check(positive, negative, other, guide):
    """Guide away from another prompt, compare, and return the passes per step of the model."""

    def check(main, run=None, weak_positive=None, weak=None, **inputs):
        inputs = {"positive": positive, "negative": negative, **inputs}
        weak_positive = weak_positive or other
        run = run or Run.of(main)
        recorded, recording = record(main)
        guider = guide(
            model=recorded,
            weak_positive=weak_positive,
            **inputs,
            **({} if weak is None else {"weak_model": weak}),
        )
        with count_model_calls(main) as calls:
            run.sample(guider)
        Pushes(
            main,
            inputs["positive"],
            inputs["negative"],
            inputs.get("cfg", CFG) if inputs["negative"] else 1.0,
            main if weak is None else weak,
            WEAK_SCALE,
            weak_positive,
        ).assert_hold(run, recording)
        assert calls[0] % len(recording) == 0
        return calls[0] / len(recording)

    return check


@pytest.fixture
def perp_neg(node, positive, negative):
    """ComfyUI's own guider of three prompts."""
    return lambda model, empty: node(
        "PerpNegGuider",
        model=model,
        positive=positive,
        negative=negative,
        empty_conditioning=empty,
        cfg=CFG,
        neg_scale=1.0,
    )


def test_as_many_passes_as_core_with_one_more_prompt(check, main, perp_neg, other):
    """ComfyUI's own guider of three prompts is the measure."""
    run = Run.of(main)
    with count_model_calls(main) as core_calls:
        run.sample(perp_neg(main, other))
    assert check(main) == core_calls[0] / (len(run.sigmas) - 1) == 1


@pytest.mark.parametrize("inputs", [{"negative": None}, {"cfg": 1.0}])
def test_without_a_negative_pass(inputs, check, main):
    assert check(main, **inputs) == 1


def test_cfg_plus_plus(check, main):
    assert check(main, Run.of(main, sampler="euler_cfg_pp")) == 1


def test_main_model_with_weights_and_patches_of_its_own(check, main, node):
    """What was put on the model before the node is on the weak push, too."""
    stacked = node("ModelSamplingAuraFlow", model=add_weights(main), shift=3.0)
    stacked.set_model_patch(lambda q, k, v, *_: {"q": q, "k": k, "v": 0.9 * v}, "attn1_patch")
    assert check(stacked) == 1


def test_weak_model_with_the_weights_of_the_main_one(check, main):
    assert check(main, weak=add_weights(main, strength=0.0)) == 1


def test_weak_model_with_other_weights_has_its_own_pass(check, main):
    assert check(main, weak=add_weights(main)) == 2


def test_weak_model_with_another_patch_has_its_own_pass(check, main):
    weak = main.clone()
    weak.set_model_patch(lambda q, k, v, *_: {"q": q, "k": k, "v": 0.5 * v}, "attn1_patch")
    assert check(main, weak=weak) == 2


def test_areas_and_masks(check, main, node, positive, other):
    area = node(
        "ConditioningSetArea", conditioning=other, width=32, height=64, x=0, y=0, strength=1.0
    )
    mask = torch.zeros(1, 64, 64)
    mask[..., :40] = 1
    masked = node(
        "ConditioningSetMask",
        conditioning=positive,
        mask=mask,
        strength=0.7,
        set_cond_area="default",
    )
    rest = node("ConditioningCombine", conditioning_1=other, conditioning_2=masked)
    both = node("ConditioningCombine", conditioning_1=area, conditioning_2=rest)
    # The area has another size, so ComfyUI passes it on its own.
    assert check(main, weak_positive=both) == 2


def test_time_ranges(check, main, node, other):
    early = node("ConditioningSetTimestepRange", conditioning=other, start=0.0, end=0.5)
    late = node(
        "ConditioningSetTimestepRange",
        conditioning=node("DigitConditioning", digit="1"),
        start=0.5,
        end=1.0,
    )
    both = node("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    assert check(main, Run.of(main, steps=6), weak_positive=both) == 1


def test_prompts_of_other_lengths(check):
    """A U-Net, for which ComfyUI repeats the tokens of the shorter prompt."""
    main = unet(0)
    positive, negative = conditionings
    ((context, extra),) = negative
    longer = [[torch.cat([context, 0.5 * context], dim=1), extra]]
    run = Run.of(main, shape=(2, 4, 16, 16))
    prompts = {"positive": positive, "negative": negative, "weak_positive": longer}
    assert check(main, run, **prompts) == 1


def test_control_net_on_the_weak_prompt_only(check, main, controlled, other, negative):
    weak_positive, _ = controlled(other, negative)
    assert check(main, weak_positive=weak_positive) == 2


def test_control_net_on_all_prompts(check, main, controlled, positive, negative, other):
    """One control net object for all, as where one node has put it on all of them."""
    both, controlled_negative = controlled([*positive, *other], negative)
    one, two = ([prompt] for prompt in both)
    assert check(main, positive=one, negative=controlled_negative, weak_positive=two) == 1


@pytest.fixture
def hooked(main):
    """Put a LoRA on a prompt, by a hook."""

    def hooked(prompt):
        hooks = weight_hook(added_weights(add_weights(main, seed=8)), (0.5, 0.0))
        return comfy.hooks.set_hooks_for_conditioning(prompt, hooks)

    return hooked


def test_hooks_on_the_weak_prompt_give_it_its_own_pass(check, main, hooked, other):
    assert check(main, weak_positive=hooked(other)) == 2


def test_hooks_on_the_positive_prompt(check, main, hooked, positive):
    """ComfyUI passes prompts with hooks apart from those without."""
    assert check(main, positive=hooked(positive)) == 2


def test_context_windows(node, windowed):
    main, (positive, negative) = video_model(0), conditionings
    other = [[-positive[0][0], {}]]
    model = windowed(main)
    run = Run.of(main, shape=(1, 16, 9, 4, 4))
    with count_model_calls(main) as core_calls:
        run.sample(core_guider(model, positive, negative, CFG))
    recorded, recording = record(model)
    patched = node(
        "BadVersionPatch",
        model=recorded,
        weak_model=recorded,
        weak_positive=other,
        weak_scale=WEAK_SCALE,
    )
    with count_model_calls(main) as calls:
        run.sample(core_guider(patched, positive, negative, CFG))
    assert calls == core_calls
    pushes = Pushes(model, positive, negative, CFG, model, WEAK_SCALE, other)
    pushes.assert_hold(run, recording)


def test_two_such_pushes(main, positive, negative, other, node, patch):
    third = node("DigitConditioning", digit="1")
    run = Run.of(main)
    recorded, recording = record(main)
    twice = patch(patch(recorded, weak_positive=other), weak_positive=third, weak_scale=1.4)
    with count_model_calls(main) as calls:
        run.sample(core_guider(twice, positive, negative, CFG))
    assert calls == [len(recording)]
    prompts = (positive, other, third)
    C, R1, R2 = (run.replay(core_guider(main, prompt), recording) for prompt in prompts)
    core = run.replay(core_guider(main, positive, negative, CFG), recording)
    for c, r1, r2, base, guided in zip(C, R1, R2, core, recording.denoised, strict=True):
        assert close(guided, base + 0.7 * (c - r1) + 0.4 * (c - r2))


def test_guider_that_asks_for_its_predictions_in_its_own_way(
    main, node, patch, perp_neg, positive, other
):
    """Perp-Neg does not go by ComfyUI's batch function; the push then has its own pass."""
    third = node("DigitConditioning", digit="1")
    run = Run.of(main)
    recorded, recording = record(main)
    with count_model_calls(main) as calls:
        run.sample(perp_neg(patch(recorded, weak_positive=other), third))
    assert calls == [2 * len(recording)]
    core = run.replay(perp_neg(main, third), recording)
    C, R = (run.replay(core_guider(main, prompt), recording) for prompt in (positive, other))
    for c, r, base, guided in zip(C, R, core, recording.denoised, strict=True):
        assert close(guided, base + (WEAK_SCALE - 1) * (c - r))


def test_batch_function_of_another_pack(main, guide, positive, negative, other):
    """It may take a positive and a negative prompt for granted, so the push keeps out of it."""

    def batch(args):
        positive, negative = args["conds"]
        rest = args["input"], args["sigma"], args["model_options"]
        C, N = comfy.samplers.calc_cond_batch(args["model"], [positive, negative], *rest)
        return [0.9 * C, N]

    stacked = main.clone()
    stacked.set_model_sampler_calc_cond_batch_function(batch)
    run = Run.of(main)
    recorded, recording = record(stacked)
    inputs = {"positive": positive, "negative": negative, "weak_positive": other}
    with count_model_calls(main) as calls:
        run.sample(guide(model=recorded, **inputs))
    assert calls == [2 * len(recording)]
    core = run.replay(core_guider(stacked, positive, negative, CFG), recording)
    C, R = (run.replay(core_guider(main, prompt), recording) for prompt in (positive, other))
    for c, r, base, guided in zip(C, R, core, recording.denoised, strict=True):
        assert close(guided, base + (WEAK_SCALE - 1) * (0.9 * c - r))


def test_prompt_that_the_model_cannot_take(main, positive, negative, guide):
    run = Run.of(main)
    with pytest.raises(ValueError) as caught:
        run.sample(
            guide(model=main, positive=positive, negative=negative, weak_positive=conditionings[0])
        )
    assert str(caught.value).startswith("Bad-Version Guider, input 'weak_positive': got a ")
    assert "(1, 5, 24)" in str(caught.value)


def test_main_prompt_at_fault_stays_comfyuis_own_error(main, other, guide):
    broken = guide(model=main, positive=conditionings[0], weak_positive=other)
    with pytest.raises(RuntimeError) as ours:
        Run.of(main).sample(broken)
    with pytest.raises(RuntimeError) as core:
        Run.of(main).sample(core_guider(main, conditionings[0]))
    assert str(ours.value) == str(core.value)


def test_prediction_that_is_not_finite(main, positive, negative, other, guide):
    broken = [[other[0][0] * float("nan"), other[0][1]]]
    with pytest.raises(ValueError, match="NaN or infinity"):
        Run.of(main).sample(
            guide(model=main, positive=positive, negative=negative, weak_positive=broken)
        )


def test_prompt_that_changes_nothing(main, positive, negative, guide):
    with pytest.raises(ValueError, match="changes nothing: at every step"):
        Run.of(main).sample(
            guide(model=main, positive=positive, negative=negative, weak_positive=positive)
        )
