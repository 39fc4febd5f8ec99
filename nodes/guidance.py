"""Shelf "bad version": the guider, and the same guidance as a patch on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders.errors import bad_input
from ..guiders.models import check_scale, check_steps, is_off
from ..guiders.push.call import Conditioning
from ..guiders.push.schedules import Schedule
from ..guiders.push.shapes import Shape
from ..guiders.record.probe import Probe
from ..guiders.run.attach import make_guider, with_guidance
from ..guiders.run.settings import Guidance, Push, WeakLeg, require_difference
from ..guiders.weaken import auto
from .probe import ProbeType
from .progress import progress_text
from .schedules import ScheduleType
from .shapes import ShapeType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "bad version"

GUIDER_NAME = "Bad-Version Guider"
PATCH_NAME = "Bad-Version Patch"
# The page finds nodes by their names alone, and many know this one by its paper's word.
_TITLE = "{} (Autoguidance)"

_MOST_STEPS = 16

# What auto.weak_version does, in words.
_AUTO = (
    "a U-Net (SD1.5, SDXL) by Weaken Attention, other networks by Weaken by Skipping Blocks, with "
    "these nodes' defaults"
)


def _weak_scale_input() -> io.Float.Input:
    return io.Float.Input(
        "weak_scale",
        default=2.0,
        min=0.0,
        max=100.0,
        step=0.05,
        round=0.001,
        tooltip="How hard to push away from the weak model. 1 is off and costs nothing; 1.5 to 3 "
        "makes pictures cleaner and truer to the prompt while they stay varied; far above that "
        "they turn harsh. Below 1 pulls towards the weak model.",
    )


def _weak_every_input() -> io.Int.Input:
    return io.Int.Input(
        "weak_every",
        default=1,
        min=1,
        max=_MOST_STEPS,
        # So that workflows and prompts from before it was there still run.
        optional=True,
        tooltip="In how many steps the weak model works once; the steps between use the push that "
        "it led to last. 1 is every step. Where the weak model is as large as the model, 2 is "
        "faster at hardly any loss, and 4 makes a quarter of its passes. The higher, the further "
        "the picture moves from that of 1.",
    )


def _weak_model_input(left_open: str) -> io.Model.Input:
    return io.Model.Input(
        "weak_model",
        optional=True,
        tooltip="The bad version to push away from: a smaller, earlier or more compressed model "
        "with the same kind of latents, the same checkpoint without its LoRAs, or what a Weaken "
        "node makes of it. Best where it makes the same kind of mistakes as the model, only more "
        f"of them. {left_open}",
    )


def _weak_positive_input() -> io.Conditioning.Input:
    return io.Conditioning.Input(
        "weak_positive",
        optional=True,
        tooltip="What the weak model sees, where it needs a prompt of its own, for instance "
        "because it has another text encoder. Left open, it sees the positive prompt. Without a "
        "weak model, the model itself sees this prompt as its bad version; Weaken Prompt makes one "
        "for that.",
    )


def _push_inputs(negative: str) -> list[io.Input]:
    """Schedule and shape of both legs; the negative prompt goes by another name in either node."""
    return [
        each
        for leg, of, schedule, shape in (
            ("weak", "the weak model", "Guidance Interval", "Cap Shape"),
            ("negative", negative, "Dynamic Negative", "Projected Shape (APG)"),
        )
        for each in _leg_inputs(leg, of, schedule, shape)
    ]


def _probe_input() -> io.Input:
    return ProbeType.Input(
        "probe",
        optional=True,
        tooltip="A Guidance Probe, which records what the pushes do while sampling. It changes "
        "nothing in the picture.",
    )


def _leg_inputs(leg: str, of: str, schedule: str, shape: str) -> list[io.Input]:
    return [
        ScheduleType.Input(
            f"{leg}_schedule",
            optional=True,
            tooltip=f"When to push away from {of}, and how hard over the steps, such as "
            f"{schedule}. Left open, always as hard as the scale says.",
        ),
        ShapeType.Input(
            f"{leg}_shape",
            optional=True,
            tooltip=f"What of the push away from {of} is used, such as {shape}. Left open, "
            "all of it as it is.",
        ),
    ]


def _weak_leg(
    node: str,
    model: ModelPatcher,
    weak_scale: float,
    weak_model: ModelPatcher | None,
    weak_positive: Conditioning | None,
    push: Push,
    every: int,
) -> WeakLeg | None:
    """The leg that the inputs of either node ask for, or None where they ask for none.

    With neither a weak model nor a prompt for it, the model is weakened by itself.
    """
    if weak_model is None and weak_positive is None:
        if is_off(weak_scale):
            return None
        weak_model = auto.weak_version(node, model)
    weak_model = model if weak_model is None else weak_model
    return WeakLeg(weak_model, weak_scale, weak_positive, push, every)


def _pushes(leg: WeakLeg | None, negative: Push) -> bool:
    """Whether anything of a node's own acts on the sampler."""
    return not negative.is_plain or (leg is not None and not is_off(leg.scale))


