"""The negative push with a schedule and a shape of its own, whichever node and guider makes it.

``guided = C + (cfg − 1) · factor · shape(C − N) + (weak_scale − 1)(C − W)``, from predictions that
core guiders make by themselves.
"""

import pytest
import torch

from support.rig import (
    Run,
    add_weights,
    alone,
    along,
    at_most,
    batch_sizes,
    close,
    core_guider,
    each,
    of_sample,
    record,
)
from support.small_models import conditionings, unet, video_model

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture(params=["guider", "patch"])
def make(request, guide, patch, positive, negative):
    """The guider node, or ComfyUI's own guider with the patch node on its model."""

    def make(model, positive=positive, negative=negative, cfg=CFG, **inputs):
        if not {"weak_model", "weak_positive"} & inputs.keys():
            inputs["weak_scale"] = 1.0  # Or the patch node makes a weak model by itself.
        if request.param == "guider":
            return guide(model=model, positive=positive, negative=negative, cfg=cfg, **inputs)
        return core_guider(patch(model, **inputs), positive, negative, cfg)

    make.node = {"guider": "Bad-Version Guider", "patch": "Bad-Version Patch"}[request.param]
    return make


def only(run, *steps):
    """An interval with these steps of a run, as inputs of its node."""
    first, after = steps[0], steps[-1] + 1
    return {"unit": "sigma", "start": float(run.sigmas[first]), "end": float(run.sigmas[after])}


# Closed forms of one sample: what is added to C at a scale s.
# Of a latent's eight columns, those on the left.
LEFT = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0]], dtype=torch.float64)
SHAPES = {
    "BadVersionProjectedShape": (
        {"eta": 0.3, "norm_threshold": 4.0, "momentum": 0.0},
        lambda x, C, R, s: (s - 1) * apg(C - R, C, 0.3, 4.0),
    ),
    "BadVersionCapShape": (
        {"relative_to": "number", "limit": 3.0},
        lambda x, C, R, s: (s - 1) * at_most(C - R, 3.0),
    ),
    "BadVersionRescaleShape": (
        {"phi": 0.7},
        lambda x, C, R, s: rescaled(C + (s - 1) * (C - R), C, 0.7) - C,
    ),
    "BadVersionZeroStarShape": ({}, lambda x, C, R, s: (s - 1) * (C - zero_star(x, C, R))),
    "BadVersionFrequencyShape": (
        {"low": 0.4, "high": 0.4, "levels": 2},
        lambda x, C, R, s: 0.4 * (s - 1) * (C - R),
    ),
    "BadVersionRegionShape": (
        {"mask": LEFT.repeat_interleave(8, -1).float(), "feather": 0, "outside": 0.5},
        lambda x, C, R, s: (s - 1) * (0.5 + 0.5 * LEFT) * (C - R),
    ),
}


def apg(delta, C, eta, threshold):
    delta = at_most(delta, threshold)
    return delta - (1 - eta) * along(delta, C)


def rescaled(G, C, phi):
    return G * (phi * C.std() / G.std() + 1 - phi)


def zero_star(x, C, R):
    return x - along(x - C, x - R)


WEAK_PUSHES = ["another checkpoint", "same base", "prompt alone", "none"]


@pytest.fixture(params=WEAK_PUSHES)
def weak_push(request, main, weak, node):
    """Inputs for a weak push, with the model and the prompt that its reference comes from."""
    other = node("DigitConditioning", digit="8")
    lora = add_weights(main)
    return {
        "another checkpoint": ({"weak_model": weak}, weak, None),
        "same base": ({"weak_model": lora}, lora, None),
        "prompt alone": ({"weak_positive": other}, main, other),
        "none": ({}, None, None),
    }[request.param]


def test_schedule_has_the_closed_form(make, curve, weak_push, main, positive, negative):
    inputs, weak, weak_positive = weak_push
    run = Run.of(main, steps=5)
    factors = (0.5, 0.0, 1.5, 1.0, -0.4)
    recorded, recording = record(main)
    run.sample(make(recorded, negative_schedule=curve(run, *factors), **inputs))
    C, N = alone(run, recording, main, positive, negative)
    for c, n, factor, i in zip(C, N, factors, range(5), strict=True):
        expected = c + (CFG - 1) * factor * (c - n)
        if weak is not None:
            expected += (WEAK_SCALE - 1) * (
                c - alone(run, of_call(recording, i), weak, weak_positive or positive)[0][0]
            )
        assert close(recording.denoised[i], expected), f"model call {i} is off"


