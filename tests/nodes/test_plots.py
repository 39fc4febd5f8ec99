"""Schedule Preview draws what a chain of schedules does, and nothing hides what it draws."""

import math

import numpy as np
import pytest
import torch
from PIL import ImageColor

from support.rig import Run, call, untouched
from support.small_models import sd3, unet

STEPS = 8


@pytest.fixture(scope="module")
def models():
    """A flow model, and one of noise levels up to 14.6."""
    return {"flow": sd3(0), "eps": unet(0)}


@pytest.fixture
def chain(comfy_nodes):
    """A schedule of a node with its defaults, some of them changed."""

    def chain(node_id, **inputs):
        return call(comfy_nodes[node_id], **untouched(comfy_nodes[node_id]) | inputs)[0]

    return chain


@pytest.fixture
def draw(comfy_nodes, models):
    """The image of the node, as an array of numbers from 0 to 255."""

    def draw(schedule, scale=3.0, model="flow", sigmas=None, language="English"):
        if sigmas is None:
            sigmas = Run.of(models[model], steps=STEPS).sigmas
        node = comfy_nodes["BadVersionGuidanceSchedulePreview"]
        (image,) = call(
            node,
            schedule=schedule,
            model=models[model],
            sigmas=sigmas,
            scale=scale,
            language=language,
        )
        assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
        assert image.dtype == torch.float32 and image.isfinite().all()
        assert image.min() >= 0 and image.max() <= 1
        return (255 * image[0]).round().numpy()

    return draw


@pytest.fixture
def plots(pack):
    return pack.nodes.plots


def rows(picture, across, colour, tolerance=40):
    """Where a column of the image has a colour."""
    column = picture[:, round(across)]
    return np.flatnonzero(np.abs(column - ImageColor.getrgb(colour)).max(axis=1) < tolerance)


def column(plots, place, steps=STEPS):
    """Across, where a place on the way from the first step to the last one is drawn."""
    left, _, right, _ = plots._BOX
    return left + place / steps * (right - left)


def heights(picture, plots, places, steps=STEPS):
    """How far down the curve lies at some places."""
    found = [rows(picture, column(plots, place, steps), plots.style.LINE) for place in places]
    assert all(len(each) for each in found), "no curve there"
    return np.array([each.mean() for each in found])


def points_of(sigmas, factors):
    levels = sigmas[: len(factors)].tolist()
    return ", ".join(f"{level!r}: {factor}" for level, factor in zip(levels, factors, strict=True))


@pytest.mark.parametrize("scale", [3.0, 1.5, 0.0, 100.0])
@pytest.mark.parametrize("model", ["flow", "eps"])
def test_curve_has_the_scale_of_each_step(model, scale, draw, chain, models, plots):
    """Heights that lie as far from each other as the factors do, the right way up."""
    factors = np.array([0.0, 2.0, 0.5, 1.0, -1.0, 1.5, 0.2, 0.7])
    sigmas = Run.of(models[model], steps=STEPS).sigmas
    text = points_of(sigmas, factors)
    picture = draw(chain("BadVersionGuidanceCurve", points=text, unit="sigma"), scale, model)
    down = heights(picture, plots, range(1, STEPS))
    way = np.sign(scale - 1)
    length = (down[3] - down[0]) / (2.0 - -1.0) * way
    assert length > 60
    expected = down[0] + way * length * (2.0 - factors[1:])
    assert np.abs(down - expected).max() < 2.5
    # A factor of 0 is a scale of 1, for which there is a line all across.
    (off,) = np.unique(np.round(heights(picture, plots, [0])))
    assert abs(off - (down[0] + way * length * 2.0)) < 2.5


def test_between_two_steps_the_curve_goes_on(draw, chain, models, plots):
    """As the schedule does, at sigmas between those of the steps."""
    sigmas = Run.of(models["eps"], steps=STEPS).sigmas
    ramp = chain("BadVersionGuidanceRamp", direction="falling", curve="linear", low=0.0, high=1.0)
    (schedule,) = ramp
    sampling = models["eps"].get_model_object("model_sampling")

    class Noise:
        @staticmethod
        def percent_of(sigma):
            low, high = 0.0, 1.0
            for _ in range(40):
                middle = (low + high) / 2
                above = float(sampling.percent_to_sigma(middle)) > sigma
                low, high = (middle, high) if above else (low, middle)
            return low

    places = np.arange(0.5, STEPS - 1)
    levels = np.interp(places, range(STEPS + 1), sigmas.numpy())
    factors = np.array([schedule.factor(float(level), Noise) for level in levels])
    down = heights(draw(ramp, 2.0, "eps"), plots, places)
    slope, start = np.polyfit(factors, down, 1)
    assert slope < -100
    assert np.abs(down - (start + slope * factors)).max() < 2


