"""Worse passes of one network, on every architecture: they do what they say and leave no trace.

Attention that ComfyUI lets nobody replace (PixArt's, and all transformers' in its oldest release)
must be refused instead.
"""

import logging
import sys

import comfy.ldm.modules.attention
import pytest
import torch

from support.rig import (
    Legs,
    Recording,
    Run,
    add_weights,
    call,
    close,
    core_guider,
    count_model_calls,
    record,
)
from support.small_models import (
    ARCHITECTURES,
    BY_NAME,
    TEXT_TOKENS,
    Architecture,
    conditionings,
    flux,
    sd3,
    sdxl,
    unet,
    video_unet,
)

UNETS = ("sd15", "sdxl")
CAN_REPLACE = hasattr(comfy.ldm.modules.attention, "wrap_attn")

# Settings that are no defaults, so that one which is not passed on shows.
NODES = {
    "identity": ("BadVersionWeakenAttention", {"mode": "identity", "strength": 1.0}),
    "half identity": ("BadVersionWeakenAttention", {"mode": "identity", "strength": 0.5}),
    "blur": ("BadVersionWeakenAttention", {"mode": "blur", "strength": 0.8}),
    "window": ("BadVersionWeakenAttention", {"mode": "window", "strength": 0.8}),
    "skip": ("BadVersionWeakenBySkippingBlocks", {}),
    "tokens": ("BadVersionWeakenTokens", {"strength": 0.5, "seed": 3}),
    "dropout": ("BadVersionWeakenWithDropout", {"rate": 0.2, "seed": 3}),
}
RANDOM = ("tokens", "dropout")


def can_weaken(kind, architecture):
    """Whether ComfyUI lets this be done to that architecture."""
    if NODES[kind][0] != "BadVersionWeakenAttention" or architecture.name in UNETS:
        return True
    return CAN_REPLACE and architecture.name != "pixart"


def each(pairs):
    """Run a test for pairs of an architecture and a kind of weakening."""
    ids = [f"{architecture.name}-{kind}" for architecture, kind in pairs]
    return pytest.mark.parametrize(("architecture", "kind"), pairs, ids=ids)


ALL_PAIRS = [(architecture, kind) for architecture in ARCHITECTURES for kind in NODES]
POSSIBLE = [(a, kind) for a, kind in ALL_PAIRS if can_weaken(kind, a)]
IMPOSSIBLE = [(a, kind) for a, kind in ALL_PAIRS if not can_weaken(kind, a)]
TRANSFORMERS = [architecture for architecture in ARCHITECTURES if architecture.name not in UNETS]


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def architecture(request):
    return request.param


@pytest.fixture(params=NODES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def models():
    """One small model of each architecture, which no test changes."""
    built = {}

    def model(architecture):
        if architecture.name not in built:
            built[architecture.name] = architecture.build(0)
        return built[architecture.name]

    return model


@pytest.fixture
def model(architecture, models):
    return models(architecture)


@pytest.fixture(scope="module")
def weaken(comfy_nodes):
    """Execute one of the nodes."""

    def weaken(kind, model, blocks="auto", **changed):
        node, inputs = NODES[kind]
        inputs = {**inputs, "blocks": blocks, **changed}
        return call(comfy_nodes[node], model=model, **inputs)[0]

    return weaken


@pytest.fixture(scope="module")
def error(pack):
    return pack.guiders.errors.GuidanceError


def one_step(architecture, model, **rest):
    """A run of one step, from the middle of the noise and from a picture, so that both are seen."""
    flow = model.get_model_object("model_sampling").noise_scaling(
        torch.full((1,), 0.5), torch.ones(1), torch.full((1,), 2.0)
    )
    sigma = 0.6 if float(flow) == 1.5 else 2.0
    latent = torch.randn(architecture.latent, generator=torch.Generator().manual_seed(4))
    return Run(latent, torch.tensor([sigma, 0.0]), **rest)


def predict(architecture, model, run=None, positive=None):
    """The model's first prediction in a run."""
    recorded, recording = record(model)
    run = one_step(architecture, model) if run is None else run
    run.sample(core_guider(recorded, positive or architecture.conditioning(1)))
    return recording.denoised[0]


def distance(actual, expected):
    return float((actual - expected).norm() / expected.norm())


# It acts


@pytest.mark.parametrize("blocks", ["auto", "all"])
@each(POSSIBLE)
def test_prediction_changes(kind, blocks, architecture, model, weaken):
    plain = predict(architecture, model)
    weak = predict(architecture, weaken(kind, model, blocks))
    assert weak.isfinite().all()
    assert distance(weak, plain) > 1e-3


@each(IMPOSSIBLE)
def test_attention_that_cannot_be_replaced(kind, architecture, model, weaken, error, guide):
    before = traces(model)
    if not CAN_REPLACE:
        with pytest.raises(error, match="Weaken Attention, input 'model': got") as caught:
            weaken(kind, model)
        assert "newer ComfyUI" in str(caught.value)
        return
    weak = weaken(kind, model)
    guider = guide(model=model, positive=architecture.conditioning(1), weak_model=weak)
    with (
        count_model_calls(model) as calls,
        pytest.raises(error, match="Weaken Attention, input 'blocks': got block 1, on which"),
    ):
        one_step(architecture, model).sample(guider)
    assert calls == [1], "the weak model's pass is the first one"
    assert traces(model) == before


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


# It acts on the picture's tokens


def own_values(
    q,
    k,
    v,
    heads,
    mask=None,
    attn_precision=None,
    skip_reshape=False,
    skip_output_reshape=False,
    **_,
):
    """Attention in which each token sees only itself, so that what it holds stays its own."""
    if not skip_reshape:
        q, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, v))
    out = v if v.shape[2] == q.shape[2] else torch.zeros_like(q)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


