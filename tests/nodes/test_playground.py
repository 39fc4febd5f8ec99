"""Guidance Playground draws what was computed, prints what was measured, and can be stopped."""

import re
import sys

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from PIL import ImageColor

from comfyui.install import ROOT
from support.rig import call, untouched

METHODS = ["unguided", "classifier_free", "negative", "bad_version", "dynamic_negative"]
PANELS = 6


@pytest.fixture(scope="module")
def playground(pack):
    return sys.modules[f"{pack.__name__}.playground"]


@pytest.fixture(scope="module")
def plots(pack):
    return pack.nodes.playground_plots


@pytest.fixture
def node(comfy_nodes):
    """Call a node by its id with its own defaults, some of them changed."""

    def node(node_id, **inputs):
        return call(comfy_nodes[node_id], **untouched(comfy_nodes[node_id]) | inputs)

    return node


@pytest.fixture
def draw(node, playground, monkeypatch):
    """Figure and frames of the playground; with fewer points than an artist gets."""

    def draw(measured=200, **inputs):
        with monkeypatch.context() as patched:
            patched.setattr(playground.scenes, "MEASURED", measured)
            image, frames = node("BadVersionGuidancePlayground", **{"samples": 50} | inputs)
        for batch in (image, frames):
            assert batch.ndim == 4 and batch.shape[3] == 3 and batch.dtype == torch.float32
            assert batch.isfinite().all() and batch.min() >= 0 and batch.max() <= 1
        assert len(image) == 1
        return image, frames

    return draw


@pytest.fixture
def drawn(draw, plots, monkeypatch):
    """What is drawn with some inputs: each call of the canvas, by name."""

    def drawn(**inputs):
        calls = []
        with monkeypatch.context() as patched:
            for name in ("text", "paste", "dots", "arrows", "lines"):
                original = getattr(plots.Canvas, name)

                def recorded(canvas, *args, _name=name, _original=original):
                    calls.append((_name, canvas, args))
                    return _original(canvas, *args)

                patched.setattr(plots.Canvas, name, recorded)
            draw(**inputs)
        return calls

    return drawn


def texts(calls):
    return [args[1] for name, _, args in calls if name == "text"]


def panels(calls, name):
    """The calls of one name after each image of the plane, with the box of that image."""
    found = []
    for each, _, args in calls:
        if each == "paste":
            found.append((args[0], []))
        elif each == name and found:
            found[-1][1].append(args)
    return found


def plane(box, window, places):
    """Where places on the canvas lie in the plane, a panel showing a part of it."""
    left, top, right, bottom = box
    x = window[0] + (places[:, 0] - left) / (right - left) * (window[1] - window[0])
    y = window[3] - (places[:, 1] - top) / (bottom - top) * (window[3] - window[2])
    return np.stack([x, y], axis=1)


def test_printed_figures_are_those_of_the_methods(drawn, playground):
    """Measured apart from the node, on other objects."""
    methods, sampling = playground.methods, playground.sampling
    settings = methods.Settings(cfg=1.7, weak_scale=2.4)
    models = methods.models()
    ruler = playground.measures.Ruler(playground.distribution.world(), methods.WANTED)
    printed = [
        [float(number) for number in re.findall(r"\d+\.\d+", text)]
        for text in texts(drawn(cfg=1.7, weak_scale=2.4, seed=5, measured=4000))
        if text.startswith("outliers") and "%" in text
    ]
    assert len(printed) == PANELS
    for method, (outliers, coverage) in zip(METHODS, printed[1:], strict=True):
        pushes = getattr(methods, method)(models, settings)
        ends = sampling.sample(models.main, methods.WANTED, pushes, 4000, seed=5).ends
        assert abs(outliers - 100 * ruler.outliers(ends)) <= 0.0501
        assert abs(coverage - ruler.coverage(ends)) <= 0.00501
    (outliers, coverage) = printed[0]
    assert outliers < 2 and abs(coverage - 1) < 0.02


def test_titles_name_the_scales(drawn):
    shown = texts(drawn(cfg=1.25, weak_scale=3.5))
    assert sum("cfg 1.25" in text for text in shown) == 3
    assert sum("weak_scale 3.5" in text for text in shown) == 1


