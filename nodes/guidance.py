"""Shelf "bad version": the guider, and the same guidance as a patch on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders import auto
from ..guiders.compatibility import check_scale, is_off
from ..guiders.sampling import (
    Conditioning,
    WeakLeg,
    make_guider,
    require_difference,
    with_weak_leg,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "bad version"

GUIDER_NAME = "Bad-Version Guider"
PATCH_NAME = "Bad-Version Patch"

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


def _weak_leg(
    node: str,
    model: ModelPatcher,
    weak_scale: float,
    weak_model: ModelPatcher | None,
    weak_positive: Conditioning | None,
) -> WeakLeg | None:
    """The leg that the inputs of either node ask for, or None where they ask for none.

    With neither a weak model nor a prompt for it, the model is weakened by itself.
    """
    if weak_model is None and weak_positive is None:
        if is_off(weak_scale):
            return None
        weak_model = auto.weak_version(node, model)
    return WeakLeg(node, model if weak_model is None else weak_model, weak_scale, weak_positive)


class BadVersionGuider(io.ComfyNode):
    """``MODEL, CONDITIONING → GUIDER``, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuider",
            display_name=GUIDER_NAME,
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
            ],
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
        negative: Conditioning | None = None,
        weak_model: ModelPatcher | None = None,
        weak_positive: Conditioning | None = None,
    ) -> io.NodeOutput:
        """Build the guider; raise ``GuidanceError`` for inputs that cannot be used."""
        check_scale(GUIDER_NAME, "cfg", cfg)
        check_scale(GUIDER_NAME, "weak_scale", weak_scale)
        # A negative prompt alone is enough to push away from.
        if negative is None or weak_model is not None or weak_positive is not None:
            leg = _weak_leg(GUIDER_NAME, model, weak_scale, weak_model, weak_positive)
            if leg is not None:
                model = with_weak_leg(model, leg)
                require_difference(leg, model)
        return io.NodeOutput(make_guider(model, positive, negative, cfg))


class BadVersionPatch(io.ComfyNode):
    """``MODEL → MODEL``, for KSampler and every other node that takes a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionPatch",
            display_name=PATCH_NAME,
            category=CATEGORY,
            description="Makes any sampler push away from what a weak model would make of the "
            "same prompt. Put it between the model and the sampler; the negative prompt and cfg "
            "stay the sampler's own. Without a weak model, it makes one of the model by itself.",
            inputs=[
                io.Model.Input("model", tooltip="The model that makes the picture."),
                _weak_scale_input(),
                _weak_model_input(
                    "Left open, with no weak_positive either, the model is its own bad version, "
                    f"weakened by itself: {_AUTO}."
                ),
                _weak_positive_input(),
            ],
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
        weak_model: ModelPatcher | None = None,
        weak_positive: Conditioning | None = None,
    ) -> io.NodeOutput:
        """Build the guided model; raise ``GuidanceError`` for inputs that cannot be used.

        A LoRA may still be put on the model behind this node, so whether the weak model differs
        from it is only checked when sampling starts.
        """
        check_scale(PATCH_NAME, "weak_scale", weak_scale)
        leg = _weak_leg(PATCH_NAME, model, weak_scale, weak_model, weak_positive)
        return io.NodeOutput(model if leg is None else with_weak_leg(model, leg))


NODES: list[type[io.ComfyNode]] = [BadVersionGuider, BadVersionPatch]
