"""A long life: hundreds of prompts on one server, which holds no more and knows nothing of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from random import Random
from typing import Any

import pytest
from PIL import Image

from comfyui.install import ROOT
from comfyui.server import Interrupted, NodeError, Server, running_server

pytestmark = pytest.mark.server

WATCHING_PACK = ROOT / "tests" / "support" / "watching_pack"

PROMPTS = 300
CENSUS_EVERY = 50
COMPARED_EVERY = 10
STEPS = 3
MOST_GROWTH = 24_000_000  # bytes

Output = list[Any]


class Graph:
    """A prompt of the API while it is being made."""

    def __init__(self, random: Random) -> None:
        """Begin with what all prompts have, and with a seed of its own."""
        self.random = random
        self.nodes: dict[str, dict[str, Any]] = {}
        self.main = self.checkpoint("main")
        self.positive = self.digit()

    def add(self, class_type: str, **inputs: Any) -> Output:
        """Add a node; equal ones of several prompts get the same id where they come in order."""
        node_id = f"{class_type} {sum(n['class_type'] == class_type for n in self.nodes.values())}"
        self.nodes[node_id] = {"class_type": class_type, "inputs": inputs}
        return [node_id, 0]

    def number(self) -> int:
        """A number that no other prompt has."""
        return self.random.getrandbits(48)

    def strength(self, low: float, high: float) -> float:
        """A number for a widget."""
        return round(self.random.uniform(low, high), 2)

    def checkpoint(self, name: str) -> Output:
        """One of the digit models."""
        unet_name = f"digits_{name}.safetensors"
        return self.add("UNETLoader", unet_name=unet_name, weight_dtype="default")

    def digit(self, digits: str = "012345678") -> Output:
        """The prompt for some digit."""
        return self.add("DigitConditioning", digit=self.random.choice(digits))

    def with_lora(self, model: Output) -> Output:
        """The model with a LoRA of some strength."""
        strength = self.strength(0.2, 1.2)
        name = "digits_bold_lora.safetensors"
        return self.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)

    def weaken(self, node: str, model: Output, **inputs: Any) -> Output:
        """The model behind a Weaken node."""
        return self.add(f"BadVersionWeaken{node}", model=model, **inputs)

    def sample(self, guider: Output, steps: int) -> Output:
        """The latent that a guider comes to."""
        sigmas = self.add(
            "BasicScheduler", model=self.main, scheduler="simple", steps=steps, denoise=1.0
        )
        return self.add(
            "SamplerCustomAdvanced",
            noise=self.add("RandomNoise", noise_seed=self.number()),
            guider=guider,
            sampler=self.add("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas,
            latent_image=self.latent(),
        )

    def latent(self) -> Output:
        """What sampling begins with."""
        return self.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)

    def save(self, latent: Output) -> dict[str, Any]:
        """Finish the prompt with an image."""
        vae = self.add("VAELoader", vae_name="digits_vae.safetensors")
        self.image = self.add("VAEDecode", samples=latent, vae=vae)
        self.add("SaveImage", images=self.image, filename_prefix="life")
        return self.nodes


Inputs = dict[str, Any]


def bad_versions() -> dict[str, Callable[[Graph], Inputs]]:
    """What is connected to a guider or patch, by what makes its bad version."""

    def lora_on_main(graph: Graph) -> Inputs:
        return {"model": graph.with_lora(graph.main), "weak_model": graph.main}

    def lora_on_weak(graph: Graph) -> Inputs:
        return {"weak_model": graph.with_lora(graph.main)}

    def lora_on_both(graph: Graph) -> Inputs:
        return {
            "model": graph.with_lora(graph.main),
            "weak_model": graph.with_lora(graph.with_lora(graph.main)),
        }

    def lora_on_the_weak_checkpoint(graph: Graph) -> Inputs:
        return {"model": graph.with_lora(graph.main), "weak_model": graph.checkpoint("weak")}

    def weaken_lora(graph: Graph) -> Inputs:
        model = graph.with_lora(graph.main)
        keep = graph.strength(-0.5, 0.5)
        return {"model": model, "weak_model": graph.weaken("Lora", model, keep=keep)}

    def against_base(graph: Graph) -> Inputs:
        model = graph.with_lora(graph.main)
        weak = graph.weaken(
            "AgainstBase", model, base_model=graph.main, amount=graph.strength(0.5, 2.0)
        )
        return {"model": model, "weak_model": weak}

    def weakened(node: str, with_lora: bool = False, **widgets: Any) -> Callable[[Graph], Inputs]:
        def inputs(graph: Graph) -> Inputs:
            model = graph.with_lora(graph.main) if with_lora else graph.main
            own = {
                name: widget(graph) if callable(widget) else widget
                for name, widget in widgets.items()
            }
            return {"model": model, "weak_model": graph.weaken(node, model, **own)}

        return inputs

    def weak_prompt(graph: Graph) -> Inputs:
        weak = graph.add(
            "BadVersionWeakenPrompt",
            conditioning=graph.positive,
            mode=graph.random.choice(["drop", "noise", "blur"]),
            amount=graph.strength(0.3, 0.8),
            seed=graph.number(),
        )
        return {"weak_positive": weak}

    def weak_checkpoint_and_prompt(graph: Graph) -> Inputs:
        return {"weak_model": graph.checkpoint("weak"), **weak_prompt(graph)}

    def shaped_and_scheduled(graph: Graph) -> Inputs:
        interval = graph.add(
            "BadVersionGuidanceInterval", unit="percent", start=0.2, end=graph.strength(0.7, 1.0)
        )
        cap = graph.add("BadVersionCapShape", relative_to="number", limit=graph.strength(0.5, 2.0))
        weak = graph.weaken("WithFewerBits", graph.main, bits=3, blocks="auto")
        return {"weak_model": weak, "weak_schedule": interval, "weak_shape": cap}

    def every_second_step(graph: Graph) -> Inputs:
        return {**lora_on_weak(graph), "weak_every": 2}

    def probed(graph: Graph) -> Inputs:
        return {**lora_on_weak(graph), "probe": graph.add("BadVersionGuidanceProbe", name="life")}

    def three_pushes(graph: Graph) -> Inputs:
        lora = graph.with_lora(graph.main)
        history = graph.add(
            "BadVersionHistoryPush",
            mode=graph.random.choice(["momentum", "average"]),
            scale=graph.strength(1.2, 1.8),
            memory=0.5,
        )
        settled = graph.add("BadVersionStopWhenSettled", cosine=graph.strength(0.9, 0.99), start=0)
        another = graph.add(
            "BadVersionAnotherPush",
            scale=graph.strength(1.2, 2.0),
            every=1,
            weak_model=lora,
            schedule=settled,
            more_pushes=history,
        )
        return {"weak_model": graph.checkpoint("weak"), "more_pushes": another}

    def seed(graph: Graph) -> int:
        return graph.number()

    noise = {"amount": lambda graph: graph.strength(0.05, 0.3), "seed": seed, "blocks": "auto"}
    return {
        "weak checkpoint": lambda graph: {"weak_model": graph.checkpoint("weak")},
        "weak checkpoint and prompt": weak_checkpoint_and_prompt,
        "weak prompt": weak_prompt,
        "another prompt": lambda graph: {"weak_positive": graph.digit("9")},
        "model itself": lambda graph: {},
        "LoRA on main": lora_on_main,
        "LoRA on weak": lora_on_weak,
        "LoRA on both": lora_on_both,
        "LoRA on main, weak checkpoint": lora_on_the_weak_checkpoint,
        "Weaken LoRAs": weaken_lora,
        "Weaken Against Base": against_base,
        "Weaken with Noise": weakened("WithNoise", **noise),
        "Weaken with Noise, LoRA": weakened("WithNoise", with_lora=True, **noise),
        "Weaken with Fewer Bits": weakened(
            "WithFewerBits", bits=lambda graph: graph.random.randint(2, 5), blocks="auto"
        ),
        "Weaken with Low Rank": weakened(
            "WithLowRank", keep=lambda graph: graph.strength(0.2, 0.7), blocks="auto"
        ),
        "Weaken with Dropout": weakened(
            "WithDropout", rate=lambda graph: graph.strength(0.05, 0.2), seed=seed, blocks="auto"
        ),
        "Weaken Attention": weakened(
            "Attention",
            mode=lambda graph: graph.random.choice(["identity", "blur", "window"]),
            strength=lambda graph: graph.strength(0.5, 1.0),
            blocks="auto",
        ),
        "Weaken by Skipping Blocks": weakened("BySkippingBlocks", with_lora=True, blocks="auto"),
        "Weaken Tokens": weakened(
            "Tokens",
            strength=lambda graph: graph.strength(0.2, 0.8),
            seed=seed,
            blocks="auto",
            mode=lambda graph: graph.random.choice(["shuffle", "swap"]),
        ),
        "Weaken by Noisy Clock": weakened(
            "ByNoisyClock", strength=lambda graph: graph.strength(0.5, 3.0), power=0.25, seed=seed
        ),
        "schedule and shape": shaped_and_scheduled,
        "every second step": every_second_step,
        "probe": probed,
        "three pushes": three_pushes,
    }


BAD_VERSIONS = bad_versions()


def guided(graph: Graph, steps: int, **inputs: Any) -> Output:
    """The latent of a guider or a patch; without a weak push of its own, of the model itself."""
    inputs = {"model": graph.main, "weak_scale": graph.strength(1.5, 3.0), **inputs}
    negative = graph.add("DigitConditioning", digit="none")
    by_patch = graph.random.random() < 0.5
    if by_patch:
        model = graph.add("BadVersionPatch", **inputs)
        core = graph.random.random() < 0.5
        if core:
            return graph.add(
                "KSampler",
                model=model,
                seed=graph.number(),
                steps=steps,
                cfg=graph.strength(1.5, 4.0),
                sampler_name=graph.random.choice(["euler", "dpmpp_2m", "heun"]),
                scheduler="simple",
                positive=graph.positive,
                negative=negative,
                latent_image=graph.latent(),
                denoise=1.0,
            )
        guider = graph.add(
            "CFGGuider", model=model, positive=graph.positive, negative=negative, cfg=2.0
        )
        return graph.sample(guider, steps)
    # With a negative prompt alone a guider does not weaken the model itself.
    if inputs.keys() & {"weak_model", "weak_positive"}:
        inputs["negative"] = negative
    cfg = graph.strength(1.5, 4.0)
    guider = graph.add("BadVersionGuider", positive=graph.positive, cfg=cfg, **inputs)
    return graph.sample(guider, steps)


def without_the_pack(graph: Graph) -> Output:
    """The latent of ComfyUI's own guider, on models that the pack's nodes have worked with."""
    model = graph.with_lora(graph.main) if graph.random.random() < 0.5 else graph.main
    guider = graph.add("BasicGuider", model=model, conditioning=graph.positive)
    return graph.sample(guider, STEPS)


def failing_main(graph: Graph) -> Output:
    """A run whose main model fails, also while a weak version of it is prepared or in place."""
    model = graph.add("FailingModel", model=graph.main, at_call=3, number=graph.number())
    weak = graph.weaken("WithNoise", graph.main, amount=0.1, seed=graph.number(), blocks="auto")
    return guided(graph, 6, model=model, weak_model=weak)


def failing_weak(graph: Graph) -> Output:
    """A run whose weak model fails while its weights are in place."""
    weak = graph.add(
        "FailingModel", model=graph.with_lora(graph.main), at_call=1, number=graph.number()
    )
    return guided(graph, 6, weak_model=weak)


def no_lora(graph: Graph) -> Output:
    """A node of the pack that refuses its input."""
    return guided(graph, STEPS, weak_model=graph.weaken("Lora", graph.main, keep=0.0))


def no_such_block(graph: Graph) -> Output:
    """Another one."""
    weak = graph.weaken("BySkippingBlocks", graph.main, blocks="joint 99")
    return guided(graph, STEPS, weak_model=weak)


def no_difference(graph: Graph) -> Output:
    """Refused when sampling begins: only then is it known what the LoRAs come to."""
    weak = graph.weaken("AgainstBase", graph.with_lora(graph.main), base_model=graph.main, amount=1)
    model = graph.add("BadVersionPatch", model=graph.main, weak_model=weak, weak_scale=2.0)
    guider = graph.add("BasicGuider", model=model, conditioning=graph.positive)
    return graph.sample(guider, STEPS)


def failing_afterwards(graph: Graph) -> Output:
    """A node of ComfyUI's own that fails behind a guided run: its image is a single pixel."""
    latent = guided(graph, STEPS, **BAD_VERSIONS["Weaken with Noise"](graph))
    vae = graph.add("VAELoader", vae_name="digits_vae.safetensors")
    image = graph.add("VAEDecode", samples=latent, vae=vae)
    image = graph.add("ImageScaleBy", image=image, upscale_method="bilinear", scale_by=0.01)
    return graph.add("VAEEncode", pixels=image, vae=vae)


