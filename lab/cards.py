"""The workflows, and their images in ComfyUI's template browser.

Each image is drawn by its workflow: first a row or two without what the workflow shows, then what
each of its samplers makes of the same noise; or the sheet that the workflow draws itself. What
needs models that are not here shows what the same nodes do with the tiny ones, or how its pushes
lie: from where, how hard, and when. `make cards` draws them all anew.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from comfyui.install import ROOT
from comfyui.library import PROMPTS_PACK
from comfyui.server import Server
from comfyui.workflow import Prompt, to_prompt
from sheet import DIM_TEXT, GROUND, TEXT

# Each node pack's own templates: those for artists, and those that draw with the tiny models.
FOR_ARTISTS = ROOT / "workflows"
OF_TINY_MODELS = PROMPTS_PACK / "workflows"
WORKFLOWS = dict(
    sorted(
        (path.stem, path)
        for folder in (FOR_ARTISTS, OF_TINY_MODELS)
        for path in folder.glob("*.json")
    )
)

# In pixels.
SIDE = 512
LABEL = 40
EDGE = 12
TOP = 64  # The page lays a badge over it.
MOST_GROUND = 4  # Around an image, in its own pixels: what is cut off.
FRAME = 2  # The same: what is put around an image that has no ground of its own.
FAINT = 24  # Of 255: what differs from the ground by more belongs to a digit.
ACCENT = (120, 200, 255)

OFF = {"cfg": 1.0, "weak_scale": 1.0}
# The widget that says what the tiny models draw, by the class of the node that has it.
SUBJECTS = {"DigitConditioning": "digit", "EmojiConditioning": "emoji"}
EMPTY = "none"


@dataclass(frozen=True)
class Without:
    """A row of images to compare with, which the workflow draws without something.

    Attributes:
        label: what to write above them.
        off: whether it draws without any push.
        disconnected: inputs to disconnect.
    """

    label: str = "without guidance"
    off: bool = True
    disconnected: tuple[str, ...] = ()

    def applied(self, prompt: Prompt) -> Prompt:
        """The prompt without it."""
        prompt = set_inputs(prompt, **(OFF if self.off else {}))
        for node in prompt.values():
            for name in self.disconnected:
                node["inputs"].pop(name, None)
        return prompt


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        rows: what to write above the images of each sampler of the workflow, from top to bottom.
        subjects: what to draw, one image each; None for the batch of the workflow as it is saved.
        seeds: for the noise of each subject.
        without: what to compare with, above the rows of the workflow.
    """

    rows: tuple[str, ...]
    subjects: tuple[str, ...] | None = ("5", "6", "9")
    seeds: tuple[int, ...] = (5, 6, 9)
    without: tuple[Without, ...] = (Without(),)


CARDS = {
    "bad_version_digits": Card(rows=("away from a weaker model, with cfg",)),
    "bad_version_emoji": Card(
        rows=("away from an earlier version, with cfg",),
        subjects=("face", "heart", "person"),
        seeds=(8, 6, 3),
    ),
    "dynamic_negative": Card(
        rows=("no 3: dynamic negative, cfg 6",),
        subjects=None,
        without=(
            Without("digits of any kind", disconnected=("negative_schedule",)),
            Without("no 3: negative prompt, cfg 6", off=False, disconnected=("negative_schedule",)),
        ),
    ),
    "one_checkpoint": Card(rows=("away from a bad version of itself",)),
    "schedule_interval": Card(
        rows=("weak_scale 5, from 20 to 80 %",),
        subjects=("0", "1", "7"),
        seeds=(20, 21, 27),
        without=(
            Without(),
            Without("weak_scale 5, at every step", off=False, disconnected=("weak_schedule",)),
        ),
    ),
    "shape_apg": Card(
        rows=("cfg 8, projected (APG)",),
        subjects=("1", "7", "9"),
        seeds=(11, 17, 19),
        without=(
            Without(),
            Without("cfg 8", off=False, disconnected=("negative_shape",)),
        ),
    ),
    "weaken_lora": Card(
        rows=("away from the model without it", "away from beyond the base"),
        subjects=("0", "2", "3"),
        seeds=(0, 2, 3),
        without=(Without("LoRA for bold strokes, at half strength"),),
    ),
    "weaken_passes": Card(rows=("away from blurred attention", "away from a skipped block")),
    "weaken_prompt": Card(rows=("away from half of the prompt",)),
    "weaken_weights": Card(rows=("away from noisy weights", "away from low rank and few bits")),
}
# What draws a sheet of its own shows that: the class of the node that has it.
SHEETS: dict[str, str] = {
    "compare_pushes": "BadVersionGuidancePlot",
    "compare_scales": "BadVersionLabelledGrid",
    "playground": "BadVersionGuidancePlayground",
}
# What needs models that are not here, with the workflow that has the same nodes and tiny models.
ALIKE = {
    "sdxl_apg_at_a_high_cfg": "shape_apg",
    "sdxl_dynamic_negative": "dynamic_negative",
    "sdxl_sweep_of_scales": "compare_scales",
    "sdxl_two_pushes_compared": "compare_pushes",
    "z_image_turbo_lora_on_against_off": "weaken_lora",
}


