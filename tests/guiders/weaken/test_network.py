"""The table of architectures, held against the networks themselves."""

from types import SimpleNamespace

import comfy.ldm.wan.model
import comfy.model_base
import comfy.supported_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from support.rare_models import EVERY, EVERY_BY_NAME, RARE
from support.small_models import sdxl, unet
from support.weakening import (
    CAN_REPLACE,
    NODES,
    OPAQUE,
    UNETS,
    can_weaken,
    distance,
    each,
    isolating,
    one_step,
    predict,
    together,
    traces,
)

NODE = "Some Weaken Node"


@pytest.fixture(scope="module")
def table(pack):
    return pack.guiders.weaken.network


@pytest.fixture(scope="module")
def choose(pack):
    """Read a text for a network."""

    def choose(network, text):
        return pack.guiders.weaken.blocks.choose(NODE, network, text, auto=[])

    return choose


each_architecture = pytest.mark.parametrize("architecture", EVERY, ids=lambda a: a.name)
TRANSFORMERS = [a for a in EVERY if a.name not in (*UNETS, *OPAQUE)]


# The table against the networks


class Asked(Exception):
    """What stops a model from being built."""


def network_of_config(config, monkeypatch):
    """The class of the network that a model of ComfyUI has, without building it."""
    built = []

    def no_model(self, *_, unet_model=comfy.model_base.UNetModel, **__):
        built.append(unet_model)
        raise Asked

    monkeypatch.setattr(comfy.model_base.BaseModel, "__init__", no_model)
    shape = {"in_channels": 4, "image_size": 32, "hidden_size": 64, **config.unet_config}
    weights = {f"cc_projection.{name}": torch.zeros(1, 1) for name in ("weight", "bias")}
    with pytest.raises(Asked):
        config(shape).get_model(weights, "")
    return built[0]


# What ComfyUI loads like a diffusion model, and nobody samples from.
NO_DIFFUSION = ("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3")
LOADED = [c for c in comfy.supported_models.models if c.__name__ not in NO_DIFFUSION]


@pytest.mark.parametrize("config", LOADED, ids=lambda c: c.__name__)
def test_every_network_that_comfyui_loads_is_under_test(config, models, monkeypatch):
    with monkeypatch.context() as patched:
        network = network_of_config(config, patched)
    assert network in {type(models(a).model.diffusion_model) for a in EVERY}


# What looks like blocks and is none: nothing calls it. And blocks that do not look like any.
NO_BLOCKS = {
    "ace_step": {"projectors"},
    "tripo_splat": {"noise_repo_layers", "context_repo_layers", "repo_layers"},
    "wan_dancer": {"music_encoder"},
}
UNLIKELY = {"radiance": {"nerf_blocks"}}
# Lists that their attributes alone would not name well.
NAMED = ("hidream_o1", "trellis2", "ace_step15")


@each_architecture
def test_row_has_all_lists_of_blocks(architecture, models, table):
    module = models(architecture).model.diffusion_model
    network = table.Network(module)
    row = network.architecture
    assert row is not table.TABLE[-1]
    lists = [of for of in row.lists if of.name in network.groups]
    paths = [of.path for of in lists]
    assert set(architecture.blocks) <= set(paths)
    for of in lists:
        found = module.get_submodule(of.path)
        blocks = [found] if of.name == "middle" else list(found.children())
        assert [network.module_of(block) for block in network.groups[of.name]] == blocks
    if row.unet or architecture.name in NAMED:
        return
    looked, main = table._look_for_lists(module)
    assert network.main == main
    no_blocks, unlikely = (d.get(architecture.name, set()) for d in (NO_BLOCKS, UNLIKELY))
    assert [(of.name, of.path) for of in looked if of.path not in no_blocks] == [
        (of.name, of.path) for of in lists if of.path not in unlikely
    ]


# In ComfyUI itself these points fail, or forget a part of what they are given.
BROKEN_POINTS = ("kandinsky5", "stable_audio3")


