"""What the nodes of the category "schedule" take, what they refuse, and in which words."""

import math
import random

import pytest
import torch

from support.rig import Run, call
from support.small_models import conditionings, unet

NODES = [
    "BadVersionGuidanceInterval",
    "BadVersionGuidanceRamp",
    "BadVersionGuidanceCurve",
    "BadVersionDynamicNegative",
    "BadVersionDistanceCalibrated",
]
DRAWS, SAMPLED = 200, 8  # per node

POINTS = [
    *("0: 1", "0: 0\n0.2: 1\n0.8: 1\n1: 0.5", "0:1,1:0", " 0.5 : -2 ;\n\n1 : 3", "0.5 2", "0: 1,"),
    *(
        "1: 0\n0: 1",
        ".5: .25",
        "0.: 1.",
        "1e-1: 1e1",
        "+0.5: +1",
        "0.3：2，0.6：1；1：0",
        "0: -100",
    ),
]
BROKEN_POINTS = [
    *("", "  \n ", ",;,", "1", "0: 1: 2", "0 1 2", "a: 1", "0: b", "0 = 1", "0: 1 0.5: 2"),
    *("-0.1: 1", "1.5: 1", "0: 101", "0: -100.1", "0: 1\n0: 2", "0: 1, 0.0: 1", "nan: 1", "0: inf"),
    *("0: 1e999", "1e5: 1", "0x1: 1", "0: 1%", "[0, 1]", "0: 1\x00", "0,5: 1", "–1: 1", "é: 1"),
]


@pytest.fixture(scope="module")
def models():
    return unet(0), unet(1)


@pytest.mark.parametrize("node_id", NODES)
def test_defaults_are_taken(node_id, node):
    assert len(node(node_id)) == 1


@pytest.mark.parametrize("node_id", NODES)
def test_chain_grows_at_its_end(node_id, node):
    first = node("BadVersionGuidanceInterval")
    chain = node(node_id, schedule=first)
    assert chain[:1] == first and chain[1:] == node(node_id)
    assert len(first) == 1


def numbers(comfy_nodes, node_id):
    return [w for w in comfy_nodes[node_id].define_schema().inputs if w.io_type == "FLOAT"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e9, 1e9])
@pytest.mark.parametrize("node_id", [*NODES, "BadVersionGuidanceSchedulePreview"])
def test_number_that_no_widget_lets_through(value, node_id, refused, comfy_nodes):
    given = {}
    if node_id == "BadVersionGuidanceSchedulePreview":
        given = {"schedule": (), "model": None, "sigmas": torch.ones(2)}
    for widget in numbers(comfy_nodes, node_id):
        came, expected = refused(node_id, widget.id, **given, **{widget.id: value})
        assert came == str(value)
        assert expected == f"a number from {widget.min:g} to {widget.max:g}."


@pytest.mark.parametrize("node_id", NODES)
def test_choice_that_is_none(node_id, refused, comfy_nodes):
    for widget in comfy_nodes[node_id].define_schema().inputs:
        if widget.io_type == "COMBO":
            came, expected = refused(node_id, widget.id, **{widget.id: "nonsense"})
            assert came == "'nonsense'"
            assert all(repr(option) in expected for option in widget.options)


@pytest.mark.parametrize(
    "unit, start, end, expected",
    [
        ("percent", 0.5, 0.5, "above 'start'"),
        ("percent", 0.9, 0.2, "above 'start'"),
        ("sigma", 1.0, 1.0, "below 'start', as sigma falls"),
        ("sigma", 0.3, 5.0, "below 'start', as sigma falls"),
    ],
)
def test_interval_that_is_empty(unit, start, end, expected, refused):
    came, wanted = refused("BadVersionGuidanceInterval", "end", unit=unit, start=start, end=end)
    assert came == f"{end:g} for a start at {start:g}"
    assert wanted == f"a number {expected}."


@pytest.mark.parametrize("name", ["start", "end"])
def test_interval_in_percent_ends_at_1(name, refused):
    """As somebody types who means sigmas, or 20 percent of 100."""
    came, expected = refused("BadVersionGuidanceInterval", name, unit="percent", **{name: 20.0})
    assert came == "20" and expected == "a share of sampling from 0 to 1, or unit 'sigma'."


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.6, 0.5), (1.0, 0.0)])
def test_ramp_that_has_no_length(start, end, refused):
    came, _ = refused("BadVersionGuidanceRamp", "end", start=start, end=end)
    assert came == f"{end:g} for a start at {start:g}"


@pytest.mark.parametrize("unit", ["percent", "sigma"])
@pytest.mark.parametrize("points", POINTS)
def test_points_that_can_be_read(points, unit, node):
    assert len(node("BadVersionGuidanceCurve", points=points, unit=unit)) == 1


@pytest.mark.parametrize("points", BROKEN_POINTS)
def test_points_that_cannot_be_read(points, refused):
    came, expected = refused("BadVersionGuidanceCurve", "points", points=points)
    assert came and expected


def test_part_that_cannot_be_read_is_quoted(refused):
    came, _ = refused("BadVersionGuidanceCurve", "points", points="0: 1\n0.5: two\n1: 3")
    assert came == "'0.5: two'"


