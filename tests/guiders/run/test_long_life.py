"""A long life: hundreds of prompts on one server, with Cancel and errors among them."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import support
from comfyui.server import Interrupted, NodeError, Server, running_server

pytestmark = pytest.mark.server

PROMPTS = 300
LOOKED_AT = range(50, PROMPTS + 1, 50)
PACK = Path(support.__file__).parent / "watching_pack"

Graph = dict[str, dict[str, Any]]

WORSE_PASSES = [
    f"BadVersionWeaken{how}"
    for how in (
        *("WithNoise", "WithFewerBits", "WithLowRank", "WithDropout"),
        *("Attention", "BySkippingBlocks", "Tokens"),
    )
]
BAD_VERSIONS = [
    *("checkpoint", "prompt", "off", "auto"),
    *("BadVersionWeakenLora", "BadVersionWeakenAgainstBase"),
    *WORSE_PASSES,
]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """One that lives long, and one to compare with, that forgets everything before each prompt."""
    with running_server(packs=[PACK]) as old, running_server(packs=[PACK]) as fresh:
        yield old, fresh


@pytest.fixture(scope="module")
def widgets(servers):
    """The values that a node's widgets begin with, as the page fills them in."""
    known = servers[0].object_info()

    def widgets(class_type):
        inputs = known[class_type]["input"].get("required", {})
        return {n: s[1]["default"] for n, s in inputs.items() if len(s) > 1 and "default" in s[1]}

    return widgets


@pytest.fixture(scope="module")
def graph(widgets):
    """A digit, guided away from one bad version, as a prompt of the API."""

    def graph(by, bad, seed, lora=None, steps=3):
        sampling = {"noise_seed": seed}
        main = ["main", 0]
        nodes: Graph = {
            "main": node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default"),
            "vae": node("VAELoader", vae_name="digits_vae.safetensors"),
            "positive": node("DigitConditioning", digit=str(seed % 10)),
            "negative": node("DigitConditioning", digit="none"),
            "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
            "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
            "save": node("SaveImage", images=["decode", 0], filename_prefix="long_life"),
        }
        if bad in ("BadVersionWeakenLora", "BadVersionWeakenAgainstBase"):
            lora = lora or 0.8
        if lora is not None:
            nodes["lora"] = node(
                "LoraLoaderModelOnly",
                model=main,
                lora_name="digits_bold_lora.safetensors",
                strength_model=lora,
            )
            main = ["lora", 0]
        inputs: dict[str, Any] = {"weak_scale": 1.0 if bad == "off" else 1.8}
        if bad == "checkpoint":
            nodes["weak"] = node(
                "UNETLoader", unet_name="digits_weak.safetensors", weight_dtype="default"
            )
        elif bad == "prompt":
            nodes["weak"] = node(
                "BadVersionWeakenPrompt",
                **widgets("BadVersionWeakenPrompt") | {"mode": "noise", "seed": seed},
                conditioning=["positive", 0],
            )
        elif bad not in ("off", "auto"):
            nodes["weak"] = node(bad, **widgets(bad), model=main)
            if bad == "BadVersionWeakenAgainstBase":
                nodes["weak"]["inputs"]["base_model"] = ["main", 0]
        if "weak" in nodes:
            inputs["weak_positive" if bad == "prompt" else "weak_model"] = ["weak", 0]
        if by == "guider":
            against = {} if bad == "auto" else {"negative": ["negative", 0]}
            nodes["guider"] = node(
                "BadVersionGuider",
                **widgets("BadVersionGuider") | {"cfg": 2.0} | inputs | against,
                model=main,
                positive=["positive", 0],
            )
            nodes["noise"] = node("RandomNoise", **sampling)
            nodes["sampler"] = node("KSamplerSelect", sampler_name="euler")
            nodes["sigmas"] = node(
                "BasicScheduler", model=main, scheduler="simple", steps=steps, denoise=1.0
            )
            nodes["sample"] = node(
                "SamplerCustomAdvanced",
                noise=["noise", 0],
                guider=["guider", 0],
                sampler=["sampler", 0],
                sigmas=["sigmas", 0],
                latent_image=["latent", 0],
            )
        else:
            nodes["patch"] = node(
                "BadVersionPatch", **widgets("BadVersionPatch") | inputs, model=main
            )
            nodes["sample"] = node(
                "KSampler",
                model=["patch", 0],
                positive=["positive", 0],
                negative=["negative", 0],
                latent_image=["latent", 0],
                seed=seed,
                steps=steps,
                cfg=2.0,
                sampler_name="euler",
                scheduler="simple",
                denoise=1.0,
            )
        return nodes

    return graph


