"""The nodes in prompts that a real server executes, with its cache between them."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from comfyui.server import Interrupted

pytestmark = pytest.mark.server


def prompt(seed=1, steps=8, **guider):
    """A digit, guided by both pushes, as a prompt of the API."""

    def node(class_type, **inputs):
        return {"class_type": class_type, "inputs": inputs}

    return {
        "main": node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default"),
        "weak": node("UNETLoader", unet_name="digits_weak.safetensors", weight_dtype="default"),
        "vae": node("VAELoader", vae_name="digits_vae.safetensors"),
        "positive": node("DigitConditioning", digit="4"),
        "negative": node("DigitConditioning", digit="none"),
        "guider": node(
            "BadVersionGuider",
            model=["main", 0],
            positive=["positive", 0],
            **{
                "cfg": 2.0,
                "weak_scale": 1.5,
                "negative": ["negative", 0],
                "weak_model": ["weak", 0],
                **guider,
            },
        ),
        "noise": node("RandomNoise", noise_seed=seed),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node(
            "BasicScheduler", model=["main", 0], scheduler="simple", steps=steps, denoise=1.0
        ),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }


def picture(server, **settings):
    entry = server.wait(server.queue(prompt(**settings)))
    ((image,),) = [output["images"] for output in entry["outputs"].values()]
    return server.image(image)


def test_prompt_queued_again_after_a_changed_widget(server):
    """ComfyUI keeps the outputs of nodes whose inputs stay; a guider must not age in there."""
    first = picture(server, weak_scale=1.5)
    second = picture(server, weak_scale=3.0)
    off = picture(server, weak_scale=1.0)
    assert len({first, second, off}) == 3
    # Another seed in between, so that the sampler is run again and does not come from the cache.
    other = picture(server, weak_scale=1.5, seed=2)
    assert picture(server, weak_scale=1.5) == first
    assert other != first
    assert picture(server, weak_scale=3.0) == second


def test_region_by_a_mask_of_the_graph(server):
    """White, it is as if it were not there; black, the push is off."""

    def with_mask(value):
        graph = prompt(seed=5, weak_shape=["region", 0])
        graph["mask"] = {
            "class_type": "SolidMask",
            "inputs": {"value": value, "width": 64, "height": 96},
        }
        graph["region"] = {
            "class_type": "BadVersionRegionShape",
            "inputs": {"mask": ["mask", 0], "feather": 16, "outside": 0.0},
        }
        ((image,),) = [
            output["images"] for output in server.wait(server.queue(graph))["outputs"].values()
        ]
        return pixels(server.image(image))

    whole, off = (pixels(picture(server, seed=5, weak_scale=scale)) for scale in (1.5, 1.0))
    assert (with_mask(1.0) == whole).all()
    assert abs(with_mask(0.0) - off).max() <= 1
    assert abs(whole - off).max() > 10
    assert "Region Shape, input 'mask': it is black everywhere" in server.log()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_cancel_and_go_on(server):
    """Cancelled in the middle of a run, the server goes on as if nothing had been."""
    expected = picture(server, seed=11)
    cancelled = server.queue(prompt(seed=12, steps=5000))
    while "/5000 [" not in server.log():
        time.sleep(0.05)
    server.interrupt()
    with pytest.raises(Interrupted):
        server.wait(cancelled)
    picture(server, seed=13)
    assert picture(server, seed=11) == expected


def watched(**settings):
    """The prompt with a probe, whose plot and record stand between sampler and decoder."""
    graph = prompt(probe=["probe", 0])
    graph["probe"] = {"class_type": "BadVersionGuidanceProbe", "inputs": {"name": "watched"}}
    source = {"latent": ["sample", 0], "probe": ["probe", 0]}
    graph["plot"] = {
        "class_type": "BadVersionGuidancePlot",
        "inputs": {**source, "view": "scale", "language": "English"},
    }
    graph["record"] = {
        "class_type": "BadVersionGuidanceRecord",
        "inputs": {**source, "latent": ["plot", 1], "filename_prefix": "record"},
    }
    graph["decode"]["inputs"]["samples"] = ["record", 0]
    for node_id, inputs in settings.items():
        graph[node_id]["inputs"] |= inputs
    return graph


def executed(entry, graph):
    """The nodes that were not taken from the cache."""
    (cached,) = [
        details["nodes"]
        for event, details in entry["status"]["messages"]
        if event == "execution_cached"
    ]
    return graph.keys() - set(cached)


def plots(server, entry):
    return [server.image(image) for image in entry["outputs"]["plot"]["images"]]


def records(server):
    """All that was saved, the oldest first."""
    files = sorted((server.base / "output").glob("record_*.json"))
    assert [file.with_suffix(".csv").exists() for file in files] == [True] * len(files)
    return [json.loads(file.read_text(encoding="utf-8"))["columns"] for file in files]


def test_plot_of_a_run_that_comes_from_the_cache(server):
    graph = watched(noise={"noise_seed": 21})
    first = server.wait(server.queue(graph))
    changed = watched(noise={"noise_seed": 21}, plot={"view": "push"})
    second = server.wait(server.queue(changed))
    assert {"sample", "probe", "guider"}.isdisjoint(executed(second, changed))
    assert "plot" in executed(second, changed)
    ((one,), (other,)) = plots(server, first), plots(server, second)
    assert one != other
    # As a server draws it that has never seen another view.
    third = server.wait(server.queue(watched(noise={"noise_seed": 22}, plot={"view": "push"})))
    assert plots(server, third) != [other]
    fourth = server.wait(server.queue(changed))
    assert plots(server, fourth) == [other]


def test_each_run_of_a_list_has_its_own_record(server):
    """ComfyUI samples the whole list before it goes on to the plots."""
    graph = watched(noise={"noise_seed": ["sweep", 1]}, guider={"weak_scale": ["sweep", 0]})
    graph["sweep"] = {
        "class_type": "BadVersionGuidanceSweep",
        "inputs": {
            "scales": "1.5, 3",
            "seeds": "31-32",
            "weak_model_names": "",
            "schedule_names": "",
            "columns": "seed",
            "language": "English",
        },
    }
    before = len(records(server))
    entry = server.wait(server.queue(graph))
    assert len(plots(server, entry)) == 4
    listed = records(server)[before:]
    for number, (scale, seed) in enumerate([(1.5, 31), (1.5, 32), (3.0, 31), (3.0, 32)]):
        alone = watched(noise={"noise_seed": seed}, guider={"weak_scale": scale})
        server.wait(server.queue(alone))
        assert listed[number] == records(server)[-1]
        assert (np.array(listed[number]["weak_scale"]) == scale).all()
    assert len({json.dumps(each["push"]) for each in listed}) == 4
