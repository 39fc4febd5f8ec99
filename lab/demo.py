"""A bad version at work, on a real ComfyUI with tiny models: what `make demo` runs.

Draws emoji of ten kinds five times from the same noise: without guidance, with an empty negative
prompt, away from a bad version that the model makes of itself, away from the model as it was after
a fifth of its training, and from that and the negative prompt. The graph is
bad_version_emoji.json in node_pack/workflows, and only its guider is changed from one way to the
next. Puts the images on one sheet, build/demo/sheet.png, and lets a classifier that has only ever
seen real emoji read them.

    make demo     # the sheet
    make cards    # the images of README and workflows, too
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import cards
import graph_picture
from comfyui.install import ROOT, SetupError
from comfyui.library import ASSETS, LoadError
from comfyui.server import Server, ServerError, running_server
from comfyui.workflow import Prompt, find_node, to_prompt
from emoji import CREDIT
from sheet import DIM_TEXT, LARGE, Label, SheetRow, draw_sheet
from tiny.judge import Judge, load_judge

WORKFLOW = "bad_version_emoji"
OUT = ROOT / "build" / "demo"
# Of the README, and so of what artists download: all of it is to stay below 3 MB.
AS_JPEG = {"quality": 75, "optimize": True, "progressive": True}
DOCS = ROOT / "docs"
SHEET_PICTURE = DOCS / "demo.jpg"
PLAYGROUND_PICTURE = DOCS / "playground.jpg"
PLOT_PICTURE = DOCS / "guidance_plot.jpg"

PER_KIND = 6
SHOWN = 2  # So many of them on the sheet.


@dataclass(frozen=True)
class Way:
    """A way of guiding.

    Attributes:
        name: what the sheet calls it.
        disconnected: what the guider of the workflow does without.
        scales: which of the guider's scales act then.
        own: those of them that are not the workflow's.
    """

    name: str
    disconnected: tuple[str, ...]
    scales: tuple[str, ...]
    own: Mapping[str, float] = field(default_factory=dict)


WAYS = (
    Way("No guidance", disconnected=("negative", "weak_model"), scales=()),
    Way(
        "Negative prompt",
        disconnected=("weak_model",),
        scales=("cfg",),
        own={"weak_scale": 1.0},
    ),
    # The block that is skipped then is a third of so small a network: a little of that is enough.
    Way(
        "Bad version of itself",
        disconnected=("negative", "weak_model"),
        scales=("weak_scale",),
        own={"weak_scale": 1.5},
    ),
    Way("Earlier version of it", disconnected=("negative",), scales=("weak_scale",)),
    Way("Earlier and negative", disconnected=(), scales=("cfg", "weak_scale")),
)


@dataclass(frozen=True)
class Row:
    """What came of one way of guiding."""

    way: Way
    scales: str
    pictures: dict[str, list[Image.Image]]  # PER_KIND of each kind
    right: int  # How many images were read as what was asked for.
    seconds: float

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(map(len, self.pictures.values()))


def guided(prompt: Prompt, way: Way, kind: str, seed: int) -> Prompt:
    """The workflow's prompt, guided another way, for some images of a kind."""
    prompt = cards.set_inputs(cards.drawn(prompt, kind, seed), batch_size=PER_KIND, **way.own)
    guider = prompt[find_node(prompt, "BadVersionGuider")]
    inputs = guider["inputs"]
    for name in way.disconnected:
        del inputs[name]
    if not way.scales:
        # With no weak model, our guider makes a bad version by itself; core's makes none.
        guider["class_type"] = "BasicGuider"
        guider["inputs"] = {"model": inputs["model"], "conditioning": inputs["positive"]}
    return prompt


def run_way(server: Server, prompt: Prompt, way: Way, kinds: Sequence[str]) -> Row:
    """Draw all kinds one way, with a line of progress."""
    print(f"{way.name:22} ", end="", flush=True)
    start = time.monotonic()
    pictures = {}
    for seed, kind in enumerate(kinds):
        pictures[kind] = run(server, guided(prompt, way, kind, seed))
        print(".", end="", flush=True)
    seconds = time.monotonic() - start
    right = sum(read_kinds(pictures[kind], kinds).count(kind) for kind in kinds)
    inputs = {**prompt[find_node(prompt, "BadVersionGuider")]["inputs"], **way.own}
    scales = ", ".join(f"{name} {inputs[name]:g}" for name in way.scales)
    row = Row(way, scales, pictures, right, seconds)
    print(f"   {seconds:4.1f} s   {row.right} of {row.count} read as what was asked for")
    return row


