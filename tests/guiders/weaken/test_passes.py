"""Worse passes of one network, on every architecture: they act, they stack, they leave no trace.

What each method does by itself is in the tests of its own file.
"""

import logging

import pytest
import torch

from support.rig import (
    Pushes,
    Recording,
    Run,
    add_weights,
    assert_as_alone,
    call,
    core_guider,
    record,
)
from support.small_models import BY_NAME, Architecture, conditionings, flux, sd3, sdxl, video_unet
from support.weakening import (
    NODES,
    POSSIBLE,
    RANDOM,
    can_weaken,
    distance,
    each,
    each_kind,
    one_step,
    predict,
    traces,
)

# It acts


@pytest.mark.parametrize("blocks", ["auto", "all"])
@each(POSSIBLE)
def test_prediction_changes(kind, blocks, architecture, model, weaken):
    plain = predict(architecture, model)
    weak = predict(architecture, weaken(kind, model, blocks))
    assert weak.isfinite().all()
    assert distance(weak, plain) > 1e-3


@each([(a, kind) for a, kind in POSSIBLE if kind not in ("skip", "half identity")])
def test_strength_says_how_much(kind, architecture, model, weaken):
    name = "rate" if kind == "dropout" else "strength"
    plain = predict(architecture, model)
    little, much = (
        distance(predict(architecture, weaken(kind, model, "all", **{name: value})), plain)
        for value in (0.01, 0.9)
    )
    # The least of a blur or a window is nothing at all in pictures this small.
    assert little < 0.8 * much


def test_ksampler_takes_a_weak_version_by_itself(weaken, comfy_nodes):
    for architecture in (BY_NAME["sd15"], BY_NAME["sd3"]):
        model = architecture.build(0)

        def sample(model, architecture=architecture):
            (latent,) = call(
                comfy_nodes["KSampler"],
                model=model,
                seed=5,
                steps=3,
                cfg=3.0,
                sampler_name="dpmpp_2m",
                scheduler="simple",
                positive=architecture.conditioning(1),
                negative=architecture.conditioning(2),
                latent_image={"samples": torch.zeros(architecture.latent)},
            )
            return latent["samples"]

        plain = sample(model)
        for kind in NODES:
            if can_weaken(kind, architecture):
                weak = sample(weaken(kind, model, "all"))
                assert weak.isfinite().all() and distance(weak, plain) > 1e-3
        assert torch.equal(sample(model), plain)


# Nothing is left behind


@each(POSSIBLE)
def test_nothing_is_left_after_a_pass(kind, architecture, model, weaken):
    before = traces(model)
    assert before[0] == {}
    options = str(model.model_options)
    plain = predict(architecture, model)
    for blocks in ("auto", "all"):
        predict(architecture, weaken(kind, model, blocks))
    assert traces(model) == before
    assert str(model.model_options) == options
    assert torch.equal(predict(architecture, model), plain)


@pytest.mark.parametrize("at_call", [1, 3])
@each(POSSIBLE)
def test_nothing_is_left_after_an_exception_within_a_pass(
    at_call, kind, architecture, model, weaken, monkeypatch
):
    before = traces(model)
    plain = predict(architecture, model)
    weak = weaken(kind, model, "all")
    calls = 0
    inner = type(model.model.diffusion_model).forward

    # The last thing that any network does is to leave its forward.
    def failing(self, *args, **kwargs):
        nonlocal calls
        out = inner(self, *args, **kwargs)
        calls += 1
        if calls == at_call:
            raise ZeroDivisionError("out of luck")
        return out

    run = Run.of(model, shape=architecture.latent, steps=3)
    with monkeypatch.context() as patched:
        patched.setattr(type(model.model.diffusion_model), "forward", failing)
        with pytest.raises(ZeroDivisionError):
            run.sample(core_guider(weak, architecture.conditioning(1)))
    assert calls == at_call
    assert traces(model) == before
    assert torch.equal(predict(architecture, model), plain)
    expected = predict(architecture, weaken(kind, model, "all"))
    assert torch.equal(predict(architecture, weak), expected)


# Where it fails, and what comes before that.
FAILING = [
    ("sdxl", "middle_block.0.in_layers.2", "input 3"),
    ("flux", "double_blocks.1.img_mlp.0", "double 0"),
    ("lumina", "layers.1.feed_forward.w1", "0"),
]


