"""A bad version at work, on a real ComfyUI with tiny models: what `make demo` runs.

Draws the ten digits five times from the same noise: without guidance, with a negative prompt, away
from a bad version that the model makes of itself, away from a weaker model, and from that and a
negative prompt. The graph is workflows/bad_version_digits.json, and only its guider is changed from
one way to the next. Puts all pictures on one sheet, build/demo/sheet.png, and lets a classifier
that has only ever seen real digits read them.

    make demo                                           # the sheet
    build/venv/bin/python tests/demo.py --readme        # the pictures of README and workflows, too
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import cards
from cards import DIM_TEXT, GROUND, TEXT
from digits.classifier import read_digits
from engine.install import ROOT, SetupError
from engine.library import LoadError
from engine.server import Server, ServerError, running_server
from engine.workflow import Prompt, find_node, to_prompt

WORKFLOW = "bad_version_digits"
OUT = ROOT / "build" / "demo"
README_PICTURE = ROOT / "docs" / "demo.jpg"
PLAYGROUND_PICTURE = ROOT / "docs" / "playground.jpg"

DIGITS = range(10)
PER_DIGIT = 6
SHOWN = 2  # So many of them on the sheet.

# On the sheet, in pixels.
CELL = 96
MARGIN = 24
LABEL_WIDTH = 290
LINE = 32
GAP = 28


@dataclass(frozen=True)
class Way:
    """A way of guiding: its name, and what the guider of the workflow does without."""

    name: str
    unplugged: tuple[str, ...]
    scales: tuple[str, ...]


WAYS = (
    Way("No guidance", unplugged=("negative", "weak_model"), scales=()),
    Way("Negative prompt", unplugged=("weak_model",), scales=("cfg",)),
    Way("Bad version of itself", unplugged=("negative", "weak_model"), scales=("weak_scale",)),
    Way("Weaker model", unplugged=("negative",), scales=("weak_scale",)),
    Way("Weaker and negative", unplugged=(), scales=("cfg", "weak_scale")),
)


@dataclass(frozen=True)
class Row:
    """What came of one way of guiding."""

    way: Way
    scales: str
    pictures: list[list[Image.Image]]  # PER_DIGIT of each digit
    right: int  # How many pictures were read as the digit asked for.
    seconds: float

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(map(len, self.pictures))


def guided(prompt: Prompt, way: Way, digit: int) -> Prompt:
    """The workflow's prompt, guided another way, for some pictures of a digit."""
    prompt = cards.set_inputs(cards.with_digit(prompt, digit), batch_size=PER_DIGIT)
    guider = prompt[find_node(prompt, "BadVersionGuider")]
    inputs = guider["inputs"]
    for name in way.unplugged:
        del inputs[name]
    if not way.scales:
        # With nothing plugged in, our guider makes a bad version by itself; core's makes none.
        guider["class_type"] = "BasicGuider"
        guider["inputs"] = {"model": inputs["model"], "conditioning": inputs["positive"]}
    return prompt


def run_way(server: Server, prompt: Prompt, way: Way) -> Row:
    """Draw all digits one way, with a line of progress."""
    print(f"{way.name:22} ", end="", flush=True)
    start = time.monotonic()
    pictures = []
    for digit in DIGITS:
        pictures.append(run(server, guided(prompt, way, digit)))
        print(f" {digit}", end="", flush=True)
    seconds = time.monotonic() - start
    right = sum(
        int((read_digits(as_tensor(some)) == digit).sum())
        for digit, some in zip(DIGITS, pictures, strict=True)
    )
    inputs = prompt[find_node(prompt, "BadVersionGuider")]["inputs"]
    scales = ", ".join(f"{name} {inputs[name]:g}" for name in way.scales)
    row = Row(way, scales, pictures, right, seconds)
    print(f"   {seconds:4.1f} s   {row.right} of {row.count} read as the digit asked for")
    return row


def run(server: Server, prompt: Prompt) -> list[Image.Image]:
    """Run a prompt; returns the pictures that its one node has saved."""
    (pictures,) = cards.run(server, prompt).values()
    return pictures


def as_tensor(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """[B, height, width, 3] in 0..1, as ComfyUI has pictures."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]) / 255.0)


def warm_up(server: Server, prompt: Prompt) -> None:
    """Let the server load all models, so that no way of guiding waits for them."""
    run(server, cards.set_inputs(prompt, steps=1))


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """All pictures: a row of the sheet for each way of guiding, a column for each digit."""
    row_height = SHOWN * CELL + GAP
    width = LABEL_WIDTH + len(DIGITS) * CELL + 2 * MARGIN
    height = len(rows) * row_height + LINE + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    caption = f"{SHOWN} of {PER_DIGIT} pictures of each digit; the same noise in every row"
    place = (width - MARGIN, height - MARGIN)
    draw.text(place, caption, DIM_TEXT, ImageFont.load_default(17), anchor="rb")
    for i, row in enumerate(rows):
        top = MARGIN + i * row_height
        lines = [(row.way.name, 26, TEXT), (f"{row.right} of {row.count} read right", 17, TEXT)]
        if row.scales:
            lines.insert(1, (row.scales, 17, DIM_TEXT))
        line_top = top + (SHOWN * CELL - LINE * len(lines)) // 2
        for j, (text, size, colour) in enumerate(lines):
            place = (MARGIN, line_top + j * LINE + LINE // 2)
            draw.text(place, text, colour, ImageFont.load_default(size), anchor="lm")
        for digit, pictures in zip(DIGITS, row.pictures, strict=True):
            for j, picture in enumerate(pictures[:SHOWN]):
                place = (MARGIN + LABEL_WIDTH + digit * CELL, top + j * CELL)
                sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), place)
    return sheet


def save(rows: Sequence[Row]) -> Path:
    """Write the sheet and the single pictures; returns where the sheet is."""
    shutil.rmtree(OUT, ignore_errors=True)
    for row in rows:
        folder = OUT / row.way.name.lower().replace(" ", "_")
        folder.mkdir(parents=True)
        for digit, pictures in zip(DIGITS, row.pictures, strict=True):
            for i, picture in enumerate(pictures):
                picture.save(folder / f"{digit}_{i}.png")
    path = OUT / "sheet.png"
    draw_sheet(rows).save(path)
    return path


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the demo; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--readme",
        action="store_true",
        help="also renew the pictures in docs/ and workflows/",
    )
    options = parser.parse_args(arguments)
    try:
        print("Starting ComfyUI …", flush=True)
        with running_server() as server:
            prompt = to_prompt(cards.load(WORKFLOW), server.object_info())
            print("Loading the models …", flush=True)
            warm_up(server, prompt)
            rows = [run_way(server, prompt, way) for way in WAYS]
            if options.readme:
                prompt = to_prompt(cards.load("playground"), server.object_info())
                methods, _ = cards.shown_by(server, prompt, "GuidancePlayground")
                methods.save(PLAYGROUND_PICTURE, quality=88)
                for path in cards.renew(server):
                    print(f"Renewed {path.relative_to(ROOT)}.", flush=True)
    except (ServerError, SetupError, LoadError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. ComfyUI has been stopped."
    print(f"The pictures are in {save(rows)}.")
    if options.readme:
        README_PICTURE.parent.mkdir(exist_ok=True)
        draw_sheet(rows).save(README_PICTURE, quality=88)
    return None


if __name__ == "__main__":
    sys.exit(main())