class Noting(dict):
    """Replaced blocks of which there are none, and which notes what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def __contains__(self, key):
        self.asked.add(key)
        return False


@each_architecture
def test_patch_points_are_those_that_the_network_looks_for(architecture, models, table):
    model = models(architecture)
    noting = Noting()

    def apply_model(executor, x, t, concat=None, text=None, control=None, options=None, **rest):
        options = {**(options or {}), "patches_replace": {"dit": noting}}
        return executor(x, t, concat, text, control, options, **rest)

    watched = model.clone()
    watched.add_wrapper(WrappersMP.APPLY_MODEL, apply_model)
    predict(architecture, watched)
    blocks = table.Network.of(model).blocks
    # Hunyuan3D 2.1 and SeedVR2 hand over other things at their points than all others.
    asked = {point for point in noting.asked if point[0] != "block"}
    used = {block.point for block in blocks if block.point is not None}
    assert used == (set() if architecture.name in BROKEN_POINTS else asked)


# Not yet in ComfyUI 0.18.1, where they change nothing.
HAS_CONTEXT_LATENTS = (
    "context_latents" in comfy.ldm.wan.model.WanModel.forward_orig.__code__.co_consts
)


def references(name):
    """What puts a reference image into the sequences of a network."""
    generator = torch.Generator().manual_seed(6)
    shape, key = {
        "flux": ((1, 16, 6, 4), "reference_latents"),
        "qwen_image": ((1, 16, 1, 6, 4), "reference_latents"),
        "omnigen2": ((1, 16, 6, 4), "reference_latents"),
        "hunyuan_video": ((1, 16, 1, 6, 4), "ref_latent"),
        "wan_reference": ((1, 16, 1, 8, 12), "reference_latents"),
        "wan_sound": ((1, 16, 1, 8, 12), "reference_latents"),
        "wan_humo": ((1, 16, 1, 8, 12), "reference_latents"),
        **({"wan": ((1, 16, 1, 8, 12), "context_latents")} if HAS_CONTEXT_LATENTS else {}),
        "wan_scail": ((1, 16, 1, 8, 12), "reference_latents"),
        "wan_scail2": ((1, 16, 1, 8, 12), "reference_latents"),
        "joy_image": ((1, 16, 1, 6, 4), "reference_latents"),
        "krea2": ((1, 16, 1, 6, 4), "reference_latents"),
        "boogu": ((1, 16, 6, 4), "reference_latents"),
        "mage_flow": ((1, 128, 3, 2), "reference_latents"),
        "hidream_o1": ((1, 128, 64, 3), "reference_latents"),
    }.get(name, (None, None))
    if key is None:
        return None
    latent = torch.randn(shape, generator=generator)
    given = {key: latent if key == "ref_latent" else [latent]}
    return given | ({"reference_latents_method": "index"} if name == "krea2" else {})


SPANS = [
    (kind, a.name, reference)
    for kind in ("tokens", "blur")
    for a in TRANSFORMERS
    for reference in (False, True)
    if can_weaken(kind, a) and (not reference or references(a.name))
]
# Their text has a sequence of its own throughout, or in blocks with streams of their own.
TEXT_APART = (
    *("wan", "pixart", "ltx", "cosmos", "anima", "hunyuan_dit", "ace_step", "kandinsky5"),
)
TWO_STREAMS = (
    *("sd3", "sd35", "qwen_image", "mage_flow", "mochi", "lens", "joy_image", "pixel_dit", "pid"),
    "cog_video",
)


@pytest.mark.parametrize(
    ("kind", "name", "with_reference"),
    SPANS,
    ids=[f"{kind}-{name}{' and reference' * reference}" for kind, name, reference in SPANS],
)
def test_span_is_the_picture(kind, name, with_reference, weaken, seen, request):
    """Of two runs that differ in the latent, exactly the tokens in the span differ."""
    architecture = EVERY_BY_NAME[name]
    model = architecture.build(0)
    if kind == "blur":
        model = isolating(model)
    else:
        request.getfixturevalue("isolated")
    # Its norms and its linear attention cannot be kept from mixing tokens.
    first_alone = name == "ace_step"
    weak = weaken(kind, model, "0" if first_alone else "all")
    ((context, extras),) = architecture.conditioning(1)
    if with_reference:
        extras = extras | references(name)
    run = one_step(architecture, model)
    if with_reference:  # HunyuanVideo's are for one video at a time
        run = run.with_(latent=run.latent[:1])

    def sequences(latent):
        seen.clear()
        predict(architecture, weak, run.with_(latent=latent), [[context, extras]])
        assert len(seen) >= (1 if first_alone else 4)
        return list(seen)

    def changed(latent):
        """Per sequence, which of its tokens are others for this latent."""
        pairs = zip(sequences(latent), sequences(run.latent), strict=True)
        return [((x != y).any(-1).any(0), span, grid) for (x, span, grid), (y, _, _) in pairs]

    sizes = (1, 1, *architecture.latent[2:])[-3:]
    frames, rows, columns = (n // side for n, side in zip(sizes, architecture.patch, strict=True))

    lengths = set()

    def image(of, latent):
        """The latent with another image in it."""
        beside = latent.tensors[1:] if architecture.beside else ()
        changed = of((latent.tensors[0] if architecture.beside else latent).clone())
        return together(changed, *beside) if beside else changed

    for moved, span, grid in changed(image(lambda x: x + 1, run.latent)):
        lengths.add(len(moved))
        assert span.stop - span.start == frames * rows * columns
        assert grid in (None, (frames, rows, columns))
        assert torch.equal(moved.nonzero().flatten(), torch.arange(span.start, span.stop))
    # The text is in the sequences of a block's attention, and of blocks of one stream.
    if with_reference or (
        not name.startswith(TEXT_APART) and (kind == "blur" or name not in TWO_STREAMS)
    ):
        assert max(lengths) > frames * rows * columns

    if first_alone:
        return
    _, height, width = architecture.patch
    for frame, row, column in (
        (0, 0, 0),
        (0, min(1, rows - 1), 3),
        (frames - 1, rows - 1, columns - 2),
    ):

        def at_one_place(latent, frame=frame, y=height * row, x=width * column):
            video = latent.view(*latent.shape[:2], *sizes)
            video[:, :, frame, y : y + height, x : x + width] += 1
            return latent

        for moved, span, _ in changed(image(at_one_place, run.latent)):
            place = span.start + (frame * rows + row) * columns + column
            assert moved.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("kind", ["tokens", *(["blur"] if CAN_REPLACE else [])])
def test_image_with_another_one_between_its_tokens(kind, weaken, models, error):
    """As HiDream edits images: what cannot be told apart is left alone, and this is said."""
    architecture = EVERY_BY_NAME["hidream"]
    ((context, extras),) = architecture.conditioning(1)
    extras = extras | {"concat_latent_image": torch.ones(1, *architecture.latent[1:])}
    weak = weaken(kind, models(architecture))
    with pytest.raises(error, match="no effect"):
        predict(architecture, weak, positive=[[context, extras]])


@each([(a, "tokens") for a in TRANSFORMERS if can_weaken("tokens", a)])
def test_pass_with_nothing_changed_is_the_network_own(kind, architecture, model, weaken, seen):
    """What stands in a patch point or in place of a block hands on all that it is given."""
    plain = predict(architecture, model)
    assert distance(predict(architecture, weaken(kind, model, "all")), plain) < 1e-5
    assert seen


RARE_PAIRS = [(a, kind) for a in RARE for kind in NODES]


@each([(a, kind) for a, kind in RARE_PAIRS if can_weaken(kind, a)])
def test_rare_architecture_can_be_weakened(kind, architecture, model, weaken):
    before = traces(model)
    plain = predict(architecture, model)
    for blocks in ("auto", "all"):
        weak = predict(architecture, weaken(kind, model, blocks))
        assert weak.isfinite().all() and distance(weak, plain) > 1e-3
    assert traces(model) == before
    assert torch.equal(predict(architecture, model), plain)


@each([(a, kind) for a, kind in RARE_PAIRS if not can_weaken(kind, a)])
def test_rare_architecture_that_cannot_be_weakened_says_so(
    kind, architecture, model, weaken, error
):
    says_so = pytest.raises(
        error, match=r"input '(blocks|model)': got .*(none|no effect|newer ComfyUI)"
    )
    if architecture.name == "wan_sound":  # which ComfyUI hands no options to, but only there
        with says_so:
            predict(architecture, weaken(kind, model))
        return
    # Before anything is sampled.
    with says_so:
        weaken(kind, model)


# What a network is seen as


def test_weights_of_blocks(table, choose):
    model = unet(0)
    network = table.Network.of(model)
    state = model.model.state_dict()
    keys = network.weight_keys(model, choose(network, "input 1, middle"))
    prefixes = ("diffusion_model.input_blocks.1.", "diffusion_model.middle_block.")
    assert keys == [key for key in state if key.startswith(prefixes)]
    assert any(key.startswith("diffusion_model.input_blocks.1.1.transformer") for key in keys)
    part = network.weight_keys(model, choose(network, "middle.0"))
    assert part == [k for k in keys if ".middle_block.1.transformer_blocks.0." in k]


def linear(*children, **named):
    """A module with two matrices, which is enough for a block."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), *children)
    for name, child in named.items():
        module.add_module(name, child)
    return module


