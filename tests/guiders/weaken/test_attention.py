"""Weakened self-attention: where it is, what it computes, and what else may stand there.

Attention that ComfyUI lets nobody replace (PixArt's, and all transformers' in its oldest release)
must be refused instead.
"""

import pytest
import torch

from support.rig import Run, close, core_guider
from support.small_models import (
    BY_NAME,
    HUNYUAN_HAS_IMAGE_FIRST,
    TEXT_TOKENS,
    conditionings,
    sdxl,
    unet,
)
from support.weakening import (
    CAN_REPLACE,
    IMPOSSIBLE,
    POSSIBLE,
    UNETS,
    distance,
    each,
    one_step,
    predict,
    traces,
)


@each(IMPOSSIBLE)
def test_attention_that_cannot_be_replaced(kind, architecture, model, weaken, error):
    """It is said before anything is sampled."""
    before = traces(model)
    source, why = ("blocks", "has none") if CAN_REPLACE else ("model", "newer ComfyUI")
    with pytest.raises(error, match=f"Weaken Attention, input '{source}': got .*{why}"):
        weaken(kind, model)
    assert traces(model) == before


def test_grid_in_a_unet_is_that_of_the_picture(weaken, seen):
    """At each of its sizes, rows before columns."""
    for name in UNETS:
        architecture = BY_NAME[name]
        seen.clear()
        predict(architecture, weaken("blur", architecture.build(0), "all"))
        grids = set()
        for v, span, (frames, rows, columns) in seen:
            assert (span.start, span.stop) == (0, v.shape[1])
            assert frames == 1 and rows * columns == v.shape[1] and 3 * rows == 2 * columns
            grids.add(rows)
        assert len(grids) >= 2


def test_only_the_chosen_blocks_of_a_unet(weaken, seen):
    for blocks, count in (("d0", 1), ("middle", 2), ("middle.1", 1), ("input 3-5, u0", 5)):
        seen.clear()
        predict(BY_NAME["sdxl"], weaken("blur", sdxl(0), blocks))
        assert len(seen) == count


def picture_in(architecture, length):
    """Which tokens of a sequence are the picture's."""
    latent = architecture.latent
    frames = latent[2] if len(latent) == 5 else 1
    count = frames * latent[-2] // 2 * (latent[-1] // 2)
    if architecture.name == "hunyuan_video" and HUNYUAN_HAS_IMAGE_FIRST:
        start = 0
    elif architecture.name == "z_image":  # filled up to 32
        start = length - 32
    else:
        start = length - count
    return slice(start, start + count)


def without_the_rest_of_the_picture(architecture, model):
    """The model with plain attention, of which a mask hides all other tokens of the picture."""
    # Up to this length it is text or picture alone, which some networks refine first.
    refined = {"lumina": 24, "z_image": 32, "hunyuan_video": TEXT_TOKENS}.get(architecture.name, 0)

    def hidden(function, q, k, v, heads, mask=None, **kwargs):
        length = q.shape[2 if kwargs.get("skip_reshape") else 1]
        if k.shape != q.shape or length <= refined:
            return function(q, k, v, heads, mask=mask, **kwargs)
        span = picture_in(architecture, length)
        others = torch.zeros(length, length)
        others[span, span] = -torch.inf
        others.fill_diagonal_(0)
        if mask is not None:
            others = others + (mask[:, None] if mask.ndim == 3 else mask)
        return function(q, k, v, heads, mask=others, **kwargs)

    reference = model.clone()
    reference.model_options["transformer_options"]["optimized_attention_override"] = hidden
    return reference


@each([(a, kind) for a, kind in POSSIBLE if kind == "identity" and a.name not in UNETS])
def test_identity_is_plain_attention_that_hides_the_rest_of_the_picture(
    kind, architecture, model, weaken
):
    expected = predict(architecture, without_the_rest_of_the_picture(architecture, model))
    assert distance(expected, predict(architecture, model)) > 1e-3
    blocks = "layers" if architecture.blocks == ("layers",) else "all"
    assert close(predict(architecture, weaken(kind, model, blocks)), expected)