# What makes a prompt fail, and what its error says.
ERRORS: list[tuple[Callable[[Graph], Output], str]] = [
    (failing_main, "ZeroDivisionError: out of luck at call 3"),
    (failing_weak, "ZeroDivisionError: out of luck at call 1"),
    (no_lora, "Weaken LoRAs, input 'model': got "),
    (no_such_block, "Weaken by Skipping Blocks, input 'blocks': got "),
    (no_difference, "Bad-Version Patch, input 'weak_model': got "),
    (failing_afterwards, "node VAEEncode 0 (VAEEncode): RuntimeError: "),
]


@dataclass(frozen=True)
class Prompt:
    """One of the long life.

    Attributes:
        kind: what it is, to name it where something is wrong.
        nodes: as the API takes it.
        error: what its error says; None where it comes to an image.
        long: how many steps it would take if it were not cancelled; 0 for one that is left alone.
    """

    kind: str
    nodes: dict[str, Any]
    error: str | None = None
    long: int = 0


def image_of(kind: str, random: Random) -> Prompt:
    """A prompt that comes to an image."""
    graph = Graph(random)
    if kind == "without the pack":
        return Prompt(kind, graph.save(without_the_pack(graph)))
    return Prompt(kind, graph.save(guided(graph, STEPS, **BAD_VERSIONS[kind](graph))))