def _require_legs(
    node: str, weak: Push, has_weak: bool, negative: Push, has_negative: bool
) -> None:
    """Raise ``GuidanceError`` for a schedule or shape without what it is to act on."""
    for leg, push, has_leg, has_other in (
        ("weak", weak, has_weak, has_negative),
        ("negative", negative, has_negative, has_weak),
    ):
        needed = {"weak": "'weak_model' or 'weak_positive'", "negative": "'negative'"}
        other = {"weak": "negative", "negative": "weak"}[leg]
        for kind, parts in (("schedule", push.schedules), ("shape", push.shapes)):
            if parts and not has_leg:
                raise bad_input(
                    node,
                    f"{leg}_{kind}",
                    f"a {kind}, but there is no push that it could act on",
                    f"something in {needed[leg]} as well",
                )
        for shape in push.shapes:
            if shape.needs_other_leg and not has_other:
                raise bad_input(
                    node,
                    f"{leg}_shape",
                    f"{shape.node}, which compares with the other push, and there is none",
                    f"something in {needed[other]} as well",
                )


class BadVersionGuider(io.ComfyNode):
    """``MODEL, CONDITIONING → GUIDER``, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuider",
            display_name=_TITLE.format(GUIDER_NAME),
            category=CATEGORY,
            description="Guides the sampler away from a bad version of the picture: from what a "
            "weak model would make of the same prompt, from a negative prompt, or from both. "
            "Without either, it makes a weak version of the model by itself.",
            inputs=[
                io.Model.Input("model", tooltip="The model that makes the picture."),
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How hard to push away from the negative prompt. 1 is off and saves "
                    "a pass of the model; 2 to 8 is usual, less than without a weak model. Not "
                    "used while no negative prompt is connected.",
                ),
                _weak_scale_input(),
                _weak_every_input(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What the picture shall not show, or an empty prompt. Left open, "
                    "there is no negative push and cfg has no effect.",
                ),
                _weak_model_input(
                    "Left open, with no negative prompt either, the model is its own bad version, "
                    f"weakened by itself: {_AUTO}. With a negative prompt alone, weak_scale has no "
                    "effect."
                ),
                _weak_positive_input(),
                *_push_inputs("the negative prompt"),
                _probe_input(),
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
    ) -> io.NodeOutput:
        """Build the guider; raise ``GuidanceError`` for inputs that cannot be used."""
        check_scale(GUIDER_NAME, "cfg", cfg)
        check_scale(GUIDER_NAME, "weak_scale", weak_scale)
        check_steps(GUIDER_NAME, "weak_every", weak_every, _MOST_STEPS)
        # A negative prompt alone is enough to push away from.
        has_weak = negative is None or weak_model is not None or weak_positive is not None
        weak_push = Push(weak_schedule, weak_shape)
        negative_push = Push(negative_schedule, negative_shape)
        _require_legs(GUIDER_NAME, weak_push, has_weak, negative_push, negative is not None)
        leg = None
        if has_weak:
            leg = _weak_leg(
                GUIDER_NAME, model, weak_scale, weak_model, weak_positive, weak_push, weak_every
            )
        pushes = _pushes(leg, negative_push) or (negative is not None and not is_off(cfg))
        show = progress_text(cls) if pushes else None
        guidance = Guidance(GUIDER_NAME, leg, negative_push, probe, show)
        model = with_guidance(model, guidance)
        if leg is not None:
            require_difference(GUIDER_NAME, leg, model)
        return io.NodeOutput(make_guider(model, positive, negative, cfg))


class BadVersionPatch(io.ComfyNode):
    """``MODEL → MODEL``, for KSampler and every other node that takes a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionPatch",
            display_name=_TITLE.format(PATCH_NAME),
            category=CATEGORY,
            description="Makes any sampler push away from what a weak model would make of the "
            "same prompt. Put it between the model and the sampler; the negative prompt and cfg "
            "stay the sampler's own. Without a weak model, it makes one of the model by itself.",
            inputs=[
                io.Model.Input("model", tooltip="The model that makes the picture."),
                _weak_scale_input(),
                _weak_every_input(),
                _weak_model_input(
                    "Left open, with nothing in weak_positive and the negative inputs either, the "
                    f"model is its own bad version, weakened by itself: {_AUTO}."
                ),
                _weak_positive_input(),
                *_push_inputs("the sampler's own negative prompt"),
                _probe_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The guided model, for a sampler's model input."
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
    ) -> io.NodeOutput:
        """Build the guided model; raise ``GuidanceError`` for inputs that cannot be used.

        A LoRA may still be put on the model behind this node, so whether the weak model differs
        from it is only checked when sampling starts.
        """
        check_scale(PATCH_NAME, "weak_scale", weak_scale)
        check_steps(PATCH_NAME, "weak_every", weak_every, _MOST_STEPS)
        weak_push = Push(weak_schedule, weak_shape)
        negative_push = Push(negative_schedule, negative_shape)
        leg = None
        # What is for the sampler's own push alone does not ask for another one.
        if weak_model is not None or weak_positive is not None or negative_push.is_plain:
            leg = _weak_leg(
                PATCH_NAME, model, weak_scale, weak_model, weak_positive, weak_push, weak_every
            )
        _require_legs(
            PATCH_NAME, weak_push, leg is not None or is_off(weak_scale), negative_push, True
        )
        show = progress_text(cls) if _pushes(leg, negative_push) else None
        guidance = Guidance(PATCH_NAME, leg, negative_push, probe, show)
        return io.NodeOutput(with_guidance(model, guidance))


NODES: list[type[io.ComfyNode]] = [BadVersionGuider, BadVersionPatch]