@dataclass(frozen=True)
class Idea:
    """What a card says that shows a workflow's pushes.

    Attributes:
        model: its name.
        bad_version: what the weak model is, in two lines at most.
        image: what comes of it, if that is no whole image.
    """

    model: str
    bad_version: str
    image: str = "image"


_FEWER_BLOCKS = "itself with\nfewer blocks"
_BLURRED = "itself with blurred\nattention"
IDEAS = {
    "anima_weak_attention": Idea("Anima", "itself, block 18\nwithout attention"),
    "chroma_skipped_blocks": Idea("Chroma", _FEWER_BLOCKS),
    "flux1_dev_skipped_blocks": Idea("FLUX.1 dev", _FEWER_BLOCKS),
    "flux2_klein_base_skipped_blocks": Idea("FLUX.2 klein base", _FEWER_BLOCKS),
    "qwen_image_weak_prompt": Idea("Qwen-Image", "itself without\nthe prompt's words"),
    "sd15_one_checkpoint": Idea("SD1.5", _BLURRED),
    "sd35_cfg_early_blocks_late": Idea("SD3.5 Medium", "itself without\nblocks 7 to 9"),
    "sd35_large_guided_by_medium": Idea("SD3.5 Large", "SD3.5 Medium"),
    "sdxl_finetune_against_base": Idea("SDXL finetune", "SDXL base"),
    "sdxl_inpainting": Idea("SDXL", _BLURRED, image="new part"),
    "sdxl_interval": Idea("SDXL", _BLURRED),
    "sdxl_one_checkpoint": Idea("SDXL", _BLURRED),
    "wan22_5b_video": Idea("Wan 2.2 5B", "itself without\nblocks 9 and 10", image="video"),
    "z_image_skipped_blocks": Idea("Z-Image", _FEWER_BLOCKS),
}
# What cannot run here.
CHAINS = sorted({*ALIKE, *IDEAS})


def load(name: str) -> dict[str, Any]:
    """The workflow of this name, as it is saved."""
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


def card_path(name: str) -> Path:
    """Where the image of the workflow of this name is."""
    return WORKFLOWS[name].with_suffix(".jpg")


def set_inputs(prompt: Prompt, **values: Any) -> Prompt:
    """The prompt, with these values in every node that has a widget of that name."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name in values.keys() & node["inputs"].keys():
            node["inputs"][name] = values[name]
    return prompt


def subjects_of(object_info: Mapping[str, Any], class_type: str) -> list[str]:
    """What the tiny models can draw whose prompts are of this class, without the empty prompt."""
    _, widget = object_info[class_type]["input"]["required"][SUBJECTS[class_type]]
    return [option for option in widget["options"] if option != EMPTY]


def with_subject(prompt: Prompt, subject: str) -> Prompt:
    """The prompt, for something else to draw. The empty prompt stays."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        widget = SUBJECTS.get(node["class_type"])
        if widget is not None and node["inputs"][widget] != EMPTY:
            node["inputs"][widget] = subject
    return prompt


def run(server: Server, prompt: Prompt) -> dict[str, list[Image.Image]]:
    """Run a prompt; returns the images that it has saved, by the ids of the nodes that did."""
    outputs = server.wait(server.queue(prompt))["outputs"]
    return {
        node_id: [opened(server, one) for one in saved["images"]]
        for node_id, saved in sorted(outputs.items(), key=lambda item: (len(item[0]), item[0]))
        if prompt[node_id]["class_type"] == "SaveImage"
    }