@pytest.fixture
def isolated(monkeypatch):
    """No token of any transformer learns of another one."""
    for module in [m for name, m in sys.modules.items() if name.startswith("comfy.ldm.")]:
        for name in ("optimized_attention", "optimized_attention_masked"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, own_values)


def isolating(model):
    """The same through ComfyUI's patch point, on which the weakened attention stands, too."""
    isolated = model.clone()
    isolated.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda _, *args, **kwargs: own_values(*args, **kwargs)
    )
    return isolated


@pytest.fixture
def seen(monkeypatch, pack):
    """What would have been weakened: sequences with the span that is the picture's, and its grid.

    None of it is weakened, so that tokens keep their places.
    """
    sequences = []

    def shuffle_tokens(x, span, share, generator):
        sequences.append((x.clone(), span, None))
        return x

    def blurred_attention(q, k, v, span, grid, *_):
        # Values depend on nothing but the token; there is one for each of its heads.
        sequences.append((v.transpose(1, 2).flatten(2), span, grid))
        return v

    monkeypatch.setattr(pack.guiders.weaken.perturbations, "shuffle_tokens", shuffle_tokens)
    monkeypatch.setattr(pack.guiders.weaken.perturbations, "blurred_attention", blurred_attention)
    return sequences


def reference_latents(shape):
    return {"reference_latents": [torch.randn(shape, generator=torch.Generator().manual_seed(6))]}


REFERENCES = {"flux": (1, 16, 6, 4), "qwen_image": (1, 16, 1, 6, 4)}
SPANS = [
    (kind, a.name, reference)
    for kind in ("tokens", "blur")
    for a in TRANSFORMERS
    for reference in (False, True)
    if can_weaken(kind, a) and (not reference or a.name in REFERENCES)
]


