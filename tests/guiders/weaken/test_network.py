"""The table of architectures, held against the networks themselves."""

from types import SimpleNamespace

import pytest
import torch

from support.small_models import sdxl, unet

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
