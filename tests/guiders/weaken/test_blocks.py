"""The language for blocks: what it means on every architecture, and what it says to mistakes."""

import random
from types import SimpleNamespace

import pytest
import torch

from support.small_models import ARCHITECTURES, sdxl, unet

NODE = "Some Weaken Node"

# Short of the middle, of which there is one, an artist sees the attributes without "_blocks".
GROUPS = {
    "input_blocks": "input",
    "middle_block": "middle",
    "output_blocks": "output",
    "joint_blocks": "joint",
    "double_blocks": "double",
    "single_blocks": "single",
    "double_layers": "double",
    "single_layers": "single",
    "transformer_blocks": "transformer",
    "blocks": "block",
    "layers": "layer",
}
REFINERS = {"noise_refiner", "context_refiner"}


@pytest.fixture(scope="module")
def blocks(pack):
    return pack.guiders.weaken.blocks


@pytest.fixture(scope="module")
def networks(blocks):
    """The network of every architecture by name."""
    return {a.name: blocks.Network.of(a.build(0)) for a in ARCHITECTURES}


@pytest.fixture
def choose(blocks, networks):
    """Read a text for a network; blocks come back as an artist calls them."""

    def choose(name, text, **rest):
        rest = {"auto": [], **rest}
        return [str(b) for b in blocks.choose(NODE, networks[name], text, **rest)]

    return choose


@pytest.fixture
def refused(choose, networks, pack):
    """Expect a message to the artist; return it, once it is clear that it says all it must."""

    def refused(name, text, **rest):
        with pytest.raises(pack.guiders.errors.GuidanceError) as caught:
            choose(name, text, **rest)
        message = str(caught.value)
        assert message.startswith(f"{NODE}, input 'blocks': got ")
        assert f"this model ({networks[name].name})" in message
        assert "Expected " in message
        return message

    return refused


# sd15 has transformers in input 1, 3, middle, output 0-3; sdxl in input 3, 5, middle, output 0-3,
# of these two each in input 5, the middle and output 0-1.
MEANINGS = [
    ("sd15", "middle", "middle"),
    ("sd15", "middle 0", "middle"),
    ("sd15", "middle_block", "middle"),
    ("sd15", "input 2", "input 2"),
    ("sd15", "input2", "input 2"),
    ("sd15", "  INPUT   2 ", "input 2"),
    ("sd15", "input_blocks 2", "input 2"),
    ("sd15", "Input Blocks 2", "input 2"),
    ("sd15", "inputs 2", "input 2"),
    ("sd15", "input 1-3", "input 1, input 2, input 3"),
    ("sd15", "input 1 - 3", "input 1, input 2, input 3"),
    ("sd15", "input 3-3", "input 3"),
    ("sd15", "input 1, 3", "input 1, input 3"),
    ("sd15", "input 1; 3\n0", "input 0, input 1, input 3"),
    ("sd15", "input 1,, 3,", "input 1, input 3"),
    ("sd15", "input", "input 0, input 1, input 2, input 3"),
    ("sd15", "output 3, middle, input 0", "input 0, middle, output 3"),
    ("sd15", "output 3, 1-3, output 1", "output 1, output 2, output 3"),
    ("sd15", "input 3.0", "input 3.0"),
    ("sd15", "input 0-3.0", "input 1.0, input 3.0"),
    ("sd15", "middle.0", "middle.0"),
    ("sd15", "d0", "input 1"),
    ("sd15", "D1", "input 3"),
    ("sd15", "d 0-1", "input 1, input 3"),
    ("sd15", "m0", "middle"),
    ("sd15", "u0, 3", "output 0, output 3"),
    ("sdxl", "d0", "input 3"),
    ("sdxl", "d1", "input 5"),
    ("sdxl", "d", "input 3, input 5"),
    ("sdxl", "d1.0-1", "input 5.0, input 5.1"),
    ("sdxl", "m0.1", "middle.1"),
    ("sdxl", "input 5.1, input 5", "input 5"),
    ("sdxl", "input 5.1, 5.0, 5.1", "input 5.0, input 5.1"),
    ("sdxl", "u2-3", "output 2, output 3"),
    ("sd3", "1", "joint 1"),
    ("sd3", "2, 1", "joint 1, joint 2"),
    ("sd3", "joint 1-2", "joint 1, joint 2"),
    ("sd3", "double 1", "joint 1"),
    ("sd3", "double_blocks 1, 3", "joint 1, joint 3"),
    ("flux", "1", "double 1"),
    ("flux", "double 1-2, single 0, 3", "double 1, double 2, single 0, single 3"),
    ("flux", "single 3, double 1", "double 1, single 3"),
    ("flux", "single_blocks 3", "single 3"),
    ("flux", "double_block 2", "double 2"),
    ("chroma", "1, single 2", "double 1, single 2"),
    ("hunyuan_video", "double 2, single 0", "double 2, single 0"),
    ("aura_flow", "double 2, single_layers 0", "double 2, single 0"),
    ("lumina", "3", "layer 3"),
    ("lumina", "layers 0, double 3", "layer 0, layer 3"),
    ("lumina", "noise_refiner 0", "noise_refiner 0"),
    ("lumina", "noise refiners, context_refiner", "noise_refiner 0, context_refiner 0"),
    ("qwen_image", "transformer_blocks 1, double 2", "transformer 1, transformer 2"),
    ("wan", "blocks 1, double 2, 3", "block 1, block 2, block 3"),
    ("pixart", "block 0-1", "block 0, block 1"),
]