@pytest.mark.parametrize(("name", "path", "before"), FAILING, ids=[name for name, *_ in FAILING])
def test_nothing_is_left_after_an_exception_within_a_block(name, path, before, weaken):
    """As when memory runs out, or an artist's other patch fails."""
    architecture = BY_NAME[name]
    model = architecture.build(0)
    failing = model.model.diffusion_model.get_submodule(path)
    failing.register_forward_pre_hook(lambda *_: 1 / 0)
    found = traces(model)
    for kind in NODES:
        if can_weaken(kind, architecture):
            weak = weaken(kind, model, before if kind == "skip" else "all")
            with pytest.raises(ZeroDivisionError):
                predict(architecture, weak)
            assert traces(model) == found


def test_forward_that_someone_else_has_put_there_stays(weaken):
    """Other packs replace the forward of modules, too."""
    for kind, path in (("skip", "joint_blocks.1"), ("tokens", "joint_blocks.1")):
        model = sd3(0)
        module = model.model.diffusion_model.get_submodule(path)
        calls = []
        original = module.forward

        def theirs(*args, original=original, calls=calls, **kwargs):
            calls.append(1)
            return original(*args, **kwargs)

        module.forward = theirs
        plain = predict(BY_NAME["sd3"], model)
        assert distance(predict(BY_NAME["sd3"], weaken(kind, model, "1")), plain) > 1e-3
        assert module.forward is theirs
        assert len(calls) == (1 if kind == "skip" else 2)
        assert torch.equal(predict(BY_NAME["sd3"], model), plain)


# They stack


PAIRS = [
    ("sd15", "identity", "middle", "tokens", "input 3"),
    ("sd15", "identity", "middle", "tokens", "middle"),
    ("sd15", "half identity", "middle", "blur", "middle"),
    ("sd15", "window", "input 1", "dropout", "all"),
    ("sd15", "skip", "middle", "identity", "output 0"),
    ("sdxl", "skip", "middle.1", "identity", "middle"),
    ("sdxl", "blur", "all", "tokens", "all"),
    ("sd3", "skip", "1", "tokens", "2"),
    ("sd3", "tokens", "1", "dropout", "1"),
    ("sd3", "half identity", "1", "blur", "1"),
    ("sd3", "identity", "1", "tokens", "1"),
    ("flux", "skip", "double 1", "tokens", "single 0"),
    ("flux", "half identity", "all", "blur", "all"),
    ("flux", "window", "double 1", "skip", "single 1"),
    ("lumina", "skip", "1", "tokens", "2"),
    ("lumina", "identity", "2", "tokens", "2"),
    ("wan", "blur", "1", "dropout", "1"),
    ("pixart", "skip", "1", "tokens", "2"),
]


@pytest.mark.parametrize(
    ("name", "a", "a_blocks", "b", "b_blocks"),
    [p for p in PAIRS if all(can_weaken(kind, BY_NAME[p[0]]) for kind in (p[1], p[3]))],
)
def test_two_nodes_both_act(name, a, a_blocks, b, b_blocks, weaken):
    architecture = BY_NAME[name]
    model = architecture.build(0)
    before = traces(model)
    weak_a, weak_b = weaken(a, model, a_blocks), weaken(b, model, b_blocks)
    alone = [predict(architecture, weak) for weak in (weak_a, weak_b)]
    for both in (weaken(b, weak_a, b_blocks), weaken(a, weak_b, a_blocks)):
        together = predict(architecture, both)
        assert together.isfinite().all()
        for one in alone:
            assert distance(together, one) > 1e-4
    for weak, one in zip((weak_a, weak_b), alone, strict=True):
        assert torch.equal(predict(architecture, weak), one), "it was changed by the other"
    assert traces(model) == before


def test_nothing_can_be_weakened_in_a_block_that_another_node_skips(weaken, error):
    architecture, model = BY_NAME["sd3"], sd3(0)
    with pytest.raises(
        error, match=r"Weaken Tokens, input 'blocks': got joint 1, on which .* skips"
    ):
        predict(architecture, weaken("skip", weaken("tokens", model, "1"), "1"))
    # With more blocks than that one it is only said, not refused.
    predict(architecture, weaken("skip", weaken("tokens", model, "1-2"), "1"))


def test_blocks_without_effect_are_logged_once(weaken, caplog):
    architecture, model = BY_NAME["sd3"], sd3(0)
    weak = weaken("skip", weaken("tokens", model, "1-2"), "1")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            predict(architecture, weak)
    (text,) = [r.getMessage() for r in caplog.records if "no effect" in r.getMessage()]
    assert text.startswith("Weaken Tokens: no effect on joint 1 of this model")


