"""Guidance Plot draws what was recorded, and Save Guidance Record saves it."""

import csv
import itertools
import json
import math
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageColor

from support.rig import call, in_graph

CALLS = 7


@pytest.fixture
def make_probe(comfy_nodes):
    """The node in a graph, where it has a number."""

    def make_probe(name="a run"):
        return call(in_graph(comfy_nodes["BadVersionGuidanceProbe"], uuid.uuid4().hex), name=name)[
            0
        ]

    return make_probe


@pytest.fixture
def make_run(make_probe, pack):
    """A probe with one run of known numbers, and the run's latent."""
    Pushed = pack.guiders.push.call.Pushed

    def make_run(name="a run", pushes=("weak",), batch=1, seed=0, scales=None, calls=CALLS):
        generator = torch.Generator().manual_seed(seed)

        def draw():
            return torch.randn(batch, 4, 8, 8, generator=generator)

        probe, levels = make_probe(name), torch.linspace(1.0, 0.1, calls)
        recorder = probe.recorder(_latent_format())
        for step, level in enumerate(levels):
            C, at = draw(), {}
            guided = C
            for push in pushes:
                scale = float(2 + step % 3) if scales is None else scales[step]
                # More and more along the prediction.
                R = C - (draw() * level + C * step / calls)
                added = (scale - 1) * (C - R)
                guided = guided + added
                posterior = level.expand(batch) if push == "negative" else None
                at[push] = Pushed(scale - 1, R, added=added, posterior=posterior)
            recorder.call(level.expand(batch), C, guided, at)
        recorder.finish(latent := draw())
        return probe, {"samples": latent}

    return make_run


def _latent_format():
    import comfy.latent_formats

    return comfy.latent_formats.SD15()


@pytest.fixture
def draw(comfy_nodes):
    """The figure, as an array of numbers from 0 to 255."""

    def draw(probe, latent, view="everything", language="English", **others):
        node = comfy_nodes["BadVersionGuidancePlot"]
        inputs = {"latent": latent, "probe": probe, "view": view, "language": language}
        image, passed = call(node, **inputs, **others)
        assert passed is latent
        assert image.ndim == 4 and len(image) == 1 and image.shape[3] == 3
        assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
        return (255 * image[0]).round().numpy()

    return draw


def has_colour(picture, colour, tolerance):
    return np.abs(picture - ImageColor.getrgb(colour)).max(axis=2) < tolerance


def heights(picture, plots, colour, top, calls=CALLS):
    """How far up a curve runs at each of the model calls, in parts of the panel's height."""
    left, right = plots._LEFT, picture.shape[1] - plots._RIGHT
    drawn = has_colour(picture, colour, 40)
    found = []
    for place in np.linspace(left, right, calls):
        # A dot is as wide as high, which lines are not.
        widths = drawn[:, round(place) - 4 : round(place) + 5].sum(axis=1)
        widths[: round(top)] = 0
        assert widths.max() >= 7, f"no dot at {place}"
        found.append(np.flatnonzero(widths >= widths.max() - 1).mean())
    return np.array(found)


CURVES = {
    "scale": lambda record, push: push.scale,
    "push": lambda record, push: 100 * push.added / record.norm,
    "cosine": lambda record, push: push.cosine,
    "along": lambda record, push: push.parallel,
    "posterior": lambda record, push: push.posterior,
}


@pytest.mark.parametrize(
    ("view", "push"), [*itertools.product(CURVES, ["negative"]), ("push", "weak")]
)
def test_curves_run_as_high_as_the_numbers(make_run, draw, pack, view, push):
    """The numbers are tested against predictions elsewhere; here, the way from them to pixels."""
    plots = pack.nodes.probe_plots
    probe, latent = make_run(pushes=(push,))
    record = probe.record_of(latent["samples"])
    picture = draw(probe, latent, view)
    values = CURVES[view](record, record.pushes[push])[:, 0]
    colour = plots._OF_PUSH[push]
    top = picture.shape[0] - plots._BELOW - plots._PLOT_HEIGHT - 6
    rows = heights(picture, plots, colour, top)
    # Two of the values say where the axis is; the others must lie on it.
    low, high = values.argmin(), values.argmax()
    assert rows[low] > rows[high] + 20
    expected = np.interp(values, values[[low, high]], rows[[low, high]])
    np.testing.assert_allclose(rows, expected, atol=2.5)


