"""Category "bad version": the guider, and the same guidance as a patch on a model."""

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
# The page searches nodes by name only, and many know this method by the paper's name.
_TITLE = "{} (Autoguidance)"

_MOST_STEPS = 16

# What auto.weak_version does, in words.
_AUTO = (
    "a U-Net (SD1.5, SDXL) by Weaken Attention, other networks by Weaken by Skipping Blocks, both "
    "with default settings"
)


def _weak_scale_input() -> io.Float.Input:
    return io.Float.Input(
        "weak_scale",
        default=2.0,
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
        max=_MOST_STEPS,
        # So that prompts without it still run.
        optional=True,
        tooltip="Runs the weak model every N steps and reuses its push in between. 1 is every "
        "step. If the weak model is as large as the model, 2 is faster at hardly any loss, and 4 "
        "runs it a quarter as often. Higher values change the image more.",
    )


def _weak_model_input(not_connected: str) -> io.Model.Input:
    return io.Model.Input(
        "weak_model",
        optional=True,
        tooltip="The bad version to push away from: a smaller, earlier or more compressed model "
        "with the same kind of latents, the same checkpoint without its LoRAs, or the output of a "
        "Weaken node. It works best if it makes the same kind of mistakes as the model, only more "
        f"of them. {not_connected}",
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


def _weak_leg(
    node: str,
    model: ModelPatcher,
    weak_scale: float,
    weak_model: ModelPatcher | None,
    weak_positive: Conditioning | None,
    push: Push,
    every: int,
) -> WeakLeg | None:
    """The weak push that the inputs of either node ask for, or None if they ask for none.

    With neither a weak model nor a prompt for it, the model itself is weakened.
    """
    if weak_model is None and weak_positive is None:
        if is_off(weak_scale):
            return None
        weak_model = auto.weak_version(node, model)
    weak_model = model if weak_model is None else weak_model
    return WeakLeg(weak_model, weak_scale, weak_positive, push, every)


def _pushes(leg: WeakLeg | None, negative: Push) -> bool:
    """Whether the node itself acts on the sampler."""
    return not negative.is_plain or (leg is not None and not is_off(leg.scale))


def _require_legs(
    node: str, weak: Push, has_weak: bool, negative: Push, has_negative: bool
) -> None:
    """Raise ``GuidanceError`` for a schedule or shape that has no push to act on."""
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
                    f"something connected to {needed[leg]} as well",
                )
        for shape in push.shapes:
            if shape.needs_other_leg and not has_other:
                raise bad_input(
                    node,
                    f"{leg}_shape",
                    f"{shape.node}, which compares with the other push, and there is none",
                    f"something connected to {needed[other]} as well",
                )


class BadVersionGuider(io.ComfyNode):
    """``MODEL, CONDITIONING → GUIDER``, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuider",
            display_name=_TITLE.format(GUIDER_NAME),
            category=CATEGORY,
            description="Guides the sampler away from a bad version of the image: what a weak "
            "model would make of the same prompt, a negative prompt, or both. Without either, the "
            "model itself is weakened to make the bad version.",
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
                _weak_every_input(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What you do not want in the image, or an empty prompt. Not connected: "
                    "there is no negative push, and cfg has no effect.",
                ),
                _weak_model_input(
                    "If nothing is connected here, in negative and in weak_positive, the model "
                    f"itself is weakened: {_AUTO}. With a negative prompt alone, weak_scale has no "
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
        # A negative prompt alone is a bad version too.
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
            description="Makes any sampler push away from what a weak model would make of the same "
            "prompt. Connect it between the model and the sampler; the negative prompt and cfg "
            "stay those of the sampler. Without a weak model, the model itself is weakened to make "
            "the bad version.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that generates the image.",
                ),
                _weak_scale_input(),
                _weak_every_input(),
                _weak_model_input(
                    "If nothing is connected here, in weak_positive, negative_schedule and "
                    f"negative_shape, the model itself is weakened: {_AUTO}."
                ),
                _weak_positive_input(),
                *_push_inputs("the sampler's own negative prompt"),
                _probe_input(),
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
    ) -> io.NodeOutput:
        """Build the guided model; raise ``GuidanceError`` for inputs that cannot be used.

        A LoRA loader may still follow this node, so whether the weak model differs from the model
        is only checked when sampling starts.
        """
        check_scale(PATCH_NAME, "weak_scale", weak_scale)
        check_steps(PATCH_NAME, "weak_every", weak_every, _MOST_STEPS)
        weak_push = Push(weak_schedule, weak_shape)
        negative_push = Push(negative_schedule, negative_shape)
        leg = None
        # Inputs for the sampler's own negative push do not ask for a weak one.
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