def run(server: Server, prompt: Prompt) -> list[Image.Image]:
    """Run a prompt; returns the images that its one node has saved."""
    (pictures,) = cards.run(server, prompt).values()
    return pictures


def as_tensor(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """[B, height, width, 3] in 0..1, as ComfyUI has images."""
    values = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(values / 255)


def read_kinds(pictures: Sequence[Image.Image], kinds: Sequence[str]) -> list[str]:
    """Which of the ten kinds of emoji the classifier sees in each image."""
    return [kinds[index] for index in _judge().read(as_tensor(pictures))]


@cache
def _judge() -> Judge:
    return load_judge(ASSETS / "emoji_judge.safetensors")


def warm_up(server: Server, prompt: Prompt) -> None:
    """Let the server load all models, so that no way of guiding waits for them."""
    run(server, cards.set_inputs(prompt, steps=1))


def draw(rows: Sequence[Row]) -> Image.Image:
    """The sheet: a row of it for each way of guiding, a column for each kind."""
    note = f"{SHOWN} of {PER_KIND} images of each kind; the same noise in every row"
    return draw_sheet(list(rows[0].pictures), list(map(_sheet_row, rows)), (CREDIT, note))


def _sheet_row(row: Row) -> SheetRow:
    labels = [Label(row.way.name, LARGE), Label(f"{row.right} of {row.count} read right")]
    if row.scales:
        labels.insert(1, Label(row.scales, colour=DIM_TEXT))
    return SheetRow(labels, [pictures[:SHOWN] for pictures in row.pictures.values()])


def save(rows: Sequence[Row]) -> Path:
    """Write the sheet and the single images; returns where the sheet is."""
    shutil.rmtree(OUT, ignore_errors=True)
    for row in rows:
        folder = OUT / _file_name(row.way.name)
        folder.mkdir(parents=True)
        for kind, pictures in row.pictures.items():
            for i, picture in enumerate(pictures):
                picture.save(folder / f"{_file_name(kind)}_{i}.png")
    path = OUT / "sheet.png"
    draw(rows).save(path)
    return path


def _file_name(name: str) -> str:
    return name.lower().replace(" ", "_")


def renew_pictures(server: Server, object_info: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Draw the images of README and workflows anew."""
    for path in cards.renew(server):
        print(f"Renewed {path.relative_to(ROOT)}.", flush=True)
    # Artists download them with the pack.
    small = {"quality": 65, "optimize": True, "progressive": True}
    draw(rows).save(SHEET_PICTURE, **small)
    prompt = to_prompt(cards.load("playground"), object_info)
    methods, _ = cards.shown_by(server, prompt, "BadVersionGuidancePlayground")
    methods.save(PLAYGROUND_PICTURE, **small)
    cards.without_top(Image.open(cards.card_path("compare_pushes"))).save(PLOT_PICTURE, **small)
    graph_picture.renew()
    for path in (SHEET_PICTURE, PLAYGROUND_PICTURE, PLOT_PICTURE, graph_picture.PICTURE):
        print(f"Renewed {path.relative_to(ROOT)}.", flush=True)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the demo; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--readme",
        action="store_true",
        help="also renew the images of README and workflows",
    )
    options = parser.parse_args(arguments)
    try:
        print("Starting ComfyUI …", flush=True)
        with running_server() as server:
            object_info = server.object_info()
            prompt = to_prompt(cards.load(WORKFLOW), object_info)
            kinds = cards.subjects_of(object_info, "EmojiConditioning")
            print("Loading the models …", flush=True)
            warm_up(server, prompt)
            rows = [run_way(server, prompt, way, kinds) for way in WAYS]
            if options.readme:
                renew_pictures(server, object_info, rows)
    except (ServerError, SetupError, LoadError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. ComfyUI has been stopped."
    print(f"The images are in {save(rows)}.")
    return None


if __name__ == "__main__":
    sys.exit(main())