def opened(server: Server, image: Mapping[str, str]) -> Image.Image:
    """An image that the server has, given as a history entry names it."""
    return Image.open(io.BytesIO(server.image(image))).convert("RGB")


def renew(server: Server) -> Iterator[Path]:
    """Draw the cards of all workflows anew; gives the path of each when it is done."""
    # Those come last that are made of another one's.
    for name in sorted(WORKFLOWS, key=ALIKE.__contains__):
        draw(server, name).save(card_path(name), quality=65, optimize=True, progressive=True)
        yield card_path(name)


def draw(server: Server, name: str) -> Image.Image:
    """The card of one workflow."""
    if name in ALIKE:
        with Image.open(card_path(ALIKE[name])) as card:
            return draw_alike(card)
    prompt = to_prompt(load(name), server.object_info())
    if name in IDEAS:
        return draw_idea(IDEAS[name], pushes_of(prompt))
    if name in SHEETS:
        return draw_sheet(server, prompt, SHEETS[name])
    card = CARDS[name]
    prompts = [prompt]
    if card.subjects is not None:
        prompts = list(map(partial(drawn, prompt), card.subjects, card.seeds))
    labels = [*(each.label for each in card.without), *card.rows]
    rows: list[list[Image.Image]] = [[] for _ in labels]
    for pushed in prompts:
        # All samplers of a workflow do the same without the push.
        plain = [next(iter(run(server, each.applied(pushed)).values())) for each in card.without]
        for row, pictures in zip(rows, [*plain, *run(server, pushed).values()], strict=True):
            row += pictures
    return draw_rows(labels, rows, dim=len(card.without))


def drawn(prompt: Prompt, subject: str, seed: int) -> Prompt:
    """The prompt, for something else to draw and another noise."""
    return set_inputs(with_subject(prompt, subject), seed=seed, noise_seed=seed)