@pytest.mark.parametrize(
    ("kind", "name", "with_reference"),
    SPANS,
    ids=[f"{kind}-{name}{' and reference' * reference}" for kind, name, reference in SPANS],
)
def test_span_is_the_picture(kind, name, with_reference, weaken, seen, request):
    """Of two runs that differ in the latent, exactly the tokens in the span differ."""
    architecture = BY_NAME[name]
    model = architecture.build(0)
    if kind == "blur":
        model = isolating(model)
    else:
        request.getfixturevalue("isolated")
    weak = weaken(kind, model, "all")
    ((context, extras),) = architecture.conditioning(1)
    if with_reference:
        extras = extras | reference_latents(REFERENCES[name])
    run = one_step(architecture, model)

    def sequences(latent):
        seen.clear()
        predict(architecture, weak, run.with_(latent=latent), [[context, extras]])
        assert len(seen) >= 4
        return list(seen)

    def changed(latent):
        """Per sequence, which of its tokens are others for this latent."""
        pairs = zip(sequences(latent), sequences(run.latent), strict=True)
        return [((x != y).any(-1).any(0), span, grid) for (x, span, grid), (y, _, _) in pairs]

    frames = run.latent.shape[2] if run.latent.ndim == 5 else 1
    rows, columns = (n // 2 for n in run.latent.shape[-2:])

    lengths = set()
    for moved, span, grid in changed(run.latent + 1):
        lengths.add(len(moved))
        assert span.stop - span.start == frames * rows * columns
        assert grid in (None, (frames, rows, columns))
        assert torch.equal(moved.nonzero().flatten(), torch.arange(span.start, span.stop))
    # The text is in the sequences of a block's attention, and of blocks of one stream.
    if name not in ("wan", "pixart") and (
        kind == "blur" or name not in ("sd3", "sd35", "qwen_image")
    ):
        assert max(lengths) > frames * rows * columns

    for frame, row, column in ((0, 0, 0), (0, 1, 3), (frames - 1, rows - 1, columns - 2)):
        latent = run.latent.clone()
        video = latent.unsqueeze(2) if latent.ndim == 4 else latent
        video[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
        for moved, span, _ in changed(latent):
            place = span.start + (frame * rows + row) * columns + column
            assert moved.nonzero().flatten().tolist() == [place]


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


def test_shuffled_tokens_are_all_of_a_unets_transformer(weaken, seen):
    for name in UNETS:
        architecture = BY_NAME[name]
        seen.clear()
        predict(architecture, weaken("tokens", architecture.build(0), "all"))
        assert all((span.start, span.stop) == (0, x.shape[1]) for x, span, _ in seen)
        assert len({x.shape[1] for x, _, _ in seen}) >= 2


# It does what it says


def picture_in(architecture, length):
    """Which tokens of a sequence are the picture's."""
    latent = architecture.latent
    frames = latent[2] if len(latent) == 5 else 1
    count = frames * latent[-2] // 2 * (latent[-1] // 2)
    if architecture.name == "hunyuan_video":
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


def test_only_the_chosen_blocks_of_a_unet(weaken, seen):
    for blocks, count in (("d0", 1), ("middle", 2), ("middle.1", 1), ("input 3-5, u0", 5)):
        seen.clear()
        predict(BY_NAME["sdxl"], weaken("blur", sdxl(0), blocks))
        assert len(seen) == count


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


def test_dropped_activations_are_those_before_weight_matrices(weaken, monkeypatch, pack):
    """Each once, at the rate that was asked for, and not the embedding of the noise level."""
    architecture, model = BY_NAME["sd3"], sd3(0)
    rates, shapes = set(), []

    def drop_activations(x, rate, generator):
        rates.add(rate)
        shapes.append(tuple(x.shape))
        return x

    monkeypatch.setattr(pack.guiders.weaken.perturbations, "drop_activations", drop_activations)
    plain = predict(architecture, model)
    assert torch.equal(predict(architecture, weaken("dropout", model, "1")), plain)
    picture, text = (2, 24, 64), (2, TEXT_TOKENS, 64)
    wide = [(*shape[:2], 256) for shape in (picture, text)]
    assert rates == {0.2}
    # Queries with keys and values, their projection, and a network of two layers, in each stream.
    assert sorted(shapes) == sorted([picture] * 3 + [text] * 3 + wide)


# Nothing is left behind


def traces(model):
    """What might be left on the modules of a network, and where its weights are."""
    found = {}
    for name, module in model.model.named_modules():
        hooks = [k for k, v in vars(module).items() if "hooks" in k and v]
        if hooks or "forward" in vars(module):
            found[name] = hooks
    weights = {
        k: (w.data_ptr(), float(w.double().sum())) for k, w in model.model.state_dict().items()
    }
    return found, weights


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
    Legs(model, positive, weak=weak, weak_scale=1.7).assert_hold(run, recording)
    run.sample(core_guider(model, positive))
    assert traces(model) == before


# The same seed, the same picture


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


@pytest.mark.parametrize("kind", RANDOM)
def test_each_step_and_block_has_random_numbers_of_its_own(kind, weaken, monkeypatch, pack):
    seeds = []
    name = {"tokens": "shuffle_tokens", "dropout": "drop_activations"}[kind]
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
    for i in range(len(run.latent)):
        alone = Recording([recording.x[0][i : i + 1]], [recording.sigma[0][i : i + 1]])
        (denoised,) = run.with_(latent=run.latent[i : i + 1]).replay(
            core_guider(weak, architecture.conditioning(1)), alone
        )
        assert close(denoised, recording.denoised[0][i : i + 1])


# Together with the rest of ComfyUI


def test_control_net_on_skipped_blocks(main, positive, negative, weaken, controlled, guide):
    with_net, _ = controlled(positive, negative)
    weak = weaken("skip", main, "0-1")
    run = Run.of(main)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=with_net, weak_model=weak, weak_scale=1.7))
    Legs(main, with_net, weak=weak, weak_scale=1.7).assert_hold(run, recording)
    steered, plain = (run.replay(core_guider(weak, c), recording) for c in (with_net, positive))
    assert distance(steered[0], plain[0]) > 1e-4


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
        Legs(model, both, weak=weak, weak_scale=1.7).assert_hold(run, recording)


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
def test_distilled_unet(depth, kind, weaken, error):
    """SSD-1B and KOALA: what is chosen automatically is there nevertheless."""
    architecture, model = BY_NAME["sdxl"], sdxl(0, middle_depth=depth)
    weak = predict(architecture, weaken(kind, model))
    assert weak.isfinite().all() and distance(weak, predict(architecture, model)) > 1e-3
    if NODES[kind][0] == "BadVersionWeakenAttention":
        with pytest.raises(error, match="input 3, input 5, output 0-3"):
            weaken(kind, model, "middle")


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
    for blocks in ("auto", "all", "down 1"):
        with pytest.raises(error, match=r"got .* this model \(\w+\) has none|newer ComfyUI"):
            weaken(kind, model, blocks)


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