def of_call(recording, call):
    """One model call of a recording."""
    parts = (recording.x, recording.sigma, recording.denoised)
    return type(recording)(*(part[call : call + 1] for part in parts))


@pytest.mark.parametrize("name", SHAPES)
def test_shape_has_the_closed_form(name, make, curve, main, weak, positive, negative, node):
    """With a schedule, whose scale of the step a shape is to go by, and with a weak push."""
    settings, formula = SHAPES[name]
    run = Run.of(main)
    factors = (1.3, 0.6, 1.0)
    recorded, recording = record(main)
    push = {"negative_schedule": curve(run, *factors), "negative_shape": node(name, **settings)}
    run.sample(make(recorded, weak_model=weak, **push))
    C, N = alone(run, recording, main, positive, negative)
    (W,) = alone(run, recording, weak, positive)
    seen = False
    for i, (c, n, w, factor) in enumerate(zip(C, N, W, factors, strict=True)):
        push = each(formula, recording.x[i], c, n, 1 + (CFG - 1) * factor)
        plain = (CFG - 1) * factor * (c - n)
        seen = seen or bool((push - plain).norm() > 1e-2 * c.norm())
        expected = c + push + (WEAK_SCALE - 1) * (c - w)
        assert close(recording.denoised[i], expected), f"model call {i} is off"
    assert seen, "nothing would be missed without the shape"


def test_shapes_act_one_after_the_other(make, main, positive, negative, node):
    capped = node("BadVersionCapShape", relative_to="number", limit=3.0)
    chain = node(
        "BadVersionProjectedShape", eta=0.0, norm_threshold=0.0, momentum=0.0, shape=capped
    )
    turned = node(
        "BadVersionCapShape",
        relative_to="number",
        limit=3.0,
        shape=node("BadVersionProjectedShape", eta=0.0, norm_threshold=0.0, momentum=0.0),
    )
    run = Run.of(main)
    for shape, formula in (
        (chain, lambda C, N: apg(C - N, C, 0.0, 3.0)),
        (turned, lambda C, N: at_most((C - N) - along(C - N, C), 3.0)),
    ):
        recorded, recording = record(main)
        run.sample(make(recorded, negative_shape=shape))
        C, N = alone(run, recording, main, positive, negative)
        for c, n, guided in zip(C, N, recording.denoised, strict=True):
            assert close(guided, c + (CFG - 1) * each(formula, c, n))


def test_schedules_multiply(make, curve, main, positive, negative):
    run = Run.of(main)
    recorded, recording = record(main)
    chain = curve(run, 0.5, 2.0, 1.0, schedule=curve(run, 3.0, 0.4, 0.0))
    with batch_sizes(main) as sizes:
        run.sample(make(recorded, negative_schedule=chain))
    assert sizes == [4, 4, 2]
    C, N = alone(run, recording, main, positive, negative)
    for c, n, factor, guided in zip(C, N, (1.5, 0.8, 0.0), recording.denoised, strict=True):
        assert close(guided, c + (CFG - 1) * factor * (c - n))


def test_interval_in_percent(make, main, positive, negative, node):
    """ComfyUI's own conversion of a percentage says where the ends lie."""
    run = Run.of(main, steps=8)
    high, low = map(main.get_model_object("model_sampling").percent_to_sigma, (0.3, 0.8))
    on = [low < float(sigma) <= high for sigma in run.sigmas[:-1]]
    assert 1 < sum(on) < 7
    recorded, recording = record(main)
    interval = node("BadVersionGuidanceInterval", unit="percent", start=0.3, end=0.8)
    with batch_sizes(main) as sizes:
        run.sample(make(recorded, negative_schedule=interval))
    assert sizes == [4 if each else 2 for each in on]
    C, N = alone(run, recording, main, positive, negative)
    for c, n, is_on, guided in zip(C, N, on, recording.denoised, strict=True):
        assert close(guided, c + (CFG - 1) * (c - n) if is_on else c)


