"""Skipped blocks: what goes in comes out."""

import importlib

import pytest
import torch

from support.rig import Pushes, Run, close, core_guider, record
from support.small_models import BY_NAME, sdxl
from support.weakening import TRANSFORMERS, distance, one_step, predict, steps_of


def forgotten_blocks(model, paths):
    """Let blocks of a transformer hand on what they are given; returns what undoes it."""
    handles = []
    for path in paths:
        given = []

        def before(module, args, kwargs, given=given):
            # Copies, since blocks work in place.
            given[:] = [a.clone() for a in (*args, *kwargs.values()) if torch.is_tensor(a)]

        def after(module, args, kwargs, out, given=given):
            def input_like(x):
                return next(a for a in given if torch.is_tensor(x) and a.shape == x.shape)

            if torch.is_tensor(out):
                return input_like(out)
            return tuple(x if x is None else input_like(x) for x in out)

        module = model.model.diffusion_model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    return handles


@pytest.mark.parametrize("architecture", TRANSFORMERS, ids=lambda a: a.name)
def test_skipped_blocks_hand_on_what_they_are_given(architecture, model, weaken):
    for paths, blocks in (
        ([f"{architecture.blocks[0]}.1"], "1"),
        (
            [f"{architecture.blocks[0]}.1", f"{architecture.blocks[-1]}.2"],
            "1, single 2" if len(architecture.blocks) == 2 else "1-2",
        ),
    ):
        handles = forgotten_blocks(model, paths)
        try:
            expected = predict(architecture, model)
        finally:
            for handle in handles:
                handle.remove()
        assert torch.equal(predict(architecture, weaken("skip", model, blocks)), expected)


def test_skipped_block_of_a_unet_has_no_branches(weaken):
    """The same as with zeros for the last weights of each branch."""
    for name, blocks, branches in (
        ("sd15", "middle", ["middle_block.0.out_layers.3", "middle_block.1.proj_out"]),
        ("sd15", "input 1", ["input_blocks.1.0.out_layers.3", "input_blocks.1.1.proj_out"]),
        # With another number of channels at its end than at its start, and an upsampling.
        ("sdxl", "output 1", ["output_blocks.1.0.out_layers.3", "output_blocks.1.1.proj_out"]),
    ):
        architecture = BY_NAME[name]
        model = architecture.build(0)
        if name == "sd15" and blocks == "middle":
            branches = [*branches, "middle_block.2.out_layers.3"]
        weak = predict(architecture, weaken("skip", model, blocks))
        for branch in branches:
            for parameter in model.model.diffusion_model.get_submodule(branch).parameters():
                parameter.zero_()
        assert torch.equal(predict(architecture, model), weak)


def test_skipped_transformer_inside_a_block_of_a_unet(weaken):
    architecture, model = BY_NAME["sdxl"], sdxl(0)
    weak = predict(architecture, weaken("skip", model, "middle.1"))
    del model.model.diffusion_model.middle_block[1].transformer_blocks[1]
    assert torch.equal(predict(architecture, model), weak)


@pytest.mark.parametrize(
    ("name", "double", "single"),
    [
        ("sd3", "1", ""),
        ("sd35", "1, 2", ""),
        ("flux", "1", "2"),
        ("flux", "", "0, 3"),
        ("wan", "1", ""),
        ("qwen_image", "1, 3", ""),
        ("hunyuan_video", "0", "1"),
        ("aura_flow", "2", "1"),
    ],
)
def test_skipping_is_cores_skip_layer_guidance(name, double, single, weaken, node, patch):
    architecture = BY_NAME[name]
    model = architecture.build(0)
    run = Run.of(model, shape=architecture.latent, steps=4)
    positive, negative = architecture.conditioning(1), architecture.conditioning(2)
    blocks = ", ".join(f"{k} {v}" for k, v in (("double", double), ("single", single)) if v)
    weak = weaken("skip", model, blocks)
    core = node(
        "SkipLayerGuidanceDiT",
        model=model,
        double_layers=double,
        single_layers=single,
        scale=1.5,
        start_percent=0.0,
        end_percent=1.0,
        rescaling_scale=0.0,
    )
    sampled = [
        run.sample(core_guider(m, positive, negative, 3.0))
        for m in (patch(model, weak_model=weak, weak_scale=2.5), core, model)
    ]
    assert close(sampled[0], sampled[1])
    assert distance(sampled[0], sampled[2]) > 1e-3


def test_control_net_on_skipped_blocks(main, positive, negative, weaken, controlled, guide):
    with_net, _ = controlled(positive, negative)
    weak = weaken("skip", main, "0-1")
    run = Run.of(main)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=with_net, weak_model=weak, weak_scale=1.7))
    Pushes(main, with_net, weak=weak, weak_scale=1.7).assert_hold(run, recording)
    steered, plain = (run.replay(core_guider(weak, c), recording) for c in (with_net, positive))
    assert distance(steered[0], plain[0]) > 1e-4