def picture(server: Server, nodes: Graph) -> bytes:
    """Have a prompt executed; returns its image, pixels and all, as it was saved."""
    entry = server.wait(server.queue(nodes))
    return server.image(entry["outputs"]["save"]["images"][0])


def cancelled(server: Server, nodes: Graph, steps: int) -> None:
    """Cancel a prompt once it is in its steps."""
    waiting = server.queue(nodes)
    deadline = time.monotonic() + 60
    while f"/{steps} [" not in server.log():
        assert time.monotonic() < deadline, "it does not begin to sample"
        time.sleep(0.02)
    server.interrupt()
    with pytest.raises(Interrupted):
        server.wait(waiting)


def failing(nodes: Graph, draw: random.Random, number: int) -> tuple[Graph, str]:
    """A prompt with a fault in it, and what its error says."""
    kind = draw.choice(["model", "refused", "weak model"])
    target = nodes["guider"] if "guider" in nodes else nodes["patch"]
    if kind == "refused":
        target["inputs"]["weak_model"] = target["inputs"]["model"]
        target["inputs"].pop("weak_positive", None)
        target["inputs"]["weak_scale"] = 1.8
        return nodes, "'weak_model'"
    given = {"number": number, "at_call": draw.randrange(3)}
    if kind == "model" or "weak_model" not in target["inputs"]:
        nodes["failing"] = node("FailingModel", model=target["inputs"]["model"], **given)
        target["inputs"]["model"] = ["failing", 0]
    else:
        nodes["failing"] = node("FailingModel", model=target["inputs"]["weak_model"], **given)
        target["inputs"]["weak_model"] = ["failing", 0]
        target["inputs"]["weak_scale"] = 1.8
    return nodes, "out of luck"


def blank(number: int) -> Graph:
    """A prompt that uses no model that samples."""
    return {
        "vae": node("VAELoader", vae_name="digits_vae.safetensors"),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1 + number % 2),
        "decode": node("VAEDecode", samples=["latent", 0], vae=["vae", 0]),
        "save": node("PreviewImage", images=["decode", 0]),
    }


def forget(server: Server, number: int) -> None:
    """Have the server forget models and outputs, which it does once the next prompt is done."""
    server.free()
    server.wait(server.queue(blank(number)))
    server.forget_history()


@pytest.fixture(scope="module")
def life(servers, graph):
    """All prompts; what lives in the server after some, and pairs of images to compare."""
    old, fresh = servers
    draw = random.Random(15)
    counts: dict[int, dict[str, int]] = {}
    pairs: list[tuple[dict[str, Any], bytes, bytes]] = []
    for number in range(1, PROMPTS + 1):
        settings = {
            "by": draw.choice(["guider", "patch"]),
            "bad": draw.choice(BAD_VERSIONS),
            "seed": draw.randrange(1000),
            "lora": draw.choice([None, None, 0.5, 1.0]),
        }
        if number % 14 == 3:
            steps = 4000 + number
            cancelled(old, graph(**settings, steps=steps), steps)
        elif number % 14 == 9:
            nodes, message = failing(graph(**settings), draw, number)
            with pytest.raises(NodeError, match=message):
                picture(old, nodes)
        else:
            image = picture(old, graph(**settings))
            if number % 10 == 0:
                forget(fresh, number)
                pairs.append((settings, image, picture(fresh, graph(**settings))))
        if number in LOOKED_AT:
            # Always after the same prompt, and nothing else in memory.
            forget(old, number)
            nodes = graph("guider", "checkpoint", seed=1000 + number)
            nodes["live"] = node("LiveObjects", after=["decode", 0], number=number)
            entry = old.wait(old.queue(nodes))
            (counts[number],) = entry["outputs"]["live"]["counts"]
    return counts, pairs


def test_images_are_those_of_a_fresh_server(life):
    _, pairs = life
    assert len(pairs) >= PROMPTS // 10 - 4
    for settings, image, expected in pairs:
        assert image == expected, f"{settings} after other prompts is another image"


def test_memory_is_flat(life):
    counts, _ = life
    first = counts[LOOKED_AT[0]]
    for number, found in counts.items():
        for what in ("tensors", "tensor_bytes", "patchers", "loaded"):
            assert found[what] == first[what], f"{what} after {number} prompts: {counts}"
        # The server itself keeps a few, as its log; less than three for each prompt.
        assert found["objects"] - first["objects"] < 3 * (number - LOOKED_AT[0]) + 1, counts
        # What lies beside tensors and objects is less than the weights of one prompt.
        assert found["resident"] - first["resident"] < first["tensor_bytes"], counts