def test_shift_is_the_mean_over_channels(make_run, draw, pack):
    plots = pack.nodes.probe_plots
    probe, latent = make_run()
    record = probe.record_of(latent["samples"])
    values = np.sqrt((record.mean_shift[:, 0] ** 2).mean(axis=1))
    picture = draw(probe, latent, "shift")
    top = picture.shape[0] - plots._BELOW - plots._PLOT_HEIGHT - 6
    rows = heights(picture, plots, plots._OF_MEAN, top)
    low, high = values.argmin(), values.argmax()
    expected = np.interp(values, values[[low, high]], rows[[low, high]])
    np.testing.assert_allclose(rows, expected, atol=2.5)


def test_band_goes_from_the_least_to_the_greatest_of_a_batch(make_run, draw, pack):
    plots = pack.nodes.probe_plots
    probe, latent = make_run(pushes=("negative",), batch=5)
    record = probe.record_of(latent["samples"])
    picture = draw(probe, latent, "cosine")
    band = plots._faint(plots._OF_PUSH["negative"])
    values = record.pushes["negative"].cosine
    spread = np.ptp(values, axis=1)
    assert spread[0] > 3 * spread[1]
    # Between the first two calls, where the band is far wider than the line above it.
    step = (picture.shape[1] - plots._LEFT - plots._RIGHT) / (CALLS - 1)
    parts = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    columns = np.round(plots._LEFT + parts * step).astype(int)
    drawn = [np.flatnonzero(column) for column in has_colour(picture, band, 12)[:, columns].T]
    wide = [np.ptp(rows) for rows in drawn] / (spread[0] + parts * (spread[1] - spread[0]))
    assert wide.max() / wide.min() < 1.1


def test_several_runs_stand_where_their_sigmas_are(make_run, draw, pack):
    """Of a run with twice the steps, every other dot lies where one of the first run does."""
    plots = pack.nodes.probe_plots
    one, its = make_run("one", scales=[2.0, 3.0, 4.0, 5.0], calls=4)
    two, other = make_run("two", scales=[2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5], calls=7)
    picture = draw(one, its, "scale", probe_2=two, latent_2=other)
    top = picture.shape[0] - plots._BELOW - plots._PLOT_HEIGHT - 6
    first = heights(picture, plots, plots.SERIES[0], top, calls=4)
    second = heights(picture, plots, plots.SERIES[1], top, calls=4)
    # A straight line each, the second one half a unit higher; a unit is a step of the first.
    unit = (first[0] - first[-1]) / 3
    np.testing.assert_allclose(np.diff(first), -unit, atol=2.5)
    np.testing.assert_allclose(first - second, unit / 2, atol=2.5)


VIEWS = ["everything", "scale", "push", "cosine", "along", "shift", "posterior", "thumbnails"]


@pytest.mark.parametrize("language", ["English", "中文"])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off(make_run, draw, pack, view, language):
    style = pack.nodes.drawing.style
    one, its = make_run(
        "a rather long name of a run 很长的名字", pushes=("weak", "negative"), batch=2
    )
    two, other = make_run("two", pushes=("negative",), seed=1)
    allowed = [np.array(ImageColor.getrgb(colour)) for colour in (style.PAPER, style.PANEL)]
    for others in ({}, {"probe_2": two, "latent_2": other}):
        picture = draw(one, its, view, language, **others)
        assert picture.shape[1] == (1536 if view in ("everything", "thumbnails") else 768)
        edges = (picture[:, :2], picture[:, -2:], picture[:2], picture[-2:])
        for edge in edges:
            off = np.min([np.abs(edge - colour).max(axis=2) for colour in allowed], axis=0)
            assert off.max() < 12, "something is cut off"


