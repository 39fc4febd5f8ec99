"""Skipped blocks: what goes in comes out."""

import pytest
import torch

from support.rig import Pushes, Run, close, core_guider, record
from support.small_models import BY_NAME, sdxl
from support.weakening import TRANSFORMERS, distance, predict


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