def life() -> list[Prompt]:
    """In a random order that is always the same: in every ten one trouble, at the end an image.

    Those images are the ones to compare, and so each kind of prompt has its turn among them. Every
    second time, the trouble comes directly before.
    """
    random = Random(15)
    kinds = [*BAD_VERSIONS, "without the pack"]
    compared = cycle(random.sample(kinds, len(kinds)))
    cancelled = cycle(random.sample(list(BAD_VERSIONS), len(BAD_VERSIONS)))
    errors = cycle(random.sample(ERRORS, len(ERRORS)))
    # Each kind once before the first census, as what is imported or set up for it stays.
    others = random.sample(kinds, len(kinds)) + random.choices(kinds, k=PROMPTS)
    prompts: list[Prompt] = []
    for ten in range(PROMPTS // COMPARED_EVERY):
        batch = [image_of(others.pop(0), random) for _ in range(COMPARED_EVERY - 2)]
        graph = Graph(random)
        if ten % 3 == 0:
            # Seconds. From 1000 steps on, noise levels repeat, at which some samplers divide by 0.
            kind, steps = next(cancelled), 900 + ten
            nodes = graph.save(guided(graph, steps, **BAD_VERSIONS[kind](graph)))
            trouble = Prompt(f"{kind}, cancelled", nodes, long=steps)
        else:
            make, error = next(errors)
            trouble = Prompt(make.__name__, graph.save(make(graph)), error)
        at = len(batch) if ten % 2 else random.randrange(len(batch))
        batch.insert(at, trouble)
        prompts += [*batch, image_of(next(compared), random)]
    return prompts


def image(server: Server, entry: dict[str, Any]) -> bytes:
    """The pixels of the one image of a prompt; the file has the prompt in it as well."""
    ((reference,),) = [o["images"] for o in entry["outputs"].values() if "images" in o]
    with Image.open(BytesIO(server.image(reference))) as picture:
        return picture.tobytes()


def cancel(server: Server, prompt: Prompt) -> None:
    """Interrupt a run once it has come some way."""
    deadline = time.monotonic() + 120
    while not re.search(rf" [1-9]\d*/{prompt.long} \[", server.log()):
        assert time.monotonic() < deadline, f"{prompt.kind} did not begin"
        time.sleep(0.02)
    server.interrupt()


def finish(server: Server, prompt: Prompt, prompt_id: str) -> bytes | None:
    """Wait for a prompt to end as it should; returns its image, if it comes to one."""
    if prompt.long:
        cancel(server, prompt)
        with pytest.raises(Interrupted):
            server.wait(prompt_id)
        return None
    if prompt.error:
        with pytest.raises(NodeError, match=re.escape(prompt.error)):
            server.wait(prompt_id)
        return None
    return image(server, server.wait(prompt_id))


def census(server: Server, number: int) -> tuple[dict[str, int], bytes]:
    """What the process holds right after a prompt that is always the same, and its image.

    So the models in use, and the outputs in ComfyUI's cache, are the same each time.
    """
    # The server keeps the last ten thousand prompts with their errors, by design.
    server.forget_history()
    graph = Graph(Random(1))
    inputs = BAD_VERSIONS["Weaken with Noise, LoRA"](graph)
    nodes = graph.save(guided(graph, STEPS, **inputs))
    graph.add("LiveObjects", after=graph.image, number=number)
    entry = server.wait(server.queue(nodes))
    ((counts,),) = [o["counts"] for o in entry["outputs"].values() if "counts" in o]
    return counts, image(server, entry)


def fresh_image(server: Server, prompt: Prompt, number: int) -> bytes:
    """The image of a prompt on a server that has just forgotten all models and all outputs.

    A process of its own for each prompt would take minutes. What stays in this one is what Python
    has imported and what the pack keeps apart from any model; for that to hide a wrong image, a few
    other prompts would have to leave the very same there as the hundreds before.
    """
    server.free()
    # ComfyUI forgets when it has nothing to do or is done with a prompt: at the latest, this one.
    pixel = {"width": 1, "height": 1, "batch_size": 1, "color": number}
    empty = {"class_type": "EmptyImage", "inputs": pixel}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["empty", 0]}}
    server.wait(server.queue({"empty": empty, "preview": preview}))
    entry = server.wait(server.queue(prompt.nodes))
    messages = entry["status"]["messages"]
    assert [m["nodes"] for event, m in messages if event == "execution_cached"] == [[]]
    return image(server, entry)


