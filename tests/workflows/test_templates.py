"""The templates for artists on ComfyUI's server, with small random models for their files.

Only the loaders are exchanged, and images are smaller. All other nodes are as the template has
them: also the prompts, the samplers and what decodes and saves.
"""

import copy
import io
from collections.abc import Iterator

import av
import comfy.supported_models
import numpy as np
import pytest
from PIL import Image

import cards
import templates
from comfyui.install import comfyui_path, linked_pack
from comfyui.server import Server, running_server
from comfyui.workflow import NOTES, Prompt, to_prompt
from templates.__main__ import path_of, text_of
from templates.saved import save

pytestmark = pytest.mark.server

NAMES = sorted(templates.TEMPLATES)
STAND_INS = cards.ROOT / "tests" / "support" / "stand_ins"
STANDS_IN = "StandIn"

SMALL = {"width": 64, "height": 64, "length": 9, "batch_size": 1, "steps": 8, "seeds": "1"}
# Those whose one push is away from the negative prompt, and what makes it another one.
NEGATIVE_ALONE = {
    "sdxl_apg_at_a_high_cfg": "negative_shape",
    "sdxl_dynamic_negative": "negative_schedule",
}
# One of its two images is pushed away from the negative prompt, to compare with.
BESIDE_CFG = "sdxl_two_pushes_compared"
# What this release cannot build, by the model of ComfyUI that it lacks.
NEEDS = {"anima_weak_attention": "Anima"}

each_template = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(packs=[STAND_INS]) as running:
        image = Image.new("RGBA", (64, 64), (200, 120, 40, 255))
        image.paste((0, 0, 0, 0), (16, 16, 48, 48))  # What is transparent is the mask.
        image.save(running.input_folder / "example.png")
        yield running


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict:
    return server.object_info()


def nodes_of(name: str) -> list[dict]:
    """The nodes of a template that the server knows of: all but the note."""
    return [node for node in cards.load(name)["nodes"] if node["type"] not in NOTES]


def without_files(prompt: Prompt, object_info: dict) -> Prompt:
    """The prompt with stand-ins for its loaders."""
    prompt = cards.set_inputs(prompt, **SMALL)
    for node in prompt.values():
        if STANDS_IN + node["class_type"] in object_info:
            node["class_type"] = STANDS_IN + node["class_type"]
    return prompt


def pushes_off(name: str, prompt: Prompt) -> Prompt:
    """The prompt without what the template shows."""
    off = cards.set_inputs(prompt, weak_scale=1.0)
    for node in off.values():
        node["inputs"].pop(NEGATIVE_ALONE.get(name), None)
    return off


def drawn(server: Server, prompt: Prompt) -> dict[str, np.ndarray]:
    """Run a prompt; returns what each of its last nodes has saved, as numbers."""
    outputs = server.wait(server.queue(prompt))["outputs"]
    files = {node: list(map(server.image, saved["images"])) for node, saved in outputs.items()}
    return {node: np.stack([_pixels(file) for file in each]) for node, each in files.items()}


def _pixels(file: bytes) -> np.ndarray:
    if file.startswith(b"\x89PNG"):
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    with av.open(io.BytesIO(file)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


@each_template
def test_draws_from_end_to_end_and_the_push_is_seen(server, object_info, name):
    if not hasattr(comfy.supported_models, NEEDS.get(name, "SD15")):
        pytest.skip(f"This release has no {NEEDS[name]}.")
    prompt = without_files(to_prompt(cards.load(name), object_info), object_info)
    pushed = drawn(server, prompt)
    # Those that save, or show what they have drawn.
    showing = {i for i, node in prompt.items() if object_info[node["class_type"]]["output_node"]}
    assert pushed.keys() == showing
    for node, pixels in pushed.items():
        assert pixels.std() > 1, prompt[node]["class_type"]
    plain = drawn(server, pushes_off(name, prompt))
    saving = [i for i in pushed if prompt[i]["class_type"] in ("SaveImage", "SaveWEBM")]
    # What has nothing to do with it comes from the server's cache, and is not there again.
    changed = [i for i in saving if i in plain and not np.array_equal(pushed[i], plain[i])]
    assert len(changed) == len(saving) - (name == BESIDE_CFG) >= 1


@each_template
def test_loaders_alone_are_exchanged(object_info, name):
    prompt = to_prompt(cards.load(name), object_info)
    exchanged = without_files(prompt, object_info)
    for node_id, node in exchanged.items():
        before = prompt[node_id]
        assert node["class_type"].removeprefix(STANDS_IN) == before["class_type"]
        asks_for_file = any(
            str(each).endswith(".safetensors") for each in before["inputs"].values()
        )
        assert node["class_type"].startswith(STANDS_IN) == asks_for_file


@each_template
def test_needs_this_pack_alone(object_info, name):
    modules = {object_info[node["type"]]["python_module"] for node in nodes_of(name)}
    pack = f"custom_nodes.{linked_pack(comfyui_path()).name}"
    assert pack in modules
    others = (each for each in modules - {pack} if each != "nodes")
    assert all(each.startswith("comfy_extras.") for each in others)


def linked(workflow: dict) -> dict:
    """A workflow without the outputs that nothing takes: later releases give some nodes more."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        node["outputs"] = [output for output in node["outputs"] if output["links"]]
    return workflow


@each_template
def test_file_is_what_the_description_says(object_info, name):
    """`make templates` would write the same again."""
    workflow = save(name, templates.TEMPLATES[name], object_info)
    assert linked(workflow) == linked(cards.load(name))
    assert text_of(cards.load(name)) == path_of(name).read_text(encoding="utf-8")