@pytest.mark.parametrize("name", ["sd15", "sd3", "flux", "wan"])
def test_on_top_of_other_weights(name, weaken, guide):
    """Either way round, and as the weak version of the model without either."""
    architecture = BY_NAME[name]
    model = architecture.build(0)
    before = traces(model)
    weak = weaken("skip", add_weights(model))
    expected = predict(architecture, weak)
    assert torch.equal(predict(architecture, add_weights(weaken("skip", model))), expected)
    for other in (add_weights(model), weaken("skip", model)):
        assert distance(predict(architecture, other), expected) > 1e-3

    positive = architecture.conditioning(1)
    run = Run.of(model, shape=architecture.latent)
    recorded, recording = record(model)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_scale=1.7))
    Pushes(model, positive, weak=weak, weak_scale=1.7).assert_hold(run, recording)
    run.sample(core_guider(model, positive))
    assert traces(model) == before


# The same seed, the same image


@each(POSSIBLE)
def test_same_seed_gives_the_same_bits(kind, architecture, model, weaken):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)

    def sample(model, **changed):
        return run.sample(core_guider(weaken(kind, model, **changed), positive))

    expected = sample(model)
    assert torch.equal(sample(model), expected)
    assert torch.equal(sample(architecture.build(0)), expected)
    if kind in RANDOM:
        assert distance(sample(model, seed=4), expected) > 1e-3


@pytest.mark.parametrize("kind", ["tokens", "dropout"])
def test_each_step_and_block_has_random_numbers_of_its_own(kind, weaken, monkeypatch, pack):
    seeds = []
    name = {"tokens": "shuffled_order", "dropout": "drop_activations"}[kind]
    function = getattr(pack.guiders.weaken.perturbations, name)

    def noted(*args):
        seeds.append(args[-1].initial_seed())
        return function(*args)

    monkeypatch.setattr(pack.guiders.weaken.perturbations, name, noted)
    for architecture in (BY_NAME["sdxl"], BY_NAME["flux"]):
        model = architecture.build(0)
        seeds.clear()
        run = Run.of(model, shape=architecture.latent, steps=3)
        run.sample(core_guider(weaken(kind, model, "all"), architecture.conditioning(1)))
        assert len(set(seeds)) == len(seeds) > 3 * 6


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s_ancestral"])
@each_kind
def test_samplers_that_ask_several_times_per_step(sampler, kind, weaken, guide):
    for architecture in (BY_NAME["sd15"], BY_NAME["sd3"]):
        if not can_weaken(kind, architecture):
            continue
        model = architecture.build(0)
        run = Run.of(model, shape=architecture.latent, steps=2, sampler=sampler)
        guider = guide(
            model=model,
            positive=architecture.conditioning(1),
            weak_model=weaken(kind, model),
        )
        latent = run.sample(guider)
        assert latent.isfinite().all()
        assert torch.equal(run.sample(guider), latent)


# PixArt lines up the prompts of a batch in one sequence, so that a larger one drops other words.
@each([(a, kind) for a, kind in POSSIBLE if (a.name, kind) != ("pixart", "dropout")])
def test_batch_is_its_pictures_one_by_one(kind, architecture, model, weaken):
    weak = weaken(kind, model, "all")
    run = one_step(architecture, model)
    recorded, recording = record(weak)
    run.sample(core_guider(recorded, architecture.conditioning(1)))
    assert_as_alone(run, core_guider(weak, architecture.conditioning(1)), recording)


# Together with the rest of ComfyUI


def test_another_nodes_replaced_block_still_acts(weaken):
    """What stands in the patch point already is called in the block's place."""

    def doubled(args, extra):
        out = extra["original_block"](args)
        return {**out, "img": 1.5 * out["img"]}

    architecture, model = BY_NAME["sd3"], sd3(0)
    patched = model.clone()
    patched.set_model_patch_replace(doubled, "dit", "double_block", 1)
    assert distance(predict(architecture, patched), predict(architecture, model)) > 1e-3
    alone = predict(architecture, weaken("tokens", model, "1"))
    weak = weaken("tokens", patched, "1")
    assert distance(predict(architecture, weak), alone) > 1e-3

    # And what stands there in one pass is gone in the next one.
    run = Run.of(model, shape=architecture.latent)
    recorded, recording = record(weak)
    run.sample(core_guider(recorded, conditionings[0]))
    last = Recording(recording.x[-1:], recording.sigma[-1:])
    assert torch.equal(
        run.replay(core_guider(weak, conditionings[0]), last)[0], recording.denoised[-1]
    )


def test_areas(weaken, node, guide):
    """Each area is a smaller picture, with places of its own."""
    model = sd3(0)
    left = node(
        "ConditioningSetArea",
        conditioning=conditionings[0],
        width=32,
        height=64,
        x=0,
        y=0,
        strength=1.0,
    )
    both = node("ConditioningCombine", conditioning_1=left, conditioning_2=conditionings[1])
    for kind in NODES:
        if not can_weaken(kind, BY_NAME["sd3"]):
            continue
        run = Run.of(model, shape=(1, 16, 8, 12))
        recorded, recording = record(model)
        weak = weaken(kind, model, "all")
        run.sample(guide(model=recorded, positive=both, weak_model=weak, weak_scale=1.7))
        Pushes(model, both, weak=weak, weak_scale=1.7).assert_hold(run, recording)