NO_CHANGE = {
    "schedule of 1": {"negative_schedule": ("BadVersionGuidanceCurve", {"points": "0: 1"})},
    "projected, all kept": (
        {
            "negative_shape": (
                "BadVersionProjectedShape",
                {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0},
            )
        }
    ),
    "cap out of reach": {
        "negative_shape": ("BadVersionCapShape", {"relative_to": "number", "limit": 999.0})
    },
    "rescale of 0": {"negative_shape": ("BadVersionRescaleShape", {"phi": 0.0})},
    "frequencies alike": {
        "negative_shape": ("BadVersionFrequencyShape", {"low": 1, "high": 1, "levels": 1})
    },
}
# What does not even touch the difference.
NO_BIT = {"schedule of 1", "projected, all kept"}
_CURVE = {"unit": "percent", "interpolation": "linear"}


@pytest.mark.parametrize("kind", NO_CHANGE)
def test_what_changes_nothing_gives_the_picture_of_core(kind, make, main, positive, negative, node):
    ((name, (node_id, settings)),) = NO_CHANGE[kind].items()
    chain = node(node_id, **settings, **(_CURVE if node_id == "BadVersionGuidanceCurve" else {}))
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, CFG))
    ours = run.sample(make(main, **{name: chain}))
    assert torch.equal(ours, core) if kind in NO_BIT else close(ours, core)


@pytest.fixture
def pushes(node, dynamic, negative):
    """Everything that can be connected for the negative push."""
    early = node("BadVersionGuidanceInterval", unit="percent", start=0.0, end=0.6)
    live = dynamic(prior=0.05, offset=0.1, schedule=early)
    shape = node("BadVersionProjectedShape", eta=0.0, norm_threshold=3.0, momentum=-0.5)
    shape = node("BadVersionPerpNegShape", empty=negative, weight=0.8, shape=shape)
    return {"negative_schedule": live, "negative_shape": shape}


def test_cfg_of_1_is_core_and_makes_no_negative_pass(make, main, positive, negative, pushes):
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, 1.0))
    with batch_sizes(main) as sizes:
        assert torch.equal(run.sample(make(main, cfg=1.0, **pushes)), core)
    assert sizes == [2, 2, 2]


def test_nothing_plugged_in_is_core(make, main, positive, negative, pushes):
    run = Run.of(main)
    core = run.sample(core_guider(main, positive, negative, CFG))
    assert torch.equal(run.sample(make(main)), core)
    assert not close(run.sample(make(main, **pushes)), core, 1e-3)


@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp"])
def test_outside_of_an_interval_is_no_negative_push(sampler, make, main, positive, node):
    """To samplers of the CFG++ kind this is the positive prediction once more."""
    run = Run.of(main, sampler=sampler)
    never = node("BadVersionGuidanceInterval", unit="sigma", start=9000.0, end=8000.0)
    with batch_sizes(main) as sizes:
        latent = run.sample(make(main, negative_schedule=never))
    assert sizes == [2, 2, 2]
    assert close(latent, run.sample(core_guider(main, positive, positive, CFG)))


@pytest.mark.parametrize(
    "sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "res_multistep_ancestral_cfg_pp"]
)
def test_cfg_pp_samplers(sampler, make, curve, main, positive, negative):
    """They are given the reference from which their scale leads to the push of the step."""
    run = Run.of(main, sampler=sampler)
    factors = (0.5, 0.0, 1.5)
    ours = run.sample(make(main, negative_schedule=curve(run, *factors)))
    by_hand = main.clone()
    left = iter(factors)

    def scaled(args):
        C, N = args["conds_out"]
        return [C, C - next(left) * (C - N)]

    by_hand.set_model_sampler_pre_cfg_function(scaled)
    assert close(ours, run.sample(core_guider(by_hand, positive, negative, CFG)))
    plain = run.sample(core_guider(main, positive, negative, CFG))
    assert not close(ours, plain, 1e-2)