def draw_rows(
    labels: Sequence[str], rows: Sequence[Sequence[Image.Image]], dim: int
) -> Image.Image:
    """A square of rows, each with its label above it, the first ones less bright.

    A row has as many lines as let its images be largest.
    """
    card = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(card)
    height = (SIDE - TOP - EDGE) // len(rows)
    count = len(rows[0])
    cell, lines = max(
        (min((height - LABEL) // lines, SIDE // -(-count // lines)), lines)
        for lines in range(1, count + 1)
    )
    columns = -(-count // lines)
    left = (SIDE - cell * columns) // 2
    edge = min(map(ground_around, itertools.chain.from_iterable(rows)))
    for i, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        top = TOP + i * height
        place = (SIDE // 2, top + LABEL // 2)
        colour = DIM_TEXT if i < dim else TEXT
        draw.text(place, label, colour, ImageFont.load_default(25), anchor="mm")
        for j, picture in enumerate(pictures):
            picture = ImageOps.crop(picture, edge) if edge else framed(picture)
            picture = picture.resize((cell, cell), Image.Resampling.BICUBIC)
            line, column = divmod(j, columns)
            card.paste(picture, (left + column * cell, top + LABEL + line * cell))
    return card


def framed(picture: Image.Image) -> Image.Image:
    """An image with a little ground around it, which keeps it apart from its neighbours."""
    return ImageOps.expand(picture, FRAME, GROUND)


def ground_around(picture: Image.Image) -> int:
    """How many of the outermost pixels of an image are ground only, and may be cut off."""
    far = ImageChops.difference(picture, Image.new("RGB", picture.size, GROUND)).convert("L")
    box = far.point(lambda value: 255 if value > FAINT else 0).getbbox()
    if box is None:
        return MOST_GROUND
    left, top, right, bottom = box
    return min(MOST_GROUND, left, top, picture.width - right, picture.height - bottom)


def draw_sheet(server: Server, prompt: Prompt, class_type: str) -> Image.Image:
    """A square with what the nodes of this class show, one below the other."""
    pictures = shown_by(server, prompt, class_type)
    card = Image.new("RGB", (SIDE, SIDE), GROUND)
    height = (SIDE - TOP) // len(pictures)
    for place, picture in enumerate(pictures):
        fitted = ImageOps.pad(picture, (SIDE, height), color=GROUND)
        card.paste(fitted, (0, TOP + place * height))
    return card


def shown_by(server: Server, prompt: Prompt, class_type: str) -> list[Image.Image]:
    """Run a prompt; returns the one image that each node of this class shows on itself."""
    outputs = server.wait(server.queue(prompt))["outputs"]
    shown = [outputs[i]["images"] for i, n in prompt.items() if n["class_type"] == class_type]
    return [opened(server, one) for (one,) in shown]


def without_top(card: Image.Image) -> Image.Image:
    """What is on a card, below the part that the page covers."""
    return card.crop((0, TOP, *card.size))


def draw_alike(card: Image.Image) -> Image.Image:
    """The card of a workflow with tiny models, for one that has the same nodes and larger ones."""
    fitted = ImageOps.pad(without_top(card), (SIDE, SIDE - TOP - LABEL), color=GROUND)
    alike = Image.new("RGB", (SIDE, SIDE), GROUND)
    alike.paste(fitted, (0, TOP))
    place = (SIDE // 2, SIDE - LABEL // 2)
    words = "the same nodes, with tiny models"
    ImageDraw.Draw(alike).text(place, words, DIM_TEXT, ImageFont.load_default(22), anchor="mm")
    return alike


@dataclass(frozen=True)
class Acting:
    """A push of a workflow: the scale of which input, and in which part of sampling, 0..1."""

    scale: str
    value: float
    start: float = 0.0
    end: float = 1.0


def pushes_of(prompt: Prompt) -> list[Acting]:
    """The pushes of a workflow with one guider or patch, as its nodes have them."""
    (guiding,) = (
        node["inputs"]
        for node in prompt.values()
        if node["class_type"] in ("BadVersionGuider", "BadVersionPatch")
    )
    samplers = (node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler")
    cfg = guiding if "cfg" in guiding else next(samplers)
    pushes = []
    for scale, value, schedule in (
        ("cfg", cfg["cfg"], "negative_schedule"),
        ("weak_scale", guiding["weak_scale"], "weak_schedule"),
    ):
        part = {}
        if schedule in guiding:
            interval = prompt[guiding[schedule][0]]["inputs"]
            part = {name: float(interval[name]) for name in ("start", "end")}
        if value != 1:
            pushes.append(Acting(scale, value, **part))
    return pushes


def draw_idea(idea: Idea, pushes: Sequence[Acting]) -> Image.Image:
    """A square with where the push leads: from the bad version, over the model; and when."""
    card = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(card)
    large, middle, small = map(ImageFont.load_default, (40, 26, 22))
    left, right = 40, SIDE - 40

    draw.text((left, TOP + 30), idea.model, TEXT, large, anchor="lm")

    line, radius = TOP + 132, 13
    bad, model, image = left + 70, left + 250, right - 30
    draw.text((bad, line - 24), "bad version", TEXT, small, anchor="ms")
    draw.line((bad, line, model, line), DIM_TEXT, 3)
    draw.line((model, line, image - 26, line), ACCENT, 5)
    draw.polygon(((image - 14, line), (image - 34, line - 12), (image - 34, line + 12)), ACCENT)
    for x, colour in ((bad, DIM_TEXT), (model, TEXT)):
        draw.ellipse((x - radius, line - radius, x + radius, line + radius), colour)
    for x, words, colour in (
        (bad, idea.bad_version, DIM_TEXT),
        (model, "model", TEXT),
        (image, idea.image, ACCENT),
    ):
        centred = {"anchor": "ma", "align": "center"}
        at = max(x, draw.multiline_textbbox((0, 0), words, small)[2] / 2 + EDGE)
        at = min(at, SIDE - EDGE - draw.multiline_textbbox((0, 0), words, small)[2] / 2)
        draw.multiline_text((at, line + 22), words, colour, small, **centred)

    height = 70
    top = SIDE - 16 - height * len(pushes)
    for i, push in enumerate(pushes):
        y = top + i * height
        colour = ACCENT if push.scale == "weak_scale" else DIM_TEXT
        draw.text((left, y), f"{push.scale} {push.value:g}", colour, middle, anchor="ls")
        draw.rectangle((left, y + 10, right, y + 28), (30, 36, 50))
        start, end = (left + share * (right - left) for share in (push.start, push.end))
        draw.rectangle((start, y + 10, end, y + 28), colour)
    foot = SIDE - 26
    draw.text((left, foot), "first step", DIM_TEXT, small, anchor="lm")
    draw.text((right, foot), "last step", DIM_TEXT, small, anchor="rm")
    return card
