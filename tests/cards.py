"""The workflows, and their pictures in ComfyUI's template browser.

Each picture is drawn by its workflow: a first row without the push, then what each of its samplers
makes of the same noise. `tests/demo.py --readme` renews them all.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from engine.install import ROOT
from engine.server import Server
from engine.workflow import Prompt, to_prompt

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}

# In pixels.
SIDE = 512
LABEL = 40
EDGE = 12
GROUND = (14, 17, 26)  # That of the pictures themselves.
TEXT = (232, 234, 240)
DIM_TEXT = (140, 147, 163)
ACCENT = (120, 200, 255)

OFF = {"cfg": 1.0, "weak_scale": 1.0}


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        rows: what to write above the pictures of each sampler of the workflow, from top to bottom.
        digits: what to draw, each with itself as the seed.
        without: what to write above the pictures without the push.
    """

    rows: tuple[str, ...]
    digits: tuple[int, ...] = (5, 6, 9)
    without: str = "without guidance"


CARDS = {
    "bad_version_digits": Card(rows=("away from a weaker model, with cfg",)),
    "one_checkpoint": Card(rows=("away from a bad version of itself",)),
    "weaken_lora": Card(
        rows=("away from the model without it", "away from beyond the base"),
        digits=(0, 2, 3),
        without="LoRA for bold strokes, at half strength",
    ),
    "weaken_passes": Card(rows=("away from blurred attention", "away from a skipped block")),
    "weaken_prompt": Card(rows=("away from half of the prompt",)),
    "weaken_weights": Card(rows=("away from noisy weights", "away from low rank and few bits")),
}
# What cannot run on the digits shows how its nodes hang together.
CHAINS = {"one_checkpoint_sd": ("Load Checkpoint", "Bad-Version Patch", "KSampler")}


def load(name: str) -> dict[str, Any]:
    """The workflow of this name, as it is saved."""
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


def card_path(name: str) -> Path:
    """Where the picture of the workflow of this name is."""
    return WORKFLOWS[name].with_suffix(".jpg")


def set_inputs(prompt: Prompt, **values: Any) -> Prompt:
    """The prompt, with these values in every node that has a widget of that name."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name in values.keys() & node["inputs"].keys():
            node["inputs"][name] = values[name]
    return prompt


def with_digit(prompt: Prompt, digit: int) -> Prompt:
    """The prompt, for another digit. The empty prompt stays."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == "DigitConditioning" and node["inputs"]["digit"] != "none":
            node["inputs"]["digit"] = str(digit)
    return prompt


def run(server: Server, prompt: Prompt) -> dict[str, list[Image.Image]]:
    """Run a prompt; returns the pictures that it has saved, by the ids of the nodes that did."""
    outputs = server.wait(server.queue(prompt))["outputs"]
    return {
        node_id: [
            Image.open(io.BytesIO(server.image(one))).convert("RGB") for one in saved["images"]
        ]
        for node_id, saved in sorted(outputs.items(), key=lambda item: int(item[0]))
    }


def first_pictures(server: Server, prompt: Prompt) -> list[Image.Image]:
    """Run a prompt; returns the first picture of each node that saves some."""
    return [pictures[0] for pictures in run(server, prompt).values()]


def renew(server: Server) -> Iterator[Path]:
    """Draw the cards of all workflows anew; gives the path of each when it is done."""
    for name in WORKFLOWS:
        draw(server, name).save(card_path(name), quality=90)
        yield card_path(name)


def draw(server: Server, name: str) -> Image.Image:
    """The card of one workflow."""
    if name in CHAINS:
        return draw_chain(CHAINS[name])
    card = CARDS[name]
    prompt = to_prompt(load(name), server.object_info())
    columns = []
    for digit in card.digits:
        pushed = set_inputs(with_digit(prompt, digit), seed=digit, noise_seed=digit)
        # All samplers of a workflow do the same without a push.
        plain = first_pictures(server, set_inputs(pushed, **OFF))[0]
        columns.append([plain, *first_pictures(server, pushed)])
    return draw_rows([card.without, *card.rows], columns)


def draw_rows(labels: Sequence[str], columns: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """A square of rows, each with its label above it."""
    card = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(card)
    height = (SIDE - 2 * EDGE) // len(labels)
    cell = min(height - LABEL, SIDE // len(columns))
    left = (SIDE - cell * len(columns)) // 2
    for row, label in enumerate(labels):
        top = EDGE + row * height
        place = (SIDE // 2, top + LABEL // 2)
        draw.text(place, label, TEXT if row else DIM_TEXT, ImageFont.load_default(25), anchor="mm")
        for column, pictures in enumerate(columns):
            # The outermost pixels are ground only.
            picture = pictures[row].crop((4, 4, 60, 60))
            picture = picture.resize((cell, cell), Image.Resampling.BICUBIC)
            card.paste(picture, (left + column * cell, top + LABEL))
    return card


def draw_chain(names: Sequence[str]) -> Image.Image:
    """A square with the nodes of these names, one plugged into the next."""
    card = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(card)
    width, height = 330, 84
    left = (SIDE - width) // 2
    gap = (SIDE - len(names) * height) // (len(names) + 1)
    for i, name in enumerate(names):
        top = gap + i * (height + gap)
        if i:
            line = (SIDE // 2, top - gap, SIDE // 2, top)
            draw.line(line, DIM_TEXT, 4)
        ours = name.startswith("Bad-Version")
        outline = ACCENT if ours else DIM_TEXT
        box = (left, top, left + width, top + height)
        draw.rounded_rectangle(box, 14, (30, 36, 50), outline, 4 if ours else 2)
        place = (SIDE // 2, top + height // 2)
        draw.text(place, name, TEXT, ImageFont.load_default(30), anchor="mm")
    return card
