"""The nodes in prompts that a real server executes, with its cache between them."""

import time

import pytest

from engine.server import Interrupted

pytestmark = pytest.mark.server


def prompt(seed=1, steps=8, **guider):
    """A digit, guided by both legs, as a prompt of the API."""

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
