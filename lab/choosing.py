"""Draws the figures of docs/choosing.md, in English and in Chinese.

    make choosing

Every figure comes out of the pack's own nodes, run on the server with the tiny models of emoji: a
sheet of *Guidance Sweep* and *Labelled Grid*, or a drawing of *Guidance Plot*.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import cards
from comfyui.install import ROOT, SetupError
from comfyui.server import Server, ServerError, running_server
from comfyui.workflow import Prompt

FOLDER = ROOT / "docs" / "choosing"
# As the nodes call the languages, by the ending of a figure's name.
LANGUAGES = {"en": "English", "zh": "中文"}

MAIN, EARLIER, VAE = "emoji_main.safetensors", "emoji_earlier.safetensors", "emoji_vae.safetensors"
SUBJECT, SEED, IMAGES, STEPS = "face", 1, 4, 16
PICTURE, CELL = 64, 160  # in pixels
# Of a figure.
QUALITY = 88


@dataclass(frozen=True)
class Choice:
    """A bad version, or a schedule, that is compared with others.

    Attributes:
        node: that makes it.
        inputs: of that node.
        names: on the figure, by language.
    """

    node: str
    inputs: Mapping[str, Any]
    names: Mapping[str, str]


def _weak(node: str, english: str, chinese: str, **inputs: Any) -> Choice:
    return Choice(node, {"model": ["main", 0], **inputs}, {"en": english, "zh": chinese})


def _checkpoint(english: str, chinese: str) -> Choice:
    inputs = {"unet_name": EARLIER, "weight_dtype": "default"}
    return Choice("UNETLoader", inputs, {"en": english, "zh": chinese})


def _interval(english: str, chinese: str, start: float, end: float) -> Choice:
    inputs = {"unit": "percent", "start": start, "end": end}
    return Choice("BadVersionGuidanceInterval", inputs, {"en": english, "zh": chinese})


_EARLIER = _checkpoint("earlier version", "早期版本")
_SKIPPED = _weak("BadVersionWeakenBySkippingBlocks", "block skipped", "跳过模块", blocks="auto")
_NOISE = _weak(
    "BadVersionWeakenWithNoise", "noisy weights", "权重加噪", amount=0.3, seed=0, blocks="all"
)
WEAK_MODELS = (
    _EARLIER,
    _SKIPPED,
    _weak("BadVersionWeakenWithLowRank", "low rank", "低秩", keep=0.5, blocks="auto"),
    _NOISE,
)
BLOCKS = tuple(
    _weak("BadVersionWeakenBySkippingBlocks", f"block {i}", f"模块 {i}", blocks=str(i))
    for i in range(3)
)
SCHEDULES = (
    _interval("every step", "每一步", 0.0, 1.0),
    _interval("first third", "前三分之一", 0.0, 0.33),
    _interval("middle", "中间", 0.33, 0.67),
    _interval("last third", "后三分之一", 0.67, 1.0),
)
RECORDED = (_EARLIER, _SKIPPED, _NOISE)
PLOTTED = 3.0  # The scale of the pushes that are plotted.


def models() -> Prompt:
    """What all graphs begin with: the model, its prompt and its steps."""
    return {
        "main": _node("UNETLoader", unet_name=MAIN, weight_dtype="default"),
        "prompt": _node("EmojiConditioning", emoji=SUBJECT),
        "vae": _node("VAELoader", vae_name=VAE),
        "sampler": _node("KSamplerSelect", sampler_name="dpmpp_2m"),
        "steps": _node(
            "BasicScheduler", model=["main", 0], scheduler="simple", steps=STEPS, denoise=1.0
        ),
        "empty": _node("EmptySD3LatentImage", width=PICTURE, height=PICTURE, batch_size=IMAGES),
    }


def sheet(
    language: str, scales: str, weak_models: Sequence[Choice], schedules: Sequence[Choice] = ()
) -> Prompt:
    """A graph that draws every scale with every weak model and schedule; "sheet" is the image."""
    prompt = models()
    sweep: dict[str, Any] = {
        "scales": scales,
        "seeds": str(SEED),
        "columns": "scale",
        "language": LANGUAGES[language],
    }
    for kind, choices in (("weak_model", weak_models), ("schedule", schedules)):
        sweep[f"{kind}_names"] = "; ".join(each.names[language] for each in choices)
        for i, choice in enumerate(choices, 1):
            prompt[f"{kind}_{i}"] = _node(choice.node, **choice.inputs)
            sweep[f"{kind}_{i}"] = [f"{kind}_{i}", 0]
    prompt["sweep"] = _node("BadVersionGuidanceSweep", **sweep)
    scheduled = {"weak_schedule": ["sweep", 3]} if schedules else {}
    _sample(prompt, "", ["sweep", 1], weak_scale=["sweep", 0], weak_model=["sweep", 2], **scheduled)
    prompt["decoded"] = _node("VAEDecode", samples=["latent", 0], vae=["vae", 0])
    prompt["grid"] = _node(
        "BadVersionLabelledGrid",
        images=["decoded", 0],
        sweep=["sweep", 4],
        title="",
        column_captions="",
        row_captions="",
        columns=4,
        cell_size=CELL,
    )
    prompt["sheet"] = _node("SaveImage", images=["grid", 0], filename_prefix="choosing")
    return prompt


def plots(language: str, view: str) -> Prompt:
    """A graph that records the pushes away from some weak models, and plots them together."""
    prompt = models()
    inputs: dict[str, Any] = {"view": view, "language": LANGUAGES[language]}
    for i, weak in enumerate(RECORDED, 1):
        # The first of the plot's inputs has no number.
        number = f"_{i}" if i > 1 else ""
        prompt[f"weak{number}"] = _node(weak.node, **weak.inputs)
        probe = f"probe{number}"
        prompt[probe] = _node("BadVersionGuidanceProbe", name=weak.names[language])
        pushed = {"weak_scale": PLOTTED, "weak_model": [f"weak{number}", 0], "probe": [probe, 0]}
        _sample(prompt, number, SEED, **pushed)
        inputs |= {probe: [probe, 0], f"latent{number}": [f"latent{number}", 0]}
    prompt["plot"] = _node("BadVersionGuidancePlot", **inputs)
    prompt["sheet"] = _node("SaveImage", images=["plot", 0], filename_prefix="choosing")
    return prompt


def _sample(prompt: Prompt, number: str, seed: Any, **guided: Any) -> None:
    """Add a sampler with a guider to a graph; "latent" and the number is its result."""
    prompt[f"guider{number}"] = _node(
        "BadVersionGuider", model=["main", 0], positive=["prompt", 0], cfg=1.0, **guided
    )
    prompt[f"noise{number}"] = _node("RandomNoise", noise_seed=seed)
    prompt[f"latent{number}"] = _node(
        "SamplerCustomAdvanced",
        noise=[f"noise{number}", 0],
        guider=[f"guider{number}", 0],
        sampler=["sampler", 0],
        sigmas=["steps", 0],
        latent_image=["empty", 0],
    )


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


# By name of the figure: the graph that draws it in a language.
FIGURES: dict[str, Callable[[str], Prompt]] = {
    "scales": lambda language: sheet(language, "0, 1, 1.5, 2, 3, 6", WEAK_MODELS),
    "blocks": lambda language: sheet(language, "0, 1, 1.5, 2, 3", BLOCKS),
    "when": lambda language: sheet(language, "1, 2, 3, 6", [_EARLIER], SCHEDULES),
    "length": lambda language: plots(language, "push"),
    "along": lambda language: plots(language, "along"),
}


def path_of(name: str, language: str) -> Path:
    """Where a figure belongs."""
    return FOLDER / f"{name}.{language}.jpg"


def draw(server: Server, name: str, language: str) -> Image.Image:
    """One figure in one language."""
    (image,) = cards.run(server, FIGURES[name](language)).get("sheet", [])
    return image


def renew(server: Server) -> Iterator[Path]:
    """Draw all figures anew; gives the path of each when it is done."""
    FOLDER.mkdir(exist_ok=True)
    for language in LANGUAGES:
        for name in FIGURES:
            path = path_of(name, language)
            draw(server, name, language).save(path, quality=QUALITY)
            yield path


def main() -> str | None:
    """Draw them; returns what went wrong, as `sys.exit` takes it."""
    try:
        with running_server() as server:
            for path in renew(server):
                print(f"Renewed {path.relative_to(ROOT)}.", flush=True)
    except (ServerError, SetupError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