def test_languages_and_views_are_told_apart(make_run, draw):
    probe, latent = make_run(pushes=("weak", "negative"))
    pictures = [draw(probe, latent, view, lang) for view in VIEWS for lang in ("English", "中文")]
    assert len({(picture.shape, picture.tobytes()) for picture in pictures}) == len(pictures)


def test_posterior_that_nobody_has_is_said_so(make_run, draw):
    without = draw(*make_run(), "posterior")
    nothing = draw(*make_run(pushes=()), "scale")
    assert 0 < (without > 100).sum() < 0.05 * without.size
    # The title aside, the same.
    assert (without[100:] == nothing[100 : len(without)]).all()


def test_thumbnails_are_shown_as_the_vae_decodes_them(comfy_nodes, pack):
    probe_nodes = pack.nodes.probe
    (vae,) = call(comfy_nodes["VAELoader"], vae_name="digits_vae.safetensors")
    import comfy.latent_formats

    latents = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    latents[1] = float("nan")  # As where a push was off.
    latent_format = comfy.latent_formats.SD3()
    pictures = probe_nodes._images("Guidance Plot", latents, latent_format, vae)
    assert pictures.shape == (3, 64, 64, 3)
    assert np.isnan(pictures[1]).all()
    samples = {"samples": latent_format.process_out(latents[[0, 2]])}
    (expected,) = call(comfy_nodes["VAEDecode"], vae=vae, samples=samples)
    np.testing.assert_allclose(pictures[[0, 2]], expected.clamp(0, 1).numpy(), atol=1e-5)


def test_thumbnails_without_a_vae_are_those_of_previews(pack):
    import comfy.latent_formats

    latent_format = comfy.latent_formats.SD15()
    latents = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    pictures = pack.nodes.probe._images("Guidance Plot", latents, latent_format, None)
    factors = torch.tensor(latent_format.latent_rgb_factors)
    expected = ((latents.movedim(1, 3) @ factors + 1) / 2).clamp(0, 1)
    np.testing.assert_allclose(pictures, expected.numpy(), atol=1 / 255)


def test_latents_that_comfyui_cannot_preview_are_shown_in_grey(pack):
    import comfy.latent_formats

    latents = torch.arange(2 * 4 * 3 * 3.0).reshape(2, 4, 3, 3)
    pictures = pack.nodes.probe._images("Plot", latents, comfy.latent_formats.LatentFormat(), None)
    assert pictures.min() == 0 and pictures.max() == 1
    assert (pictures[..., 0] == pictures[..., 2]).all()


def test_video_is_decoded_as_video(pack):
    """Latents of videos have one dimension more, also where they are of one frame."""
    import comfy.latent_formats

    class Vae:
        latent_channels, latent_dim = 16, 3

        def decode(self, latents):
            self.given = latents
            return torch.zeros(len(latents), 1, 4, 4, 3)

    vae, latents = Vae(), torch.randn(2, 16, 3, 3)
    pictures = pack.nodes.probe._images("Plot", latents, comfy.latent_formats.Wan21(), vae)
    assert vae.given.shape == (2, 16, 1, 3, 3)
    assert pictures.shape == (2, 4, 4, 3)


def test_vae_of_another_model_is_refused(make_run, refused, comfy_nodes):
    probe, latent = make_run()
    (vae,) = call(comfy_nodes["VAELoader"], vae_name="digits_vae.safetensors")
    came, wanted = refused(
        "BadVersionGuidancePlot",
        "vae",
        latent=latent,
        probe=probe,
        view="thumbnails",
        language="English",
        vae=vae,
    )
    assert "16 channels" in came and "4 channels" in wanted


@pytest.mark.parametrize("node_id", ["BadVersionGuidancePlot", "BadVersionGuidanceRecord"])
def test_probe_that_recorded_nothing_is_refused(make_run, make_probe, refused, node_id):
    _, latent = make_run()
    widgets = {
        "BadVersionGuidancePlot": {"view": "everything", "language": "English"},
        "BadVersionGuidanceRecord": {"filename_prefix": "x"},
    }
    came, wanted = refused(
        node_id, "probe", latent=latent, probe=make_probe("idle"), **widgets[node_id]
    )
    assert "'idle'" in came and "Bad-Version Guider" in wanted


