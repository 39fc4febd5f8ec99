"""The language for blocks: what it means on every architecture, and what it says to mistakes."""

import random

import pytest

from support.small_models import ARCHITECTURES

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
def networks(pack):
    """The network of every architecture by name."""
    return {a.name: pack.guiders.weaken.network.Network.of(a.build(0)) for a in ARCHITECTURES}


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


def test_summary(blocks, networks):
    network = networks["sdxl"]
    chosen = blocks.choose(NODE, network, "input 1-3, 5, middle, output 0.1, 2, 3", auto=[])
    assert blocks.summary(chosen) == "input 1-3, input 5, middle, output 0.1, output 2-3"
    assert blocks.summary([]) == ""