def test_latent_of_odd_size(weaken):
    """Networks fill up the last patch."""
    for name in ("sd3", "flux", "lumina", "qwen_image"):
        architecture = BY_NAME[name]
        model = architecture.build(0)
        shape = (*architecture.latent[:-2], 7, 9)
        run = one_step(architecture, model).with_(latent=torch.ones(shape))
        for kind in NODES:
            if can_weaken(kind, architecture):
                assert predict(architecture, weaken(kind, model, "all"), run).isfinite().all()


# Networks of no common make


@pytest.mark.parametrize("depth", [-1, -2], ids=["no attention in the middle", "no middle"])
@each_kind
def test_distilled_unet(depth, kind, weaken, error):
    """SSD-1B and KOALA: what is chosen automatically is there nevertheless."""
    architecture, model = BY_NAME["sdxl"], sdxl(0, middle_depth=depth)
    weak = predict(architecture, weaken(kind, model))
    assert weak.isfinite().all() and distance(weak, predict(architecture, model)) > 1e-3
    if NODES[kind][0] == "BadVersionWeakenAttention":
        with pytest.raises(error, match="input 3, input 5, output 0-3"):
            weaken(kind, model, "middle")


@each_kind
def test_video_unet(kind, weaken):
    """Its transformers over time share their patch points with those over the picture."""
    model = video_unet(0)
    architecture = Architecture("svd", video_unet, (5, 4, 8, 12), ())
    before = traces(model)
    plain = predict(architecture, model)
    for blocks in ("auto", "all", "middle.0"):
        weak = predict(architecture, weaken(kind, model, blocks))
        assert weak.isfinite().all() and distance(weak, plain) > 1e-3
    assert traces(model) == before


@each_kind
def test_blocks_that_are_mere_lists(kind, weaken, error):
    """As in Stable Cascade: nothing can stand in for a list, whose parts are called one by one."""
    model = sd3(0).clone()
    network = torch.nn.Module()
    parts = [torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]) for _ in range(2)]
    network.down_blocks = torch.nn.ModuleList(parts)
    model.add_object_patch("diffusion_model", network)
    if kind == "dropout":
        weaken(kind, model)
        return
    says_so = r"got .* this model \(\w+\) has none|got SD3, none of whose parts|newer ComfyUI"
    for blocks in ("auto", "all", "down 1"):
        with pytest.raises(error, match=says_so):
            weaken(kind, model, blocks)


@each_kind
def test_network_without_blocks(kind, weaken, error):
    """Nothing can be said about its insides, which is said."""
    model = sd3(0)
    bare = model.clone()
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    bare.add_object_patch("diffusion_model", network)
    if kind == "dropout":
        weaken(kind, bare)
        return
    with pytest.raises(error, match=r"input '(blocks|model)': got "):
        weaken(kind, bare)


@pytest.fixture
def no_patch_points(monkeypatch, pack):
    """As if no network ever looked for a replaced block."""
    replace = pack.guiders.weaken.passes.Pass.replace
    monkeypatch.setattr(
        pack.guiders.weaken.passes.Pass,
        "replace",
        lambda self, kind, key, patch: replace(self, "nowhere", key, patch),
    )


@pytest.mark.parametrize("kind", ["skip", "tokens"])
@pytest.mark.parametrize(("name", "blocks"), [("flux", "single 1, 3"), ("wan", "0-1")])
def test_blocks_of_one_stream_need_no_patch_point(name, blocks, kind, weaken, models, request):
    """Those of Flux work in place, which one look at them ahead must not change."""
    architecture = BY_NAME[name]
    model = models(architecture)
    weak = weaken(kind, model, blocks)
    expected = predict(architecture, weak)
    request.getfixturevalue("no_patch_points")
    for again in (weak, weaken(kind, model, blocks)):
        assert torch.equal(predict(architecture, again), expected)


@pytest.mark.parametrize("kind", ["skip", "tokens"])
def test_blocks_of_several_streams_need_a_patch_point(kind, weaken, error, no_patch_points):
    """As in HiDream: what goes through its blocks cannot be told apart, and this is said."""
    architecture, model = BY_NAME["flux"], flux(0)
    before = traces(model)
    with pytest.raises(error, match=r"input 'blocks': got double 1, which .* more than one"):
        predict(architecture, weaken(kind, model, "double 1"))
    assert traces(model) == before