def test_points_paths_and_pushes_lie_where_they_were_computed(drawn, playground, plots):
    methods = playground.methods
    models = methods.models()
    pushes = methods.bad_version(models, methods.Settings(2.0, 2.0))
    paths = playground.sampling.sample(models.main, methods.WANTED, pushes, 1000, seed=0)
    calls = drawn(measured=1000, samples=300)
    number = 1 + METHODS.index("bad_version")

    box, (inside, outside) = panels(calls, "dots")[number]
    shown = [plane(box, plots._WHOLE, np.asarray(args[0])) for args in (inside, outside)]
    ends = paths.ends[:300].numpy()
    distance = np.abs(np.concatenate(shown)[:, None] - ends).max(2)
    assert len(np.concatenate(shown)) == 300
    assert distance.min(0).max() < 1e-4 and distance.min(1).max() < 1e-4
    outliers = playground.scenes.ruler().outside(torch.from_numpy(shown[1]))
    assert outliers.all()

    box, ((ways, *_),) = panels(calls, "lines")[number]
    for way, points in zip(ways, paths.points.unbind(1), strict=False):
        np.testing.assert_allclose(plane(box, plots._WHOLE, way), points, atol=1e-4)

    box, ((starts, ends, *_),) = panels(calls, "arrows")[number]
    starts, ends = (plane(box, plots._WHOLE, each) for each in (starts, ends))
    for start, arrow in zip(starts, ends - starts, strict=True):
        step, point = divmod(
            int(np.abs(paths.points.numpy() - start).max(2).argmin()), paths.points.shape[1]
        )
        push = paths.pushes[step, point].numpy()
        cosine = push @ arrow / np.linalg.norm(push) / np.linalg.norm(arrow)
        assert cosine > 0.999


def test_a_sample_is_a_dot_in_the_picture(draw, playground, plots):
    """Of a single point of the truth, the colour lies at its place and nowhere else."""
    image, _ = draw(samples=1)
    world, wanted = playground.distribution.world(), playground.methods.WANTED
    point = world.sample(200, wanted, torch.Generator().manual_seed(0))[0]
    width = (plots._WIDTH - 2 * plots._MARGIN - 2 * plots._GAP) / 3
    height = round(width * plots._aspect(plots._WHOLE))
    left, top = plots._MARGIN, plots._MARGIN + 1.1 * plots._ROW
    panel = image[0, round(top) : round(top + height), round(left) : round(left + width)]
    colour = torch.tensor(ImageColor.getrgb(plots._POINT)) / 255
    down, across = (((panel - colour).abs().amax(2) < 0.3).nonzero().T).double()
    assert 1 <= len(across) <= 12
    low, high, lower, upper = plots._WHOLE
    x = low + (across.mean() + 0.5) / width * (high - low)
    y = upper - (down.mean() + 0.5) / height * (upper - lower)
    assert abs(x - point[0]) < 0.012 and abs(y - point[1]) < 0.012


def test_fields_are_differences_of_predictions(drawn, playground, plots):
    methods, scenes = playground.methods, playground.scenes
    models = methods.models()
    calls = drawn(page="how it works", cfg=3.0, weak_scale=1.5)
    arrows = panels(calls, "arrows")
    printed = [float(text.split()[-1]) for text in texts(calls) if text.startswith("mean")]
    assert len(arrows) == 8
    for row, sigma in enumerate(scenes.POINTS):
        fields = scenes.fields(methods.Settings(3.0, 1.5), sigma, (0.0, 0.0))
        x = fields.places
        levels, labels = torch.full((len(x),), sigma), torch.zeros(len(x), dtype=torch.long)
        C, N = (models.main(x, levels, each) for each in (labels, labels + 1))
        W = models.weak(x, levels, labels)
        for column, way in enumerate((C - x, 2 * (C - N), 0.5 * (C - W)), start=1):
            box, ((starts, ends, *_),) = arrows[2 * column + row]
            starts, ends = (plane(box, scenes.FIELD, each) for each in (starts, ends))
            np.testing.assert_allclose((starts + ends) / 2, x, atol=1e-4)
            shown, way = ends - starts, way.numpy()
            length = np.linalg.norm(way, axis=1)
            # As long as they are, but for the longest ones.
            factor = np.minimum(1, np.quantile(length, 0.9) / length) * scenes.SPACING
            expected = way / np.quantile(length, 0.9) * (factor / scenes.SPACING)[:, None]
            np.testing.assert_allclose(shown / scenes.SPACING, expected, atol=2e-3)
            assert abs(printed[2 * (column - 1) + row] - length.mean()) < 0.00051