@pytest.mark.parametrize(("name", "text", "expected"), MEANINGS)
def test_meaning(name, text, expected, choose):
    assert ", ".join(choose(name, text)) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_all_is_every_block(architecture, blocks, networks):
    network = networks[architecture.name]
    chosen = blocks.choose(NODE, network, " ALL ", auto=[])
    expected = {}
    for attribute in architecture.blocks:
        module = network.module.get_submodule(attribute)
        # The middle is one block, though a list of layers itself.
        paths = [f"{attribute}.{i}" for i in range(len(module))]
        expected[GROUPS[attribute]] = [attribute] if attribute == "middle_block" else paths
    found = {}
    for block in chosen:
        found.setdefault(block.group, []).append(block.path)
    assert {group: found[group] for group in found if group not in REFINERS} == expected
    assert set(found) - set(expected) == (REFINERS if architecture.blocks == ("layers",) else set())
    # What an artist reads is what an artist can type.
    for block in chosen:
        assert blocks.choose(NODE, network, str(block), auto=[]) == [block]
    assert blocks.choose(NODE, network, blocks.summary(chosen), auto=[]) == chosen
    for block in chosen:
        module = network.module_of(block)
        assert any(module is m for m in network.module.modules())


def test_auto_is_what_the_node_says(choose, networks):
    auto = networks["flux"].groups["double"][1:3]
    assert choose("flux", "auto", auto=auto) == ["double 1", "double 2"]
    assert choose("flux", "Auto, single 0, 1, double 2", auto=auto) == [
        *("double 1", "double 2"),
        *("single 0", "single 1"),
    ]


def test_bare_number_after_auto_goes_on_with_what_was_before_it(choose, networks):
    auto = networks["flux"].groups["double"][:1]
    assert choose("flux", "single 1, auto, 2", auto=auto) == ["double 0", "single 1", "single 2"]
    assert choose("flux", "auto, 2", auto=auto) == ["double 0", "double 2"]


MISTAKES = [
    *("", "  ", ",", ",;\n"),  # nothing at all
    *("middel", "inptu 3", "double_layers_ 1", "joint", "m0", "d0", "single.0"),  # no such list
    *(
        "3-1",
        "3",
        "4",
        "0-3",
        "0-4",
        "single 2-4",
        "double 99",
        "single 4",
        "1" * 6,
        "1" * 5000,
    ),  # no such number
    *("1-", "-1", "1--2", "1 2", "1.5", "0x1", "1e3", "+1", "½", "²", "1-2-3"),  # no number
    *("all 1", "auto 2", "all.0", "auto.1-2", "double 1.0", "double 0-1.0-1"),
    *("double 1 single 2", "double/1", "double[1]", "double: 1", "*", "None", "%s", "{0}", "\x00"),
]