@pytest.fixture(scope="module")
def skipping(pack):
    return importlib.import_module(".guiders.weaken.skipping", pack.__name__)


@pytest.fixture
def drawn(pack, skipping, monkeypatch):
    """The blocks of each draw, as an artist names them, and the noise level it was for."""
    draws = []
    draw = skipping.drawn_blocks

    def drawn_blocks(pool, share, seed, sigma):
        blocks = draw(pool, share, seed, sigma)
        draws.append((sigma, sorted(map(str, blocks))))
        return blocks

    monkeypatch.setattr(skipping, "drawn_blocks", drawn_blocks)
    return draws


# Not all of them are in every release.
DRAWN = ("sd15", "sdxl", "sd3", "flux", "wan", "lumina", "z_image", "hunyuan_video")


@pytest.mark.parametrize("name", [name for name in DRAWN if name in BY_NAME])
def test_drawn_blocks_are_skipped_as_if_they_were_named(name, weaken, drawn):
    architecture = BY_NAME[name]
    model = architecture.build(0)
    weak = predict(architecture, weaken("skip", model, "all", draw=0.4, seed=1))
    ((_, blocks),) = drawn
    named = predict(architecture, weaken("skip", model, ", ".join(blocks)))
    assert torch.equal(weak, named)
    assert distance(weak, predict(architecture, model)) > 1e-4


def test_all_blocks_are_drawn_where_nothing_is_said(weaken):
    architecture = BY_NAME["sd3"]
    model = architecture.build(0)
    plain, one = (
        predict(architecture, weaken("skip", model, "0-1", **rest)) for rest in ({}, {"draw": 1.0})
    )
    assert torch.equal(plain, one)


def test_each_step_has_a_draw_of_its_own(weaken, drawn):
    """Which depends on the seed and on the noise level alone."""
    architecture = BY_NAME["flux"]
    model = architecture.build(0)

    def draws(seed):
        drawn.clear()
        weak = weaken("skip", model, "all", draw=0.3, seed=seed)
        steps_of(architecture, weak, steps=8).sample(
            core_guider(weak, architecture.conditioning(1))
        )
        return list(drawn)

    one, again, other = draws(1), draws(1), draws(2)
    assert one == again
    assert [sigma for sigma, _ in one] == [sigma for sigma, _ in other]
    assert one != other
    assert len({tuple(blocks) for _, blocks in one}) > 2


def test_each_image_of_a_batch_has_the_blocks_that_it_has_alone(weaken):
    architecture = BY_NAME["sd3"]
    model = weaken("skip", architecture.build(0), "all", draw=0.4, seed=1)
    run = one_step(architecture, model)
    one = predict(architecture, model, run)
    two = predict(architecture, model, run.with_(latent=run.latent.repeat(2, 1, 1, 1)))
    assert close(two[: len(one)], one)


@pytest.mark.parametrize("architecture", TRANSFORMERS, ids=lambda a: a.name)
def test_the_first_block_of_a_transformer_is_never_drawn(architecture, model, pack, skipping):
    network = pack.guiders.weaken.network.Network.of(model)
    first = skipping.first_block(network)
    assert network.has_image(first) or first == network.blocks[0]
    assert not any(
        network.has_image(block) for block in network.blocks[: network.blocks.index(first)]
    )


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("sd15", "input 1"),
        ("sdxl", "input 1"),
        ("sd3", "joint 0"),
        ("flux", "double 0"),
        ("lumina", "noise_refiner 0"),
        ("wan", "block 0"),
    ],
)
def test_the_first_block_is_left_out_of_the_draw(name, first, error, weaken, drawn):
    architecture = BY_NAME[name]
    model = architecture.build(0)
    weak = weaken("skip", model, "all", draw=0.99)
    predict(architecture, weak)
    ((_, blocks),) = drawn
    assert first not in blocks
    assert len(blocks) > 1
    with pytest.raises(error, match=f"'blocks': got {first}, the first of the network"):
        weaken("skip", model, first, draw=0.5)


def test_a_share_of_the_blocks_at_least_one(skipping):
    pool = list("abcdefghijklmnopqrst")
    for share, count in ((0.01, 1), (0.05, 1), (0.1, 2), (0.5, 10), (0.99, 20)):
        assert len(skipping.drawn_blocks(pool, share, 0, 1.0)) == count
    often = [skipping.drawn_blocks(pool, 0.1, seed, 1.0) for seed in range(200)]
    assert {block for blocks in often for block in blocks} == set(pool)


def test_blocks_that_were_not_drawn_are_not_reported(weaken, caplog):
    architecture = BY_NAME["sd3"]
    weak = weaken("skip", architecture.build(0), "all", draw=0.3, seed=1)
    predict(architecture, weak)
    assert "no effect" not in caplog.text
