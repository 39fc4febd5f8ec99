"""Category "bad version": what is known of a model's family, for the guider or the patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders.run.settings import unguided
from ..guiders.weaken.auto import WeakVersion, weak_version
from ..guiders.weaken.recipes import Recipe
from .drawing.style import LANGUAGES
from .guidance import CATEGORY, WEAK_SCALE
from .progress import progress_text
from .schedules import ScheduleType
from .widgets import check, language_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# By the folder of a language: how a model is weakened, when a push is on, and all in one text.
_WAYS = {
    "en": {
        "attention": "weakened self-attention in {}",
        "skip": "skipped {}",
        "rank": "half of the rank of all weights",
    },
    "zh": {"attention": "弱化 {} 的自注意力", "skip": "跳过 {}", "rank": "所有权重只保留一半的秩"},
}
_WHEN = {
    "en": ("at every step", "from {} to {} % of sampling"),
    "zh": ("每一步", "采样的 {} 到 {} %"),
}
_SOURCED = {
    "en": "{}: {}. weak_scale {:g}, {}. Source: {}.",
    "zh": "{}：{}。弱模型引导强度 {:g}，{}。来源：{}。",
}
_UNSOURCED = {
    "en": "{}: {}. weak_scale {:g}, {}. No source gives numbers for this family: these are a place "
    "to start. Compare 1.5 to 3.",
    "zh": "{}：{}。弱模型引导强度 {:g}，{}。这一系列没有公开的数值，这些只是起点，"
    "请比较 1.5 到 3。",
}


class BadVersionRecipe(io.ComfyNode):
    """``MODEL → MODEL, FLOAT, schedule, STRING``."""

    NAME = "Guidance Recipe"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionRecipe",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Makes a bad version of your model as it was published for the model's "
            "family (SD1.5, SDXL, SD3.5, Wan, LTX-Video, Anima and more), with the scale and the "
            "part of sampling that go with it, and says where they come from. Connect its outputs "
            "to Bad-Version Guider or Patch.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that generates the image, with its LoRAs; it is not changed "
                    "itself.",
                ),
                language_input("the text"),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(
                    display_name="weak_model",
                    tooltip="The bad version, for weak_model of Bad-Version Guider or Patch.",
                ),
                io.Float.Output(
                    display_name="weak_scale",
                    tooltip="How hard to push, for weak_scale of Bad-Version Guider or Patch.",
                ),
                ScheduleType.Output(
                    display_name="weak_schedule",
                    tooltip="When to push, for weak_schedule of Bad-Version Guider or Patch.",
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="What was chosen, and from which source; also shown on the node.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, language: str) -> io.NodeOutput:
        """Weaken the model by the recipe of its family, or as it is done where there is none."""
        check(cls, language=language)
        made = weak_version(cls.NAME, unguided(model))
        strength = None if made.recipe is None else made.recipe.strength
        scale = WEAK_SCALE if strength is None else 1.0 + strength
        text = _told(made, scale, LANGUAGES[language])
        show = progress_text(cls)
        if show is not None:
            show(text)
        return io.NodeOutput(made.model, scale, made.schedules, text)


def how(way: str, blocks: str, language: str) -> str:
    """In what way a model is weakened, in an artist's words."""
    return _WAYS[language][way].format(blocks)


def when(recipe: Recipe | None, language: str) -> str:
    """In which part of sampling to push, in an artist's words."""
    always, interval = _WHEN[language]
    if recipe is None or recipe.is_always_on:
        return always
    return interval.format(*(f"{100 * share:g}" for share in (recipe.start, recipe.end)))


def _told(made: WeakVersion, scale: float, language: str) -> str:
    sentence = _SOURCED if made.source else _UNSOURCED
    done, then = how(made.way, made.blocks, language), when(made.recipe, language)
    return sentence[language].format(made.family, done, scale, then, made.source)


NODES: list[type[io.ComfyNode]] = [BadVersionRecipe]