STACKED = {
    "RescaleCFG": {"multiplier": 0.7},
    "CFGZeroStar": {},
    "SkipLayerGuidanceDiT": {
        "double_layers": "1",
        "single_layers": "",
        "scale": 2.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
    },
    "APG": {"eta": 0.5, "norm_threshold": 4.0, "momentum": 0.0},
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", STACKED)
def test_core_nodes_act_on_the_push_that_is_left(
    name, where, guide, curve, main, positive, negative, node
):
    """They are given a reference instead of N, from which cfg leads to the push of the step."""
    run = Run.of(main)
    factors = (0.5, 1.4, 0.8)
    push = {
        "negative_schedule": curve(run, *factors),
        "negative_shape": node("BadVersionCapShape", relative_to="number", limit=3.0),
    }
    recorded, recording = record(main)
    inputs = {"positive": positive, "negative": negative, **push}

    def stacked(model):
        return node(name, model=model, **STACKED[name])

    if where == "before":
        run.sample(guide(weak_scale=1.0, model=stacked(recorded), **inputs))
    else:
        guider = guide(weak_scale=1.0, model=recorded, **inputs)
        run.sample(core_guider(stacked(guider.model_patcher), positive, negative, CFG))

    by_hand = main.clone()
    left = iter(factors)

    def shaped(args):
        C, N = args["conds_out"]
        return [C, C - next(left) * each(lambda C, N: at_most(C - N, 3.0), C, N)]

    by_hand.set_model_sampler_pre_cfg_function(shaped)
    expected = run.replay(core_guider(stacked(by_hand), positive, negative, CFG), recording)
    for guided, wanted in zip(recording.denoised, expected, strict=True):
        assert close(guided, wanted)


@pytest.mark.parametrize("momentum", [0.0, -0.6])
def test_projected_is_cores_own_node(momentum, make, main, positive, negative, node):
    settings = {"eta": 0.2, "norm_threshold": 4.0, "momentum": momentum}
    run = Run.of(main, steps=5)
    # Core's node pushes by cfg where the paper, and all guidance else, pushes by cfg − 1.
    ours = run.sample(
        make(main, cfg=CFG + 1, negative_shape=node("BadVersionProjectedShape", **settings))
    )
    core = core_guider(node("APG", model=main, **settings), positive, negative, CFG)
    assert close(ours, run.sample(core))


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_perp_neg_is_cores_own_guider(weight, make, main, positive, negative, node):
    """For one picture at a time: core's takes all of a batch for one."""
    run = Run.of(main, shape=(1, 16, 8, 8))
    prompts = {"positive": positive, "negative": node("DigitConditioning", digit="8")}
    core = node(
        "PerpNegGuider",
        model=main,
        **prompts,
        empty_conditioning=negative,
        cfg=CFG,
        neg_scale=weight,
    )
    with batch_sizes(main) as of_core:
        expected = run.sample(core)
    shape = node("BadVersionPerpNegShape", empty=negative, weight=weight)
    with batch_sizes(main) as sizes:
        ours = run.sample(make(main, **prompts, negative_shape=shape))
    assert sizes == of_core == [3, 3, 3]
    assert close(ours, expected)


def test_perp_neg_of_a_batch_is_that_of_each_sample(make, main, positive, negative, node):
    run = Run.of(main)
    recorded, recording = record(main)
    eight = node("DigitConditioning", digit="8")
    shape = node("BadVersionPerpNegShape", empty=negative, weight=1.0)
    run.sample(make(recorded, negative=eight, negative_shape=shape))

    def perp_neg(C, N, U):
        P, Q = C - U, N - U
        return U + CFG * (P - (Q - along(Q, P)))

    C, N, U = alone(run, recording, main, positive, eight, negative)
    for c, n, u, guided in zip(C, N, U, recording.denoised, strict=True):
        assert close(guided, each(perp_neg, c, n, u))


@pytest.mark.parametrize("name", ["negative_schedule", "negative_shape"])
@pytest.mark.parametrize("core", ["DualCFGGuider, regular", "DualCFGGuider, nested", "PerpNeg"])
def test_guidance_that_is_not_plain_is_refused(
    core, name, patch, main, positive, negative, node, pushes
):
    patched = patch(main, weak_scale=1.0, **{name: pushes[name]})
    if core == "PerpNeg":
        guider = node(
            "PerpNegGuider",
            model=patched,
            positive=positive,
            negative=negative,
            empty_conditioning=negative,
            cfg=CFG,
            neg_scale=1.0,
        )
    else:
        guider = node(
            "DualCFGGuider",
            model=patched,
            cond1=positive,
            cond2=node("DigitConditioning", digit="8"),
            negative=negative,
            cfg_conds=CFG,
            cfg_cond2_negative=2.0,
            style=core.split()[-1],
        )
    run = Run.of(main)
    plain = core_guider(main, positive, negative, CFG)
    before = run.sample(plain)
    with pytest.raises(ValueError) as caught:
        run.sample(guider)
    text = str(caught.value)
    assert text.startswith(f"Bad-Version Patch, input '{name}': got something to act on")
    assert type(guider).__name__ in text and "Expected a sampler with one positive" in text
    assert torch.equal(run.sample(plain), before)


@pytest.mark.parametrize("kind", ["schedule", "shape"])
def test_without_a_negative_prompt_to_act_on_the_guider_refuses(
    kind, guide, main, weak, positive, pushes
):
    name = f"negative_{kind}"
    with pytest.raises(ValueError) as caught:
        guide(model=main, positive=positive, weak_model=weak, **{name: pushes[name]})
    text = str(caught.value)
    assert text.startswith(f"Bad-Version Guider, input '{name}': got a {kind}, but there is")
    assert "Expected something connected to 'negative'" in text


def test_mask_at_picture_size(make, curve, main, positive, negative):
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, :32] = 1
    run = Run.of(main).with_(latent=torch.randn(2, 16, 8, 8, generator=generator), mask=mask)
    recorded, recording = record(main)
    factors = (0.5, 0.0, 1.5)
    run.sample(make(recorded, negative_schedule=curve(run, *factors)))
    C, N = alone(run, recording, main, positive, negative)
    for c, n, factor, guided in zip(C, N, factors, recording.denoised, strict=True):
        assert close(guided, c + (CFG - 1) * factor * (c - n))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "uni_pc"])
