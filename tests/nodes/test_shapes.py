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
    *("BadVersionPerpNegShape", "BadVersionFrequencyShape", "BadVersionRegionShape"),
]
DRAWS, SAMPLED = 100, 4  # per node
# Grey from left to right.
MASK = torch.linspace(0, 1, 48).expand(1, 32, 48)


@pytest.fixture(scope="module")
def models():
    return unet(0), unet(1)


def widgets_of(node):
    """Those that hold a value; the others are sockets."""
    return [w for w in node.define_schema().inputs if w.io_type in ("FLOAT", "INT", "COMBO")]


@pytest.fixture
def node(node):
    """The same, with what two nodes cannot do without."""
    needed = {
        "BadVersionPerpNegShape": {"empty": conditionings[1]},
        "BadVersionRegionShape": {"mask": MASK},
    }
    return lambda node_id, **inputs: node(node_id, **needed.get(node_id, {}) | inputs)


@pytest.mark.parametrize("node_id", NODES)
def test_chain_grows_at_its_end(node_id, node):
    first = node("BadVersionCapShape")
    chain = node(node_id, shape=first)
    (alone,) = node(node_id)
    assert chain[:1] == first and len(chain) == 2 and len(first) == 1
    # Not by ==, which a mask does not know.
    assert type(chain[1]) is type(alone) and repr(chain[1]) == repr(alone)


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


@pytest.mark.parametrize(
    "mask",
    [MASK[0], MASK[:, None], MASK.expand(3, -1, -1), MASK > 0.5, (255 * MASK).byte(), MASK.half()],
    ids=["alone", "with a channel", "batch", "yes or no", "bytes", "half"],
)
def test_masks_that_other_packs_make(mask, node):
    (shape,) = node("BadVersionRegionShape", mask=mask)
    assert shape.mask.is_floating_point() and shape.mask.shape[1:] == (32, 48)
    assert torch.equal(shape.mask, mask.reshape(-1, 32, 48).to(shape.mask.dtype))


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (torch.ones(5), r"a tensor of the shape (5,)"),
        (torch.ones(1, 3, 8, 8), "a tensor of the shape (1, 3, 8, 8)"),
        (torch.ones(1, 1, 2, 8, 8), "a tensor of the shape (1, 1, 2, 8, 8)"),
        (torch.ones(0, 8, 8), "a tensor of the shape (0, 8, 8)"),
        (torch.ones(1, 0, 8), "a tensor of the shape (1, 0, 8)"),
        (torch.tensor(0.5), "a tensor of the shape ()"),
        ([1.0], "list"),
        (torch.full((1, 8, 8), math.nan), "a mask with NaN or infinite values"),
        (torch.full((8, 8), math.inf), "a mask with NaN or infinite values"),
    ],
)
def test_masks_that_are_none(mask, named, refused):
    came, _ = refused("BadVersionRegionShape", "mask", mask=mask)
    assert came == named


@pytest.mark.parametrize(("outside", "said"), [(0.0, True), (0.3, False)])
def test_mask_without_any_white_is_told_of(outside, said, node, caplog):
    """It is no error: a detector may find no hands in an image."""
    node("BadVersionRegionShape", mask=torch.zeros(1, 8, 8), outside=outside)
    told = [each.getMessage() for each in caplog.records]
    assert [text.startswith("Region Shape, input 'mask': it is black") for text in told] == (
        [True] if said else []
    )


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