def test_sigma_of_a_curve_may_be_above_1(node, refused):
    assert node("BadVersionGuidanceCurve", points="14.6: 0, 1: 1", unit="sigma")
    came, expected = refused("BadVersionGuidanceCurve", "points", points="14.6: 0, 1: 1")
    assert came == "the position 14.6" and expected == "a share of sampling from 0 to 1."
    came, expected = refused("BadVersionGuidanceCurve", "points", points="-1: 0", unit="sigma")
    assert came == "the position -1" and expected == "a sigma from 0 to 10000."


@pytest.mark.parametrize("points", ["1e999: 1", "0: 0, 1e400: 1"])
def test_sigma_of_a_curve_is_finite(points, refused):
    refused("BadVersionGuidanceCurve", "points", points=points, unit="sigma")


@pytest.mark.parametrize(
    "prior, floor, ceiling", [(0.01, 0.02, 0.8), (0.9, 1e-6, 0.8), (0.3, 1e-6, 0.1)]
)
def test_prior_out_of_its_own_bounds(prior, floor, ceiling, refused):
    bounds = {"prior": prior, "floor": floor, "ceiling": ceiling}
    came, expected = refused("BadVersionDynamicNegative", "prior", **bounds)
    assert came == f"{prior:g}"
    assert expected == f"a number from 'floor' {floor:g} to 'ceiling' {ceiling:g}."


def test_floor_above_the_ceiling(refused):
    """No prior could set this right."""
    refused("BadVersionDynamicNegative", "ceiling", prior=0.2, floor=0.5, ceiling=0.1)


@pytest.mark.parametrize("sigmas", [[], [1.0]])
def test_preview_without_a_step(sigmas, node, refused):
    given = {
        "schedule": node("BadVersionGuidanceRamp"),
        "model": None,
        "sigmas": torch.tensor(sigmas),
    }
    came, expected = refused("BadVersionGuidanceSchedulePreview", "sigmas", **given)
    assert came == f"{len(sigmas)} sigmas" and expected == "at least 2, which make one step."


@pytest.fixture
def draw(request, comfy_nodes):
    """Draw settings for a node, the same ones in every run; in three of four cases in bounds."""
    draw = random.Random(request.node.name)

    def value(widget):
        if widget.io_type == "COMBO":
            return draw.choice([*widget.options, *widget.options, "nonsense"])
        if widget.io_type == "BOOLEAN":
            return draw.choice([True, False])
        if widget.io_type == "STRING":
            return draw.choice(draw.choice([POINTS, POINTS, BROKEN_POINTS]))
        inside = [draw.uniform(widget.min, widget.max), draw.random(), widget.min, widget.max]
        outside = [widget.min - 1, widget.max + 1, math.nan, math.inf, -1e30]
        return draw.choice([*inside, widget.default] if draw.random() < 0.9 else outside)

    def setting(node_id):
        widgets = comfy_nodes[node_id].define_schema().inputs
        return {w.id: value(w) for w in widgets if hasattr(w, "default") and w.id != "schedule"}

    return setting


@pytest.mark.parametrize("node_id", NODES)
def test_any_setting_is_refused_or_gives_finite_factors(node_id, draw, models, comfy_nodes, pack):
    """At all sigmas of a model, its first and its last among them."""
    model, _ = models
    noise = pack.guiders.models.noise_of(model)
    display_name = comfy_nodes[node_id].define_schema().display_name
    taken = 0
    for _ in range(DRAWS):
        setting = draw(node_id)
        try:
            (schedule,) = call(comfy_nodes[node_id], **setting)[0]
        except pack.guiders.errors.GuidanceError as error:
            assert str(error).startswith(f"{display_name}, input '"), setting
            assert "Expected " in str(error), setting
            continue
        taken += 1
        if isinstance(schedule, pack.guiders.push.schedules.Fixed):
            levels = Run.of(model, steps=5).sigmas.tolist()
            assert all(math.isfinite(schedule.factor(level, noise)) for level in levels), setting
        else:
            least, most = schedule.range()
            assert 0 <= least <= most < math.inf, setting
    assert 0.05 * DRAWS < taken < 0.95 * DRAWS


@pytest.mark.parametrize("node_id", NODES)
def test_any_setting_that_is_taken_gives_a_finite_picture(node_id, draw, models, comfy_nodes, pack):
    """On either push, at scales that are usual; what is pushed by a hundred times is large."""
    (model, weak), (positive, negative) = models, conditionings
    run = Run.of(model, shape=(1, 4, 8, 8), steps=2)
    sampled = 0
    while sampled < SAMPLED:
        try:
            chain = call(comfy_nodes[node_id], **draw(node_id))[0]
        except pack.guiders.errors.GuidanceError:
            continue
        sampled += 1
        (guider,) = call(
            comfy_nodes["BadVersionGuider"],
            model=model,
            positive=positive,
            negative=negative,
            weak_model=weak,
            cfg=3.0,
            weak_scale=2.0,
            weak_schedule=chain,
            negative_schedule=chain,
        )
        assert run.sample(guider).isfinite().all(), chain
