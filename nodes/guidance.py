"""Category "bad version": the guider, and the same guidance as a patch on a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders.push.call import Conditioning
from ..guiders.push.push import Push, is_off
from ..guiders.push.schedules import Schedule
from ..guiders.push.shapes import Shape
from ..guiders.record.probe import Probe
from ..guiders.run.attach import make_guider, with_guidance
from ..guiders.run.settings import settle
from .probe import ProbeType
from .progress import progress_text
from .pushes import MOST_STEPS, Chain, check_steps, more_pushes_input, strength_of
from .schedules import ScheduleType
from .shapes import ShapeType
from .widgets import advanced

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "bad version"

GUIDER_NAME = "Bad-Version Guider"
PATCH_NAME = "Bad-Version Patch"
# The page searches nodes by name only, and many know this method by the paper's name.
_TITLE = "{} (Autoguidance)"

# What weak_scale is at first; good for most models.
WEAK_SCALE = 2.0

# What auto.weak_version does, in words.
_AUTO = (
    "If nothing is connected here and in weak_positive, and weak_scale is not 1, the model itself "
    "is weakened: by the published recipe of its family, a U-Net (SD1.5, SDXL) by Weaken "
    "Attention, other networks by Weaken by Skipping Blocks."
)


def _weak_scale_input() -> io.Float.Input:
    return io.Float.Input(
        "weak_scale",
        default=WEAK_SCALE,
        min=0.0,
        max=100.0,
        step=0.05,
        round=0.001,
        tooltip="How hard to push away from the weak model. 1 is off and costs nothing. 1.5 to 3 "
        "makes images cleaner and closer to the prompt and keeps them varied; much higher looks "
        "harsh. Below 1 pulls towards the weak model.",
    )


def _weak_every_input() -> io.Int.Input:
    return io.Int.Input(
        "weak_every",
        default=1,
        min=1,
        max=MOST_STEPS,
        # So that prompts without it still run.
        optional=True,
        tooltip="Runs the weak model every N steps and reuses its push in between. 1 is every "
        "step. If the weak model is as large as the model, 2 is faster at hardly any loss, and 4 "
        "runs it a quarter as often. Higher values change the image more.",
    )


def _weak_model_input() -> io.Model.Input:
    return io.Model.Input(
        "weak_model",
        optional=True,
        tooltip="The bad version to push away from: a smaller, earlier or more compressed model "
        "with the same kind of latents, the same checkpoint without its LoRAs, or the output of a "
        "Weaken node. It works best if it makes the same kind of mistakes as the model, only more "
        f"of them. {_AUTO}",
    )


def _weak_positive_input() -> io.Conditioning.Input:
    return io.Conditioning.Input(
        "weak_positive",
        optional=True,
        tooltip="The prompt for the weak model, if it needs its own, for example because it has "
        "another text encoder. Not connected: the weak model uses the positive prompt. Without a "
        "weak model, the model itself uses this prompt to make the bad version; Weaken Prompt "
        "makes one for that.",
    )


def _push_inputs(negative: str) -> list[io.Input]:
    """Schedule and shape of both pushes; each node has its own words for the negative prompt."""
    return [
        each
        for push, of, schedule, shape in (
            ("weak", "the weak model", "Guidance Interval", "Cap Shape"),
            ("negative", negative, "Dynamic Negative", "Projected Shape (APG)"),
        )
        for each in _inputs_of_push(push, of, schedule, shape)
    ]


def _probe_input() -> io.Input:
    return ProbeType.Input(
        "probe",
        optional=True,
        tooltip="A Guidance Probe, which records what the pushes do during sampling. The image "
        "stays the same.",
    )


def _inputs_of_push(push: str, of: str, schedule: str, shape: str) -> list[io.Input]:
    return [
        ScheduleType.Input(
            f"{push}_schedule",
            optional=True,
            tooltip=f"When to push away from {of}, and how hard at each step, for example "
            f"with {schedule}. Not connected: the scale applies at every step.",
        ),
        ShapeType.Input(
            f"{push}_shape",
            optional=True,
            tooltip=f"Which part of the push away from {of} to keep, for example with {shape}. "
            "Not connected: all of it, unchanged.",
        ),
    ]


class BadVersionGuider(io.ComfyNode):
    """``MODEL, CONDITIONING → GUIDER``, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuider",
            display_name=_TITLE.format(GUIDER_NAME),
            category=CATEGORY,
            description="Guides the sampler away from a bad version of the image: what a weak "
            "model would make of the same prompt, a negative prompt, or both. Without a weak "
            "model, the model itself is weakened to make the bad version; weak_scale 1 switches "
            "that off.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that generates the image.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What you want in the image.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How hard to push away from the negative prompt. 1 is off and saves "
                    "one model pass; 2 to 8 is usual, lower with a weak model than without. No "
                    "effect if no negative prompt is connected.",
                ),
                _weak_scale_input(),
                advanced(_weak_every_input()),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What you do not want in the image, or an empty prompt. Not connected: "
                    "there is no negative push, and cfg has no effect.",
                ),
                _weak_model_input(),
                _weak_positive_input(),
                *_push_inputs("the negative prompt"),
                _probe_input(),
                more_pushes_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Guider.Output(
                    display_name="guider", tooltip="For the guider input of SamplerCustomAdvanced."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        cfg: float,
        weak_scale: float,
        weak_every: int = 1,
        negative: Conditioning | None = None,
        weak_model: ModelPatcher | None = None,
        weak_positive: Conditioning | None = None,
        weak_schedule: tuple[Schedule, ...] = (),
        weak_shape: tuple[Shape, ...] = (),
        negative_schedule: tuple[Schedule, ...] = (),
        negative_shape: tuple[Shape, ...] = (),
        probe: Probe | None = None,
        more_pushes: Chain = (),
    ) -> io.NodeOutput:
        """Build the guider; raise ``GuidanceError`` for inputs that cannot be used."""
        cfg_strength = strength_of(GUIDER_NAME, "cfg", cfg)
        weak_strength = strength_of(GUIDER_NAME, "weak_scale", weak_scale)
        check_steps(GUIDER_NAME, "weak_every", weak_every)
        has_negative = negative is not None
        guidance = settle(
            GUIDER_NAME,
            model,
            Push(weak_strength, weak_schedule, weak_shape),
            Push(None, negative_schedule, negative_shape),
            has_negative=has_negative,
            weak_model=weak_model,
            weak_prompt=weak_positive,
            every=weak_every,
            more=more_pushes,
            probe=probe,
            is_final=True,
        )
        if guidance.pushes or (has_negative and not is_off(cfg_strength)):
            guidance = replace(guidance, show=progress_text(cls))
        return io.NodeOutput(make_guider(with_guidance(model, guidance), positive, negative, cfg))