@pytest.mark.parametrize("text", MISTAKES, ids=lambda t: repr(t[:20]))
def test_mistake(text, refused):
    message = refused("flux", text)
    assert "double 0-2, single 0-3" in message
    assert ("got nothing" if not text.strip() else text.strip()) in message


@pytest.mark.parametrize(
    "text",
    ["1", "double 1", "input 4", "input 0.0", "input 1.1", "middle 1", "d2", "m1", "u4", "d0.1"],
)
def test_mistake_on_a_unet(text, refused):
    assert "input 0-3, middle, output 0-3" in refused("sd15", text)


def test_first_mistake_of_many_is_named(refused):
    assert "got 'singel 2'." in refused("flux", "double 1, singel 2, dubble 3")


def test_what_does_not_fit_is_left_out_of_a_range(choose, refused):
    def even(block):
        return block.index % 2 == 0

    fits = {"fits": even, "need": "something even"}
    assert choose("flux", "double 0-2, single 0-3", **fits) == [
        *("double 0", "double 2"),
        *("single 0", "single 2"),
    ]
    assert choose("flux", "all", **fits) == ["double 0", "double 2", "single 0", "single 2"]
    message = refused("flux", "double 1", **fits)
    assert "got 'double 1'" in message
    assert "blocks with something even that this model" in message
    assert "double 0, double 2, single 0, single 2" in message


@pytest.mark.parametrize("text", ["all", "auto", "double 1"])
def test_nothing_fits(text, refused, networks):
    auto = networks["flux"].groups["double"]
    message = refused("flux", text, fits=lambda block: False, need="wings", auto=auto)
    assert "a model with blocks with wings; this model (Flux) has none" in message


def test_random_text_is_read_or_refused(blocks, networks, pack):
    pieces = [
        *("input", "middle", "output", "double", "single", "joint", "layers", "blocks", "d", "m"),
        *("u", "all", "auto", "transformer_blocks", "noise_refiner", "Double", "block", "_", "s"),
        *("0", "1", "2", "3", "7", "12", "999", "-", "-", "-", ".", ".", ",", ",", ";", " ", " "),
        *("\n", "\t", "é", "٣", "²", "(", "'", "%d", "\\", "1-2", "0.0", "3-1", ", ", " - "),
    ]
    lists = ["input ", "middle", "output", "double ", "single_blocks", "joint", "d", "u", "", ""]
    numbers = ["0", "1", " 2", "0-1", "1 - 3", "2-1", "5", "0.0", "1-3.0", ".1", "", ""]
    draw = random.Random(5)
    read = 0
    for _ in range(4000):
        network = draw.choice(list(networks.values()))
        if draw.random() < 0.5:
            text = "".join(draw.choices(pieces, k=draw.randint(0, 8)))
        else:
            items = [draw.choice(lists) + draw.choice(numbers) for _ in range(draw.randint(1, 3))]
            text = draw.choice([",", ", ", ";", "\n"]).join(items)
        try:
            chosen = blocks.choose(NODE, network, text, auto=network.blocks[:1])
        except pack.guiders.errors.GuidanceError as error:
            assert str(error).startswith(f"{NODE}, input 'blocks': got ")
        else:
            read += 1
            assert chosen and len({block.path for block in chosen}) == len(chosen)
    assert 200 < read < 3800


def test_weights_of_blocks(blocks):
    model = unet(0)
    network = blocks.Network.of(model)
    state = model.model.state_dict()
    keys = network.weight_keys(model, blocks.choose(NODE, network, "input 1, middle", auto=[]))
    prefixes = ("diffusion_model.input_blocks.1.", "diffusion_model.middle_block.")
    assert keys == [key for key in state if key.startswith(prefixes)]
    assert any(key.startswith("diffusion_model.input_blocks.1.1.transformer") for key in keys)
    part = network.weight_keys(model, blocks.choose(NODE, network, "middle.0", auto=[]))
    assert part == [k for k in keys if ".middle_block.1.transformer_blocks.0." in k]