def test_long_life() -> None:
    prompts = life()
    images: list[bytes | None] = []
    found = []
    with running_server(packs=[WATCHING_PACK]) as server:
        for start in range(0, PROMPTS, CENSUS_EVERY):
            queued = [(p, server.queue(p.nodes)) for p in prompts[start : start + CENSUS_EVERY]]
            images += [finish(server, *each) for each in queued]
            found.append(census(server, start))

    # ComfyUI and the pack are warm after the first; nothing may be added from there on.
    counts = [each for each, _ in found]
    for name in ("tensors", "tensor_bytes", "patchers", "loaded"):
        assert len({each[name] for each in counts}) == 1, counts
    # A probe keeps the records of its runs, 256 at most, for plots of latents in ComfyUI's cache.
    probed = [prompt.kind == "probe" for prompt in prompts]
    ends = range(CENSUS_EVERY, PROMPTS + 1, CENSUS_EVERY)
    assert [each["records"] for each in counts] == [sum(probed[:end]) for end in ends]
    # Of each prompt not even two objects on average; a record alone has more than ten. What is used
    # for the first time, an error's text, say, leaves hundreds in libraries: from the second on.
    most_objects = 2 * (PROMPTS - 2 * CENSUS_EVERY)
    assert counts[-1]["objects"] - counts[1]["objects"] < most_objects, counts
    # The allocator alone moves by ten megabytes up and down. The weights of the main model, kept a
    # second time, are 34, and 0.1 of each prompt would be 25.
    assert counts[-1]["resident"] - counts[0]["resident"] < MOST_GROWTH, counts

    assert len({same for _, same in found}) == 1
    compared = range(COMPARED_EVERY - 1, PROMPTS, COMPARED_EVERY)
    with running_server(packs=[WATCHING_PACK]) as server:
        fresh = [fresh_image(server, prompts[number], number) for number in compared]
    differing = [
        (number, prompts[number].kind)
        for number, expected in zip(compared, fresh, strict=True)
        if images[number] != expected
    ]
    assert differing == []