# Chosen automatically


AUTO = {
    "sd15": ("middle", "middle", "input 1, input 3"),
    "sdxl": ("middle", "middle", "input 3, input 5"),
    "sd3": ("joint 1", "joint 1", "joint 1"),
    "flux": ("double 1", "double 1", "double 1"),
    "lumina": ("layer 1", "layer 1", "layer 1"),
    "wan": ("block 1", "block 1", "block 1"),
}


@pytest.mark.parametrize("name", AUTO)
def test_blocks_that_are_chosen(name, models, pack):
    """To skip, to weaken the attention of, to shuffle tokens in."""
    auto, network = (
        pack.guiders.weaken.auto,
        pack.guiders.weaken.blocks.Network.of(models(BY_NAME[name])),
    )
    choices = auto.skipped_blocks, auto.attention_blocks, auto.token_blocks
    assert tuple(", ".join(map(str, choice(network))) for choice in choices) == AUTO[name]


@pytest.fixture
def by_hand(comfy_nodes):
    """The weak version of a model that the node makes of it with all inputs as they come."""

    def by_hand(architecture, model):
        unet = architecture.name in UNETS
        node = comfy_nodes[
            "BadVersionWeakenAttention" if unet else "BadVersionWeakenBySkippingBlocks"
        ]
        inputs = node.define_schema().inputs[1:]
        return call(node, model=model, **{i.id: i.default for i in inputs})[0]

    return by_hand


def test_guider_weakens_the_model_by_itself(architecture, model, by_hand, guide, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    with caplog.at_level(logging.INFO):
        itself = run.sample(guide(model=model, positive=positive))
    weak = by_hand(architecture, model)
    assert torch.equal(itself, run.sample(guide(model=model, positive=positive, weak_model=weak)))
    assert distance(itself, run.sample(core_guider(model, positive))) > 1e-3
    (text,) = [r.getMessage() for r in caplog.records if "is the bad version" in r.getMessage()]
    assert text.startswith("Bad-Version Guider: ")
    assert type(model.model.model_config).__name__ in text
    what = "middle" if architecture.name in UNETS else "without"
    assert what in text


def test_patch_weakens_the_model_by_itself(architecture, model, by_hand, patch, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    both = architecture.conditioning(1), architecture.conditioning(2)
    with caplog.at_level(logging.INFO):
        itself = run.sample(core_guider(patch(model), *both, 3.0))
    weak = by_hand(architecture, model)
    assert torch.equal(itself, run.sample(core_guider(patch(model, weak_model=weak), *both, 3.0)))
    assert any(r.getMessage().startswith("Bad-Version Patch: ") for r in caplog.records)


def test_off_weakens_nothing(architecture, model, guide, patch, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    core = run.sample(core_guider(model, positive))
    with caplog.at_level(logging.INFO):
        guider = guide(model=model, positive=positive, weak_scale=1.0)
        assert torch.equal(run.sample(guider), core)
        patched = patch(model, weak_scale=1.0)
        assert torch.equal(run.sample(core_guider(patched, positive)), core)
    assert not any("is the bad version" in r.getMessage() for r in caplog.records)


def test_negative_alone_weakens_nothing(architecture, model, guide, caplog):
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive, negative = architecture.conditioning(1), architecture.conditioning(2)
    with caplog.at_level(logging.INFO):
        guider = guide(model=model, positive=positive, negative=negative)
    assert torch.equal(run.sample(guider), run.sample(core_guider(model, positive, negative, 3.0)))
    assert not any("is the bad version" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("depth", [-1, -2])
def test_distilled_unet_weakens_itself(depth, guide):
    architecture, model = BY_NAME["sdxl"], sdxl(0, middle_depth=depth)
    run = Run.of(model, shape=architecture.latent, steps=2)
    positive = architecture.conditioning(1)
    itself = run.sample(guide(model=model, positive=positive))
    assert distance(itself, run.sample(core_guider(model, positive))) > 1e-3


def test_what_is_neither_unet_nor_transformer_loses_rank(pack, monkeypatch, caplog):
    """Checked on the way only, since no such network is built small."""
    asked = []

    def with_low_rank(node, model, **settings):
        asked.append(settings)
        return model

    monkeypatch.setattr(pack.guiders.weaken.weights, "with_low_rank", with_low_rank)
    model = sd3(0)
    bare = model.clone()
    bare.add_object_patch("diffusion_model", torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with caplog.at_level(logging.INFO):
        pack.guiders.weaken.auto.weak_version("Some Node", bare)
    assert asked[0]["keep"] == 0.5 and len(asked[0]["keys"]) > 10
    assert "half of the rank of its weights" in caplog.text