def test_interval_rises_and_falls_where_its_ends_are(draw, chain, models, plots):
    sigmas = Run.of(models["flow"], steps=STEPS).sigmas
    ends = {"unit": "sigma", "start": float(sigmas[2]), "end": float(sigmas[5])}
    picture = draw(chain("BadVersionGuidanceInterval", **ends))
    inside = heights(picture, plots, [2.3, 3.5, 4.7])
    outside = heights(picture, plots, [0.5, 1.6, 5.4, 7.5])
    assert np.ptp(inside) < 1 and np.ptp(outside) < 1
    assert outside.mean() - inside.mean() > 200
    # The dots are the steps themselves: of the first end one is on, of the second one it is off.
    for step, level in ((1, outside), (2, inside), (4, inside), (5, outside), (6, outside)):
        dot = rows(picture, column(plots, step) + 2, plots.style.LINE)
        assert len(dot) > 4 and abs(dot.mean() - level.mean()) < 1, f"step {step}"


def test_product_of_a_chain_is_drawn(draw, chain, models, plots):
    sigmas = Run.of(models["flow"], steps=STEPS).sigmas
    texts = [points_of(sigmas, [a] * 4 + [b] * 4) for a, b in ((1.0, 2.0), (2.0, 0.5), (2.0, 1.0))]
    settings = {"unit": "sigma", "interpolation": "steps"}
    one, two, both = (chain("BadVersionGuidanceCurve", points=text, **settings) for text in texts)
    np.testing.assert_array_equal(draw((*one, *two)), draw(both))


LIVE = {
    "BadVersionDynamicNegative": ({"floor": 0.2, "ceiling": 0.6}, (0.25, 1.5), 3.0),
    "BadVersionDistanceCalibrated": ({"cap": 4.0}, (0.0, 4.0), 1.0),
}