def test_summary(blocks, networks):
    network = networks["sdxl"]
    chosen = blocks.choose(NODE, network, "input 1-3, 5, middle, output 0.1, 2, 3", auto=[])
    assert blocks.summary(chosen) == "input 1-3, input 5, middle, output 0.1, output 2-3"
    assert blocks.summary([]) == ""


def linear(*children, **named):
    """A module with two matrices, which is enough for a block."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), *children)
    for name, child in named.items():
        module.add_module(name, child)
    return module


def network_of(language, **children):
    module = torch.nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return language.Network(module)


def listed(count=2):
    return torch.nn.ModuleList(linear() for _ in range(count))


def names(network):
    return [str(block) for block in network.blocks]


def test_network_without_blocks(blocks, pack):
    network = network_of(blocks, head=torch.nn.Linear(2, 2), few=torch.nn.ModuleList())
    assert names(network) == ["network 0"]
    assert network.depth(0.2, 0.5) == []
    model = SimpleNamespace(
        model=SimpleNamespace(state_dict=lambda: {"diffusion_model.head.weight": 1, "sigmas": 2})
    )
    assert network.weight_keys(model, network.blocks) == ["diffusion_model.head.weight"]
    for text in ("1", "double 1", "middle"):
        with pytest.raises(pack.guiders.errors.GuidanceError, match="network 0"):
            blocks.choose(NODE, network, text, auto=[])


def test_small_projections_are_no_blocks(blocks):
    network = network_of(
        blocks, heads=torch.nn.ModuleList([torch.nn.Linear(2, 2)] * 2), layers=listed(3)
    )
    assert names(network) == ["layer 0", "layer 1", "layer 2"]


def test_main_list_of_unknown_names_is_the_longest(blocks):
    network = network_of(blocks, Early_Stages=listed(2), late_stages=listed(3))
    assert network.main == "late_stages"
    texts = {"1": "late_stages 1", "early_stages 0": "early_stages 0", "double 2": "late_stages 2"}
    for text, expected in texts.items():
        (block,) = blocks.choose(NODE, network, text, auto=[])
        assert str(block) == expected


def test_two_lists_of_one_name_are_both_there(blocks):
    network = network_of(blocks, double_blocks=listed(2), double_layers=listed(1))
    assert names(network) == ["double 0", "double 1", "double_layers 0"]


def test_lists_further_down(blocks):
    """As in networks that keep their whole transformer in one module."""
    inner = torch.nn.Module()
    inner.add_module("layers", torch.nn.ModuleList(linear(sub=listed()) for _ in range(3)))
    network = network_of(blocks, transformer=inner, head=torch.nn.Linear(2, 2))
    assert names(network) == ["layer 0", "layer 1", "layer 2"]
    assert network.main == "layer"
    assert network.blocks[1].path == "transformer.layers.1"
    assert network.blocks[1].point == ("double_block", 1)


def test_blocks_in_a_dictionary(blocks):
    """Cosmos names its blocks."""
    network = network_of(blocks, blocks=torch.nn.ModuleDict({"block0": linear(), "a": linear()}))
    assert [block.path for block in network.blocks] == ["blocks.block0", "blocks.a"]
    assert names(network) == ["block 0", "block 1"]


def test_unet_without_a_middle(blocks):
    network = blocks.Network(sdxl(0, middle_depth=-2).model.diffusion_model)
    assert list(network.groups) == ["input", "output"]


def test_transformers_over_time_are_not_counted(blocks):
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
    network = blocks.Network(module)
    assert [b.path for b in network.transformers(network.groups["input"][0])] == [
        "input_blocks.0.1.transformer_blocks.0",
        "input_blocks.0.1.transformer_blocks.1",
    ]


# (start, end) of Stable Diffusion 3.5 medium, Wan 1.3B, and networks that are barely there.
@pytest.mark.parametrize(
    ("count", "expected"),
    [(24, [7, 8, 9]), (30, [9, 10, 11]), (4, [1]), (3, [1]), (2, [1]), (1, [0])],
)
def test_depth(count, expected, blocks):
    network = network_of(blocks, joint_blocks=listed(count))
    assert [block.index for block in network.depth(7 / 24, 10 / 24)] == expected
    assert network.depth(0, 1) == network.blocks