def network_of(table, **children):
    module = torch.nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return table.Network(module)


def listed(count=2):
    return torch.nn.ModuleList(linear() for _ in range(count))


def names(network):
    return [str(block) for block in network.blocks]


def test_network_without_blocks(table, pack, choose):
    network = network_of(table, head=torch.nn.Linear(2, 2), few=torch.nn.ModuleList())
    assert names(network) == ["network 0"]
    assert network.pick([table.Pick(share=(0.2, 0.5))]) == []
    model = SimpleNamespace(
        model=SimpleNamespace(state_dict=lambda: {"diffusion_model.head.weight": 1, "sigmas": 2})
    )
    assert network.weight_keys(model, network.blocks) == ["diffusion_model.head.weight"]
    for text in ("1", "double 1", "middle"):
        with pytest.raises(pack.guiders.errors.GuidanceError, match="network 0"):
            choose(network, text)


def test_small_projections_are_no_blocks(table):
    network = network_of(
        table, heads=torch.nn.ModuleList([torch.nn.Linear(2, 2)] * 2), layers=listed(3)
    )
    assert names(network) == ["layer 0", "layer 1", "layer 2"]


def test_main_list_of_unknown_names_is_the_longest(table, choose):
    network = network_of(table, Early_Stages=listed(2), late_stages=listed(3))
    assert network.main == "late_stages"
    texts = {"1": "late_stages 1", "early_stages 0": "early_stages 0", "double 2": "late_stages 2"}
    for text, expected in texts.items():
        (block,) = choose(network, text)
        assert str(block) == expected