def test_the_point_has_its_predictions_around_it(drawn, playground, plots):
    """A letter and a dot for each, and the guided one where both pushes lead."""
    methods, scenes = playground.methods, playground.scenes
    models = methods.models()
    sigma, point = next(iter(scenes.POINTS.items()))
    box, dots = panels(drawn(page="how it works"), "dots")[0]
    reach = plots._REACH * sigma
    aspect = (box[3] - box[1]) / (box[2] - box[0])
    window = (point[0] - reach, point[0] + reach)
    window += (point[1] - reach * aspect, point[1] + reach * aspect)
    places = np.concatenate([plane(box, window, np.asarray(args[0])) for args in dots])
    x, level = torch.tensor([point]), torch.tensor([sigma])
    C, N = (models.main(x, level, torch.tensor([label])) for label in (0, 1))
    W = models.weak(x, level, torch.tensor([0]))
    expected = torch.cat([x, C, N, W, C + (C - N) + (C - W)])
    np.testing.assert_allclose(places, expected, atol=1e-4)


def test_a_schedule_that_is_off_leaves_no_guidance(drawn, node):
    (schedule,) = node("BadVersionGuidanceCurve", points="0: 0")
    figures = [text for text in texts(drawn(schedule=schedule)) if text.startswith("outliers")]
    assert len(figures) == PANELS and len(set(figures[1:])) == 1


def test_a_shape_changes_every_push(drawn, node):
    (shape,) = node("BadVersionCapShape", relative_to="number", limit=0.001)
    plain, capped = (
        [text for text in texts(drawn(shape=each)) if text.startswith("outliers")]
        for each in ((), shape)
    )
    assert plain[:2] == capped[:2]
    assert all(a != b for a, b in zip(plain[2:], capped[2:], strict=True))
    (outliers,) = re.findall(r"(\d+\.\d) %", capped[1 + METHODS.index("negative")])
    assert float(outliers) < 30


@pytest.mark.parametrize(
    "schedule",
    [
        "BadVersionGuidanceInterval",
        "BadVersionGuidanceRamp",
        "BadVersionDynamicNegative",
        "BadVersionDistanceCalibrated",
    ],
)
def test_every_schedule_fits(draw, node, schedule):
    draw(schedule=node(schedule)[0])


@pytest.mark.parametrize(
    "shape", ["BadVersionProjectedShape", "BadVersionRescaleShape", "BadVersionZeroStarShape"]
)
def test_every_shape_of_one_push_fits(draw, node, shape):
    draw(shape=node(shape)[0])


def test_perp_neg_takes_the_empty_prompt_of_this_world(draw, node):
    (shape,) = node("BadVersionPerpNegShape", empty=[])
    image, _ = draw(shape=shape)
    assert not torch.equal(image, draw()[0])


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ("BadVersionRejectShape", {}),
        ("BadVersionCapShape", {"relative_to": "other push"}),
        ("BadVersionFrequencyShape", {}),
        ("BadVersionRegionShape", {"mask": torch.ones(1, 8, 8)}),
    ],
)
def test_shapes_that_cannot_work_on_points_are_refused(refused, node, comfy_nodes, shape, inputs):
    (chain,) = node(shape, **inputs)
    came, _ = refused("BadVersionGuidancePlayground", "shape", shape=chain)
    assert comfy_nodes[shape].define_schema().display_name in came


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", "all"),
        ("cfg", -0.1),
        ("weak_scale", 100.5),
        ("samples", 0),
        ("samples", 4001),
        ("seed", -1),
        ("animation", 61),
        ("language", "Klingon"),
    ],
)
def test_values_that_the_widgets_would_not_take_are_refused(refused, name, value):
    came, _ = refused("BadVersionGuidancePlayground", name, **{name: value})
    assert str(value) in came