@pytest.mark.parametrize("name", LIVE)
def test_band_of_a_schedule_that_goes_by_the_picture(name, draw, chain, models, plots):
    """It reaches from the least scale to the greatest that may come, at every step."""
    inputs, (least, most), own = LIVE[name]
    sigmas = Run.of(models["flow"], steps=STEPS).sigmas
    factors = np.array([1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    curve = chain("BadVersionGuidanceCurve", points=points_of(sigmas, factors), unit="sigma")
    inputs = {"prior": 0.3, **inputs} if name == "BadVersionDynamicNegative" else inputs
    picture = draw(chain(name, **inputs, schedule=curve), scale=4.0)
    places = [1, 2, 3, 5]
    found = [rows(picture, column(plots, place), plots.style.LINE) for place in places]
    top, bottom = (np.array([f(each) for each in found], float) for f in (np.min, np.max))
    zero = (top[1] + bottom[1]) / 2  # Where the fixed schedule is off, there is no band.
    assert bottom[1] - top[1] < 12
    length = (zero - top[0]) / (own * most)
    middle = 4  # A dot reaches that far up and down.
    for at, factor in ((0, 1.0), (2, 0.5), (3, 1.0)):
        assert abs(top[at] - (zero - length * own * most * factor)) < middle + 3
        assert abs(bottom[at] - (zero - length * own * least * factor)) < middle + 3
    between = rows(picture, column(plots, 5.5), plots.style.BAND, 8)
    assert len(between) > 0.8 * (bottom[3] - top[3])
    assert len(rows(picture, column(plots, 2), plots.style.BAND, 8)) == 0


EXTREMES = {
    "one step": {"sigmas": torch.tensor([1.0, 0.0])},
    "a thousand steps": {"sigmas": torch.linspace(1, 0, 1001)},
    "off": {"scale": 1.0},
    "almost off": {"scale": 1.0001},
    "scale of 0": {"scale": 0.0},
    "scale of 100": {"scale": 100.0},
    "no fall": {"sigmas": torch.full((4,), 0.5)},
    "a restart": {"sigmas": torch.tensor([1.0, 0.5, 0.2, 0.6, 0.3, 0.0])},
    "tiny sigmas": {"sigmas": torch.tensor([1e-3, 1.234e-7, 1e-12, 1e-30, 0.0])},
    "huge sigmas": {"sigmas": torch.tensor([1e9, 12345678.0, 1e3, 0.0]), "model": "eps"},
    "eps": {"model": "eps"},
}


@pytest.fixture
def chains(chain):
    """One of each kind, and one that goes as far as can be."""
    up = chain("BadVersionGuidanceRamp", low=-10.0, high=10.0)
    return {
        "interval": chain("BadVersionGuidanceInterval"),
        "ramp": chain("BadVersionGuidanceRamp"),
        "constant": chain("BadVersionGuidanceCurve", points="0: 1"),
        "none": (),
        "dynamic": chain("BadVersionDynamicNegative", schedule=chain("BadVersionGuidanceInterval")),
        "calibrated": chain("BadVersionDistanceCalibrated"),
        "both": chain("BadVersionDistanceCalibrated", schedule=chain("BadVersionDynamicNegative")),
        "huge": chain("BadVersionGuidanceCurve", points="0: -100, 0.4: 75, 1: 100", schedule=up),
        "huge and live": chain("BadVersionDistanceCalibrated", cap=1000.0, schedule=up),
    }


CHAINS = ["interval", "ramp", "constant", "none", "dynamic", "calibrated", "both"]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", [*CHAINS, "huge", "huge and live"])
def test_anything_can_be_drawn(name, extreme, draw, chains, plots):
    """With a curve, and without a label that is cut off at the edge."""
    picture = draw(chains[name], **EXTREMES[extreme])
    line = np.abs(picture - ImageColor.getrgb(plots.style.LINE)).max(axis=2) < 40
    assert line.any(axis=0).sum() > 600, "the curve goes from left to right"
    paper = np.array(ImageColor.getrgb(plots.style.PAPER))
    for edge in (picture[:, 0], picture[:, -1], picture[0], picture[-1]):
        assert np.abs(edge - paper).max() < 4, "something is cut off"


def test_pictures_tell_schedules_apart(draw, chains):
    pictures = [draw(chains[name]) for name in chains]
    same = [
        (a, b)
        for a in range(len(pictures))
        for b in range(a)
        if np.array_equal(pictures[a], pictures[b])
    ]
    names = list(chains)
    assert [(names[a], names[b]) for a, b in same] == [("none", "constant")]


TICKS = [(0.5, 1.5), (0.0, 4.5), (-1e6, 1e6), (0.9, 1.1), (1.0, 100.0), (0.99999, 1.0001)]


@pytest.mark.parametrize("least, most", [*TICKS, (-12.5, 1.0)])
def test_every_line_across_has_a_number_of_its_own(least, most, plots):
    ticks = plots.ticks(*plots.axis(least, most, 0.1))
    assert 3 <= len(ticks) <= 7
    assert len({label for _, label in ticks}) == len(ticks)
    for value, label in ticks:
        assert math.isclose(value, float(label), rel_tol=1e-3, abs_tol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 9, 10, 17, 18, 19, 20, 28, 50, 1000])
def test_sigmas_below_do_not_touch(steps, draw, chain, plots):
    """Seen in the image itself: there is paper between any two of them."""
    sigmas = torch.cat([torch.linspace(0.9876, 0.1234, steps), torch.zeros(1)])
    picture = draw(chain("BadVersionGuidanceRamp"), sigmas=sigmas)
    below = plots._BOX[3]
    band = picture[below + 6 : below + 28]
    text = (np.abs(band - ImageColor.getrgb(plots.style.PAPER)).max(axis=2) > 60).any(axis=0)
    columns = np.flatnonzero(text)
    # Digits of one number stand nearer to each other than this.
    groups = 1 + (np.diff(columns) > 8).sum()
    assert groups == len(plots._sigma_labels(sigmas.numpy()))
    assert 2 <= groups <= plots._LABELS + 1


def test_words_are_in_the_language_that_is_asked_for(draw, chain, plots):
    """They alone differ: all of the plot itself is the same."""
    schedule = chain("BadVersionGuidanceRamp")
    english, chinese = (draw(schedule, language=each) for each in ("English", "中文"))
    differing = np.flatnonzero((english != chinese).any(axis=(1, 2)))
    _, top, _, bottom = (round(each) for each in plots._BOX)
    assert differing.min() < top and differing.max() > bottom + 24
    assert not ((differing >= top) & (differing <= bottom + 24)).any()