@pytest.mark.parametrize("build, shape", [(unet, (2, 4, 16, 16)), (video_model, (1, 16, 3, 4, 6))])
def test_other_networks(sampler, build, shape, make, node):
    """An eps-prediction U-Net, and latents with frames."""
    main, (positive, negative) = build(0), conditionings
    run = Run.of(main, shape=shape, sampler=sampler)
    schedule = node("BadVersionGuidanceRamp", **RAMP)
    push = {"negative_schedule": schedule, "negative_shape": node("BadVersionZeroStarShape")}
    recorded, recording = record(main)
    run.sample(make(recorded, positive=positive, negative=negative, **push))
    sampling = main.get_model_object("model_sampling")
    C, N = alone(run, recording, main, positive, negative)
    for i, (c, n) in enumerate(zip(C, N, strict=True)):
        # Half way of sampling, the ramp has made half of its way.
        late = float(recording.sigma[i].max()) < float(sampling.percent_to_sigma(0.5))
        push = each(lambda x, C, N: C - zero_star(x, C, N), recording.x[i], c, n)
        factor = 1.6 if late else 0.4
        assert close(recording.denoised[i], c + (CFG - 1) * factor * push, 1e-4), i


# Two levels, with a way between them that is too short to meet a step.
RAMP = {
    "direction": "rising",
    "curve": "linear",
    "low": 0.4,
    "high": 1.6,
    "start": 0.4999,
    "end": 0.5001,
    "power": 1.0,
}


def test_each_sample_of_a_batch_is_shaped_by_itself(make, main, node):
    run = Run.of(main)
    shape = node("BadVersionProjectedShape", eta=0.0, norm_threshold=2.0, momentum=-0.5)
    recorded, recording = record(main)
    run.sample(make(recorded, negative_shape=shape))
    one = run.with_(latent=run.latent[:1])
    for sample in (0, 1):
        rows = of_sample(recording, sample)
        for guided, wanted in zip(
            one.replay(make(main, negative_shape=shape), rows), rows.denoised, strict=True
        ):
            assert close(guided, wanted)


def test_area_of_the_negative_prompt(make, curve, main, positive, negative, node):
    """ComfyUI passes it apart, and so it is left out apart."""
    area = node(
        "ConditioningSetArea", conditioning=negative, width=32, height=64, x=0, y=0, strength=1.0
    )
    both = node(
        "ConditioningCombine",
        conditioning_1=area,
        conditioning_2=node("DigitConditioning", digit="8"),
    )
    run = Run.of(main)
    recorded, recording = record(main)
    with batch_sizes(main) as sizes:
        run.sample(make(recorded, negative=both, negative_schedule=curve(run, 0.5, 0.0, 1.5)))
    # ComfyUI sees to it that the positive prompt has such an area, too.
    assert sizes == [4, 4, 2, 2, 4, 4]
    C, pushed = (run.replay(core_guider(main, positive, both, cfg), recording) for cfg in (1, 2))
    for c, once, factor, guided in zip(C, pushed, (0.5, 0.0, 1.5), recording.denoised, strict=True):
        assert close(guided, c + (CFG - 1) * factor * (once - c))