class BadVersionPatch(io.ComfyNode):
    """``MODEL → MODEL``, for KSampler and every other node that takes a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionPatch",
            display_name=_TITLE.format(PATCH_NAME),
            category=CATEGORY,
            description="Makes any sampler push away from what a weak model would make of the same "
            "prompt. Connect it between the model and the sampler; the negative prompt and cfg "
            "stay those of the sampler. Without a weak model, the model itself is weakened to make "
            "the bad version; weak_scale 1 switches that off.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that generates the image.",
                ),
                _weak_scale_input(),
                advanced(_weak_every_input()),
                _weak_model_input(),
                _weak_positive_input(),
                *_push_inputs("the sampler's own negative prompt"),
                _probe_input(),
                more_pushes_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The guided model, for the model input of a sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        weak_scale: float,
        weak_every: int = 1,
        weak_model: ModelPatcher | None = None,
        weak_positive: Conditioning | None = None,
        weak_schedule: tuple[Schedule, ...] = (),
        weak_shape: tuple[Shape, ...] = (),
        negative_schedule: tuple[Schedule, ...] = (),
        negative_shape: tuple[Shape, ...] = (),
        probe: Probe | None = None,
        more_pushes: Chain = (),
    ) -> io.NodeOutput:
        """Build the guided model; raise ``GuidanceError`` for inputs that cannot be used.

        A LoRA loader may still follow this node, so whether the weak model differs from the model
        is only checked when sampling starts.
        """
        weak_strength = strength_of(PATCH_NAME, "weak_scale", weak_scale)
        check_steps(PATCH_NAME, "weak_every", weak_every)
        guidance = settle(
            PATCH_NAME,
            model,
            Push(weak_strength, weak_schedule, weak_shape),
            Push(None, negative_schedule, negative_shape),
            has_negative=True,
            weak_model=weak_model,
            weak_prompt=weak_positive,
            every=weak_every,
            more=more_pushes,
            probe=probe,
        )
        if guidance.pushes:
            guidance = replace(guidance, show=progress_text(cls))
        return io.NodeOutput(with_guidance(model, guidance))


NODES: list[type[io.ComfyNode]] = [BadVersionGuider, BadVersionPatch]
