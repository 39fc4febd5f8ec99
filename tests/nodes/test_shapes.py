"""What the nodes of the category "shape" take, what they refuse, and in which words."""

import math
import random

import pytest
import torch

from support.rig import Run, call
from support.small_models import conditionings, unet

NODES = [
    *(
        "BadVersionProjectedShape",
        "BadVersionRejectShape",
        "BadVersionCapShape",
        "BadVersionRescaleShape",
        "BadVersionZeroStarShape",
    ),
    *("BadVersionPerpNegShape", "BadVersionFrequencyShape"),
]
DRAWS, SAMPLED = 100, 4  # per node


@pytest.fixture(scope="module")
def models():
    return unet(0), unet(1)


def widgets_of(node):
    """Those that hold a value; the others are sockets."""
    return [w for w in node.define_schema().inputs if w.io_type in ("FLOAT", "INT", "COMBO")]


@pytest.fixture
def node(node):
    """The same, with an empty prompt for the node that needs one."""
    empty = {"BadVersionPerpNegShape": {"empty": conditionings[1]}}
    return lambda node_id, **inputs: node(node_id, **empty.get(node_id, {}) | inputs)


@pytest.mark.parametrize("node_id", NODES)
def test_chain_grows_at_its_end(node_id, node):
    first = node("BadVersionCapShape")
    chain = node(node_id, shape=first)
    assert chain[:1] == first and chain[1:] == node(node_id)
    assert len(first) == 1


@pytest.mark.parametrize("node_id", NODES)
def test_shape_goes_by_the_name_of_its_node(node_id, node, comfy_nodes):
    """Errors of a run name it."""
    (shape,) = node(node_id)
    assert shape.node == comfy_nodes[node_id].define_schema().display_name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e9, 1e9])
@pytest.mark.parametrize(
    "node_id", [n for n in NODES if n not in ("BadVersionRejectShape", "BadVersionZeroStarShape")]
)
def test_number_that_no_widget_lets_through(value, node_id, refused, comfy_nodes):
    for widget in widgets_of(comfy_nodes[node_id]):
        if widget.io_type != "COMBO":
            came, expected = refused(node_id, widget.id, **{widget.id: value})
            assert came == str(value)
            assert expected == f"a number from {widget.min:g} to {widget.max:g}."


@pytest.mark.parametrize(
    "node_id, name", [("BadVersionRejectShape", "keep"), ("BadVersionCapShape", "relative_to")]
)
def test_choice_that_is_none(node_id, name, refused):
    came, expected = refused(node_id, name, **{name: "nonsense"})
    assert came == "'nonsense'" and " or '" in expected


def test_only_shapes_that_compare_need_the_other_push(node):
    need = {node_id for node_id in NODES if node(node_id)[0].needs_other_push}
    assert need == {"BadVersionRejectShape", "BadVersionCapShape"}
    assert not node("BadVersionCapShape", relative_to="number")[0].needs_other_push


@pytest.fixture
def draw(request, comfy_nodes):
    """Draw settings for a node, the same ones in every run; most of them in bounds."""
    draw = random.Random(request.node.name)

    def value(widget):
        if widget.io_type == "COMBO":
            return draw.choice([*widget.options, *widget.options, "nonsense"])
        inside = [draw.uniform(widget.min, widget.max), widget.min, widget.max, widget.default]
        outside = [widget.min - 1, widget.max + 1, math.nan, math.inf, -1e30]
        if widget.io_type == "INT":
            return int(draw.choice(inside if draw.random() < 0.8 else outside[:2]))
        return draw.choice(inside if draw.random() < 0.8 else outside)

    def setting(node_id):
        return {w.id: value(w) for w in widgets_of(comfy_nodes[node_id])}

    return setting


@pytest.mark.parametrize("node_id", [n for n in NODES if n != "BadVersionZeroStarShape"])
def test_any_setting_is_taken_or_refused(node_id, draw, node, comfy_nodes, pack):
    widgets = widgets_of(comfy_nodes[node_id])
    display_name = comfy_nodes[node_id].define_schema().display_name

    def fits(widget, value):
        if widget.io_type == "COMBO":
            return value in widget.options
        return widget.min <= value <= widget.max

    taken = 0
    for _ in range(DRAWS):
        setting = draw(node_id)
        try:
            node(node_id, **setting)
        except pack.guiders.errors.GuidanceError as error:
            assert str(error).startswith(f"{display_name}, input '"), setting
            assert not all(fits(w, setting[w.id]) for w in widgets), setting
        else:
            taken += 1
            assert all(fits(w, setting[w.id]) for w in widgets), setting
    assert 0.05 * DRAWS < taken < 0.95 * DRAWS


@pytest.mark.parametrize("node_id", NODES)
def test_any_setting_that_is_taken_gives_a_finite_picture(node_id, draw, node, models, pack):
    """Behind any other shape, on both pushes."""
    (model, weak), (positive, negative) = models, conditionings
    run = Run.of(model, shape=(1, 4, 8, 6), steps=2)
    others = random.Random(node_id)
    sampled = 0
    while sampled < SAMPLED:
        try:
            before = node(others.choice(NODES))
            chain = node(node_id, **draw(node_id), shape=before)
        except pack.guiders.errors.GuidanceError:
            continue
        sampled += 1
        (guider,) = call(
            pack.nodes.guidance.BadVersionGuider,
            model=model,
            positive=positive,
            negative=negative,
            weak_model=weak,
            cfg=3.0,
            weak_scale=2.0,
            weak_shape=chain,
            negative_shape=chain,
        )
        assert run.sample(guider).isfinite().all(), chain


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3)])
def test_frequencies_of_a_tiny_picture(size, node, pack):
    """As many octaves as there may be, down to a single pixel and below."""
    (shape,) = node("BadVersionFrequencyShape", levels=8)
    running = shape.start(pack.guiders.push.noise.Noise(True, lambda percent: 1 - percent))
    delta = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    assert running(delta, None, 1.0).isfinite().all()