def test_second_probe_that_recorded_nothing_is_named(make_run, make_probe, refused):
    probe, latent = make_run()
    inputs = {"latent": latent, "probe": probe, "view": "scale", "language": "English"}
    _, wanted = refused("BadVersionGuidancePlot", "probe_3", **inputs, probe_3=make_probe())
    assert "'latent_3'" in wanted
    refused("BadVersionGuidancePlot", "latent_2", **inputs, latent_2=latent)


def test_unknown_view_is_refused(make_run, refused):
    probe, latent = make_run()
    refused(
        "BadVersionGuidancePlot", "view", latent=latent, probe=probe, view="all", language="English"
    )
    refused(
        "BadVersionGuidancePlot",
        "language",
        latent=latent,
        probe=probe,
        view="scale",
        language="de",
    )


@pytest.fixture
def save(comfy_nodes):
    """Save a record; the two files, and what is passed on."""
    import folder_paths

    def save(probe, latent, prefix="guidance/test"):
        output = Path(folder_paths.get_output_directory())
        before = {path for path in output.rglob("*") if path.is_file()}
        node = comfy_nodes["BadVersionGuidanceRecord"]
        (passed,) = call(node, latent=latent, probe=probe, filename_prefix=prefix)
        assert passed is latent
        files = sorted({path for path in output.rglob("*") if path.is_file()} - before)
        return [file.relative_to(output) for file in files], [file.read_bytes() for file in files]

    return save


def test_saved_files_hold_every_number(make_run, save):
    probe, latent = make_run("名字 é", pushes=("weak", "negative"), batch=2)
    record = probe.record_of(latent["samples"])
    names, (as_csv, as_json) = save(probe, latent, "guidance/all")
    assert [str(name) for name in names] == ["guidance/all_00001_.csv", "guidance/all_00001_.json"]
    saved = json.loads(as_json)
    assert saved["name"] == "名字 é"
    rows = list(csv.DictReader(as_csv.decode("utf-8-sig").splitlines()))
    assert [(row["call"], row["sample"]) for row in rows[:3]] == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
    ]
    assert len(rows) == 2 * CALLS

    def assert_column(name, expected):
        table = np.array(saved["columns"][name], float)  # null becomes NaN.
        np.testing.assert_allclose(table, expected, rtol=1e-8)
        numbers = [math.nan if row[name] == "" else float(row[name]) for row in rows]
        np.testing.assert_allclose(np.array(numbers).reshape(CALLS, 2), expected, rtol=1e-8)

    for name in ("sigma", "norm", "push"):
        assert_column(name, getattr(record, name))
    for name, push in record.pushes.items():
        for part in ("scale", "difference", "cosine", "parallel", "posterior"):
            assert_column(f"{name}_{part}", getattr(push, part))
        assert_column(f"{name}_push", push.added)
        assert_column(f"{name}_orthogonal", 1 - push.parallel)
    assert_column("pushes_cosine", record.cosine)
    for channel in range(4):
        assert_column(f"mean_shift_{channel}", record.mean_shift[:, :, channel])
        assert_column(f"std_shift_{channel}", record.std_shift[:, :, channel])
    assert len(saved["columns"]) == 3 + 2 * 7 + 1 + 2 * 4


def test_nothing_is_overwritten(make_run, save):
    probe, latent = make_run()
    (first, _), _ = save(probe, latent, "twice")
    (second, _), _ = save(probe, latent, "twice")
    assert (str(first), str(second)) == ("twice_00001_.csv", "twice_00002_.csv")


@pytest.mark.parametrize("prefix", ["../outside", "/etc/outside", "", "a/../../b"])
def test_files_outside_of_the_output_folder_are_refused(make_run, refused, prefix):
    probe, latent = make_run()
    came, _ = refused(
        "BadVersionGuidanceRecord",
        "filename_prefix",
        latent=latent,
        probe=probe,
        filename_prefix=prefix,
    )
    assert came == f"'{prefix}'"