@pytest.mark.skipif(not CAN_REPLACE, reason="this ComfyUI lets no attention be replaced")
def test_identity_heeds_a_mask(weaken, models):
    """HunyuanVideo has one over picture and text, for one video at a time."""
    architecture = BY_NAME["hunyuan_video"]
    model = models(architecture)
    ((context, extras),) = architecture.conditioning(1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    masked = [[context, extras | {"attention_mask": mask}]]
    run = one_step(architecture, model)
    run = run.with_(latent=run.latent[:1])
    weak, reference = (
        predict(architecture, m, run, masked)
        for m in (
            weaken("identity", model, "all"),
            without_the_rest_of_the_picture(architecture, model),
        )
    )
    assert close(weak, reference)
    assert distance(weak, predict(architecture, weaken("identity", model, "all"), run)) > 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_identity_is_cores_perturbed_attention(name, weaken, node, patch):
    architecture = BY_NAME[name]
    model = architecture.build(0)
    run = Run.of(model, shape=architecture.latent, steps=4, sampler="dpmpp_2m")
    weak = weaken("identity", model, "middle")
    sampled = [
        run.sample(core_guider(m, *conditionings, 3.0))
        for m in (
            patch(model, weak_model=weak, weak_scale=2.5),
            node("PerturbedAttentionGuidance", model=model, scale=1.5),
            model,
        )
    ]
    assert close(sampled[0], sampled[1])
    assert distance(sampled[0], sampled[2]) > 1e-3


# Together with the rest of ComfyUI


@pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 0)])
def test_another_nodes_replaced_attention_still_acts(key, weaken):
    def halved(q, k, v, extra):
        return 0.5 * v

    architecture, model = BY_NAME["sd15"], unet(0)
    patched = model.clone()
    patched.set_model_attn1_replace(halved, *key)
    theirs = predict(architecture, patched)
    mixed = predict(architecture, weaken("half identity", patched, "middle"))
    assert distance(mixed, theirs) > 1e-4
    assert distance(mixed, predict(architecture, weaken("half identity", model, "middle"))) > 1e-4


@pytest.mark.skipif(not CAN_REPLACE, reason="this ComfyUI lets no attention be replaced")
def test_another_nodes_attention_override_still_acts(weaken):
    def sharper(function, q, k, v, *args, **kwargs):
        return function(2 * q, k, v, *args, **kwargs)

    for name in ("sd15", "sd3"):
        architecture = BY_NAME[name]
        model = architecture.build(0)
        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = sharper
        alone = predict(architecture, weaken("blur", model, "all"))
        together = predict(architecture, weaken("blur", patched, "all"))
        assert distance(together, alone) > 1e-4
        assert distance(together, predict(architecture, patched)) > 1e-4


def test_token_merging(weaken, node, error):
    """There are fewer queries then than keys, so that no token can see only itself."""
    architecture, model = BY_NAME["sd15"], unet(0)
    run = one_step(architecture, model).with_(latent=torch.ones(1, 4, 16, 16))
    merged = node("TomePatchModel", model=model, ratio=0.5)
    plain = predict(architecture, merged, run)
    for kind in ("tokens", "skip", "dropout"):
        weak = predict(architecture, weaken(kind, merged, "input 1"), run)
        assert weak.isfinite().all() and distance(weak, plain) > 1e-4
    for kind in ("identity", "blur", "window"):
        with pytest.raises(error, match="got input 1, on which this node has no effect"):
            predict(architecture, weaken(kind, merged, "input 1"), run)


def test_tiled_attention(weaken, error):
    """As with HyperTile: a token of a tile can see only itself, but its place is not known."""
    architecture, model = BY_NAME["sd15"], unet(0)

    def cut(q, k, v, extra):
        return tuple(t.unflatten(1, (2, -1)).flatten(0, 1) for t in (q, k, v))

    def join(out, extra):
        return out.unflatten(0, (-1, 2)).flatten(1, 2)

    tiled = model.clone()
    tiled.set_model_attn1_patch(cut)
    tiled.set_model_attn1_output_patch(join)
    plain = predict(architecture, tiled)
    weak = predict(architecture, weaken("identity", tiled, "all"))
    assert distance(weak, plain) > 1e-3
    for kind in ("blur", "window"):
        with pytest.raises(error, match="on which this node has no effect"):
            predict(architecture, weaken(kind, tiled, "all"))