@pytest.mark.parametrize("page", ["methods", "how it works"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_any_scale_can_be_drawn(draw, page, scale):
    draw(page=page, cfg=scale, weak_scale=scale)


@pytest.mark.parametrize("language", ["English", "中文"])
@pytest.mark.parametrize("page", ["methods", "how it works"])
def test_words_are_of_the_language_and_stay_on_the_paper(drawn, plots, page, language):
    calls = drawn(page=page, language=language, cfg=12.55, weak_scale=12.55)
    for name, canvas, args in calls:
        if name != "text":
            continue
        (across, down), text, size, anchor = args[:4]
        width, height = plots.text_size(text, size)
        left = across - width * {"l": 0, "m": 0.5, "r": 1}[anchor[0]]
        assert left >= 0 and left + width <= canvas.width, text
        assert 0 <= down <= canvas.height - height / 2, text
        if len(text) > 2 and not text.startswith("σ"):
            assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "中文"), text


def test_language_changes_nothing_but_the_words(drawn):
    both = [drawn(language=language) for language in ("English", "中文")]
    for name in ("dots", "arrows", "lines"):
        one, other = ([args for _, args in panels(calls, name)][:PANELS] for calls in both)
        for a, b in zip(one[:-1], other[:-1], strict=True):
            assert len(a) == len(b)
            for c, d in zip(a, b, strict=True):
                np.testing.assert_array_equal(np.asarray(c[0]), np.asarray(d[0]))


def test_an_animation_ends_with_the_figure(draw):
    image, frames = draw(animation=3)
    assert frames.shape == (3, *image.shape[1:])
    assert torch.equal(frames[2], image[0])
    assert not torch.equal(frames[0], frames[1])
    image, frames = draw()
    assert torch.equal(frames, image)


def test_an_animation_of_fields_goes_down_in_noise(drawn, draw):
    _, frames = draw(page="how it works", animation=3)
    assert len(frames) == 3
    levels = [
        float(text[2:]) for text in texts(drawn(page="how it works", animation=3)) if text[0] == "σ"
    ]
    assert len(levels) == 5 and levels[2:] == sorted(levels[2:], reverse=True)
    assert len(set(levels[2:])) == 3


def test_seed_and_count_of_samples(draw):
    image, _ = draw(seed=1, samples=100)
    assert torch.equal(image, draw(seed=1, samples=100)[0])
    assert not torch.equal(image, draw(seed=2, samples=100)[0])
    assert not torch.equal(image, draw(seed=1, samples=101)[0])
    draw(seed=2**64 - 1, samples=1)


@pytest.mark.parametrize("page", ["methods", "how it works"])
def test_it_counts_its_steps_and_can_be_cancelled(draw, monkeypatch, page):
    counted = []

    def hook(value, total, preview, **_):
        counted.append((value, total))
        if len(counted) == stop_at:
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    # Releases after 0.3.75 show only some of the steps.
    for least in ("INTERVAL", "PERCENT"):
        monkeypatch.setattr(comfy.utils, f"PROGRESS_THROTTLE_MIN_{least}", 0, raising=False)
    stop_at = 0
    draw(page=page, animation=2)
    value, total = counted[-1]
    assert value == total == len(counted)

    counted.clear()
    stop_at = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(page=page, animation=2)
    assert len(counted) == 2
    assert not comfy.model_management.processing_interrupted()


def test_help_names_the_figures_of_the_defaults(playground):
    docs = ROOT / "web" / "docs"
    pages = [
        docs / "BadVersionGuidancePlayground.md",
        docs / "BadVersionGuidancePlayground" / "zh.md",
    ]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    results = playground.scenes.compare(playground.methods.Settings(2.0, 2.0), 0)
    found = {each.method: (each.outliers, each.coverage) for each in results}
    for method, outliers in (("unguided", 10), ("bad_version", 3)):
        assert all(f"{outliers} %" in text for text in texts)
        assert abs(100 * found[method][0] - outliers) < 1
    for method, coverage in (("classifier_free", 0.84), ("bad_version", 0.9)):
        assert all(f"{coverage}" in text for text in texts)
        assert abs(found[method][1] - coverage) < 0.01