def test_two_patches_on_one_model(patch, curve, main, positive, negative, node):
    """The factors of both multiply, and where either is off no negative pass is made."""
    run = Run.of(main)
    first, second = curve(run, 0.5, 2.0, 0.0), curve(run, 3.0, 0.0, 0.7)
    recorded, recording = record(main)
    once = patch(recorded, weak_scale=1.0, negative_schedule=first)
    twice = patch(once, weak_scale=1.0, negative_schedule=second)
    with batch_sizes(main) as sizes:
        run.sample(core_guider(twice, positive, negative, CFG))
    assert sizes == [4, 2, 2]
    C, N = alone(run, recording, main, positive, negative)
    for c, n, factor, guided in zip(C, N, (1.5, 0.0, 0.0), recording.denoised, strict=True):
        assert close(guided, c + (CFG - 1) * factor * (c - n))


@pytest.mark.parametrize("order", ["interval first", "interval last"])
def test_two_patches_where_the_one_is_off_and_the_other_compares(
    order, patch, main, weak, positive, negative, node
):
    """A weak push that compares with a negative one which another patch has switched off."""
    run = Run.of(main)
    off_first = {"negative_schedule": node("BadVersionGuidanceInterval", **only(run, 1, 2))}
    compares = {
        "weak_model": weak,
        "weak_scale": WEAK_SCALE,
        "weak_shape": node("BadVersionRejectShape", keep="different"),
    }
    recorded, recording = record(main)
    patches = [{"weak_scale": 1.0, **off_first}, compares]
    model = recorded
    for inputs in patches if order == "interval first" else reversed(patches):
        model = patch(model, **inputs)
    run.sample(core_guider(model, positive, negative, CFG))
    (C,), (W,) = (alone(run, of_call(recording, 0), each, positive) for each in (main, weak))
    assert close(recording.denoised[0], C[0] + (WEAK_SCALE - 1) * (C[0] - W[0]))


@pytest.mark.parametrize("order", ["interval first", "interval last"])
@pytest.mark.parametrize("what", ["interval", "Perp-Neg"])
def test_patch_beside_one_whose_weak_prompt_is_in_the_batch(
    what, order, patch, main, positive, negative, node
):
    """It costs no more than one patch with the inputs of both."""
    run = Run.of(main, shape=(1, 16, 8, 8))
    one, eight = (node("DigitConditioning", digit=digit) for digit in "18")
    push = {
        "interval": {"negative_schedule": node("BadVersionGuidanceInterval", **only(run, 1, 2))},
        "Perp-Neg": {"negative_shape": node("BadVersionPerpNegShape", empty=one, weight=1.0)},
    }[what]
    prompt = {"weak_positive": eight, "weak_scale": WEAK_SCALE}
    with batch_sizes(main) as of_one:
        both = patch(main, **prompt, **push)
        expected = run.sample(core_guider(both, positive, negative, CFG))
    patches = [{"weak_scale": 1.0, **push}, prompt]
    model = main
    for inputs in patches if order == "interval first" else reversed(patches):
        model = patch(model, **inputs)
    with batch_sizes(main) as sizes:
        latent = run.sample(core_guider(model, positive, negative, CFG))
    assert close(latent, expected)
    assert sizes == of_one


@pytest.mark.parametrize("order", ["interval first", "interval last"])
def test_patch_that_remembers_beside_one_that_is_off_at_first(
    order, patch, main, positive, negative, node
):
    """Where no negative pass is made there is nothing to remember, as in one chain of both."""
    run = Run.of(main, steps=4)
    interval = node("BadVersionGuidanceInterval", **only(run, 1, 3))
    shape = node("BadVersionProjectedShape", eta=0.0, norm_threshold=3.0, momentum=-0.5)
    one = patch(main, weak_scale=1.0, negative_schedule=interval, negative_shape=shape)
    expected = run.sample(core_guider(one, positive, negative, CFG))
    patches = [{"negative_schedule": interval}, {"negative_shape": shape}]
    model = main
    for inputs in patches if order == "interval first" else reversed(patches):
        model = patch(model, weak_scale=1.0, **inputs)
    assert close(run.sample(core_guider(model, positive, negative, CFG)), expected)
