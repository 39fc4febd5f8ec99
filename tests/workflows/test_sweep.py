"""Guidance Sweep and Labelled Grid in prompts that a real server executes."""

import io
import itertools

import pytest
from PIL import Image

from comfyui.server import NodeError

pytestmark = pytest.mark.server

SCALES, SEEDS = (1.0, 3.0), (5, 6)


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def advanced(scale, seed, weak_model=None, schedule=None):
    """A digit by SamplerCustomAdvanced; what is None is not connected."""
    connected = {"weak_model": weak_model, "weak_schedule": schedule}
    return {
        "guider": node(
            "BadVersionGuider",
            model=["main", 0],
            positive=["positive", 0],
            cfg=1.0,
            weak_scale=scale,
            **{name: link for name, link in connected.items() if link is not None},
        ),
        "noise": node("RandomNoise", noise_seed=seed),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node(
            "BasicScheduler", model=["main", 0], scheduler="simple", steps=4, denoise=1.0
        ),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
    }


def ksampler(scale, seed, weak_model=None, schedule=None):
    """A digit by KSampler; what is None is not connected."""
    connected = {"weak_model": weak_model, "weak_schedule": schedule}
    return {
        "patch": node(
            "BadVersionPatch",
            model=["main", 0],
            weak_scale=scale,
            **{name: link for name, link in connected.items() if link is not None},
        ),
        "sample": node(
            "KSampler",
            model=["patch", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=4,
            cfg=2.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
    }


def prompt(sampled, **others):
    """A prompt of the API that saves what is sampled."""
    return {
        "main": node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default"),
        "weak": node("UNETLoader", unet_name="digits_weak.safetensors", weight_dtype="default"),
        "skipped": node("BadVersionWeakenBySkippingBlocks", model=["main", 0], blocks="auto"),
        "late": node("BadVersionGuidanceInterval", unit="percent", start=0.4, end=1.0),
        "vae": node("VAELoader", vae_name="digits_vae.safetensors"),
        "positive": node("DigitConditioning", digit="4"),
        "negative": node("DigitConditioning", digit="none"),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
        **sampled,
        **others,
    }


def sweep(**connected):
    settings = {"scales": "1, 3", "seeds": "5-6", "columns": "scale", "language": "English"}
    names = {"weak_model_names": "", "schedule_names": ""}
    return node("BadVersionGuidanceSweep", **{**settings, **names, **connected})


def pictures(server, prompt, saved="save"):
    outputs = server.wait(server.queue(prompt))["outputs"]
    return [
        Image.open(io.BytesIO(server.image(each))).tobytes() for each in outputs[saved]["images"]
    ]


def grid():
    widgets = {"title": "", "column_captions": "", "row_captions": "", "columns": 4, "cell_size": 0}
    return {
        "grid": node("BadVersionLabelledGrid", images=["decode", 0], sweep=["sweep", 4], **widgets),
        "sheet": node("SaveImage", images=["grid", 0], filename_prefix="sheet"),
    }


@pytest.mark.parametrize("sampler", [advanced, ksampler], ids=lambda sampler: sampler.__name__)
def test_sweep_draws_what_its_settings_draw_one_by_one(server, sampler):
    weak = {"weak_model_1": ["weak", 0], "weak_model_3": ["skipped", 0]}
    swept = sampler(["sweep", 0], ["sweep", 1], ["sweep", 2], ["sweep", 3])
    whole = prompt(swept, sweep=sweep(**weak, schedule_2=["late", 0]), **grid())
    drawn = pictures(server, whole)
    expected = [
        pictures(server, prompt(sampler(scale, seed, model, ["late", 0])))
        for seed, model, scale in itertools.product(SEEDS, weak.values(), SCALES)
    ]
    assert [[each] for each in drawn] == expected
    # Scale 1 is off, so the two weak models then make no difference.
    assert len(set(drawn)) == 6


@pytest.mark.parametrize("sampler", [advanced, ksampler], ids=lambda sampler: sampler.__name__)
def test_what_is_not_connected_to_a_sweep_is_not_connected_behind_it(server, sampler):
    swept = sampler(["sweep", 0], ["sweep", 1], ["sweep", 2], ["sweep", 3])
    drawn = pictures(server, prompt(swept, sweep=sweep(scales="2.5", seeds="8")))
    assert drawn == pictures(server, prompt(sampler(2.5, 8)))


def test_sweep_queued_again_comes_from_the_cache(server):
    whole = prompt(advanced(["sweep", 0], ["sweep", 1]), sweep=sweep(seeds="11, 12"), **grid())
    (sheet,) = pictures(server, whole, "sheet")
    messages = dict(server.wait(server.queue(whole))["status"]["messages"])
    used = whole.keys() - {"weak", "skipped", "late", "negative"}
    assert used <= set(messages["execution_cached"]["nodes"])
    other = {**whole, "sweep": sweep(seeds="11, 13")}
    (changed,) = pictures(server, other, "sheet")
    assert changed != sheet


def test_too_few_pictures_for_a_sweep_are_an_error_of_the_sheet(server):
    whole = prompt(advanced(["sweep", 0], 3), sweep=sweep(), **grid())
    # The seeds go nowhere, but each scale comes once for each of them.
    assert len(pictures(server, whole)) == 4
    single = prompt(advanced(1.0, 3), sweep=sweep(), **grid())
    with pytest.raises(NodeError, match="Labelled Grid, input 'images': got 1 of them") as failure:
        server.wait(server.queue(single))
    assert failure.value.node_id == "grid"