def test_two_lists_of_one_name_are_both_there(table):
    network = network_of(table, double_blocks=listed(2), double_layers=listed(1))
    assert names(network) == ["double 0", "double 1", "double_layers 0"]


def test_lists_further_down(table):
    """As in networks that keep their whole transformer in one module."""
    inner = torch.nn.Module()
    inner.add_module("layers", torch.nn.ModuleList(linear(sub=listed()) for _ in range(3)))
    network = network_of(table, transformer=inner, head=torch.nn.Linear(2, 2))
    assert names(network) == ["layer 0", "layer 1", "layer 2"]
    assert network.main == "layer"
    assert network.blocks[1].path == "transformer.layers.1"
    assert network.blocks[1].point == ("double_block", 1)


def test_blocks_in_a_dictionary(table):
    """Cosmos names its blocks."""
    network = network_of(table, blocks=torch.nn.ModuleDict({"block0": linear(), "a": linear()}))
    assert [block.path for block in network.blocks] == ["blocks.block0", "blocks.a"]
    assert names(network) == ["block 0", "block 1"]


def test_unet_without_a_middle(table):
    network = table.Network(sdxl(0, middle_depth=-2).model.diffusion_model)
    assert list(network.groups) == ["input", "output"]


def test_transformers_over_time_are_not_counted(table):
    """Of a video U-Net, whose blocks have a second stack that mixes frames."""

    class Transformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn1 = torch.nn.Linear(2, 2)

    spatial = torch.nn.Module()
    spatial.transformer_blocks = torch.nn.ModuleList([Transformer(), Transformer()])
    spatial.time_stack = torch.nn.ModuleList([Transformer(), Transformer()])
    module = torch.nn.Module()
    module.input_blocks = torch.nn.ModuleList([torch.nn.Sequential(linear(), spatial)])
    module.output_blocks = torch.nn.ModuleList([linear()])
    network = table.Network(module)
    assert [b.path for b in network.transformers(network.groups["input"][0])] == [
        "input_blocks.0.1.transformer_blocks.0",
        "input_blocks.0.1.transformer_blocks.1",
    ]


# (start, end) of Stable Diffusion 3.5 medium, Wan 1.3B, and networks that are barely there.
@pytest.mark.parametrize(
    ("count", "expected"),
    [(24, [7, 8, 9]), (30, [9, 10, 11]), (4, [1]), (3, [1]), (2, [1]), (1, [0])],
)
def test_depth(count, expected, table):
    network = network_of(table, joint_blocks=listed(count))
    a_third_in = network.pick(network.architecture.auto.skip)
    assert [block.index for block in a_third_in] == expected
    assert network.pick([table.Pick(share=(0, 1))]) == network.blocks
