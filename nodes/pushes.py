"""Category "bad version/push": pushes beside the guider's and the patch's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders.errors import bad_input
from ..guiders.push import history
from ..guiders.push.call import Conditioning
from ..guiders.push.push import Push
from ..guiders.push.schedules import Schedule
from ..guiders.push.shapes import Shape
from ..guiders.run.settings import AnotherPush, HistoryPush, Names
from .schedules import ScheduleType
from .shapes import ShapeType
from .widgets import advanced, check, number

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "bad version/push"

PushesType = io.Custom("BadVersionPush")

Chain = tuple[AnotherPush | HistoryPush, ...]

MOST_STEPS = 16


def more_pushes_input() -> io.Input:
    """For every node that takes pushes, further ones in a chain included."""
    return PushesType.Input(
        "more_pushes",
        optional=True,
        tooltip="More pushes, from Another Push or History Push. All of them add up.",
    )


def strength_of(node: str, name: str, scale: float) -> float:
    """What guidance calculates with, 0 being off, in place of the artist's scale.

    Raises:
        GuidanceError: unless the scale is a finite number.
    """
    if not math.isfinite(scale):
        raise bad_input(node, name, str(scale), "a finite number; 1 is off")
    return scale - 1.0


def check_steps(node: str, name: str, steps: float) -> None:
    """Raise ``GuidanceError`` unless ``steps`` is a whole number in its range."""
    if not 1 <= steps <= MOST_STEPS or steps != int(steps):
        expected = f"a whole number from 1, which is every step, to {MOST_STEPS}"
        raise bad_input(node, name, str(steps), expected)


def _scale_input(default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        "scale", default=default, min=0.0, max=100.0, step=0.05, round=0.001, tooltip=tooltip
    )


def _when_and_how(when: str, how: str) -> list[io.Input]:
    return [
        ScheduleType.Input(
            "schedule",
            optional=True,
            tooltip=f"When to push, and how hard at each step. Not connected: {when}.",
        ),
        ShapeType.Input(
            "shape",
            optional=True,
            tooltip=f"Which part of the push to keep. Not connected: {how}.",
        ),
        more_pushes_input(),
    ]


def _output() -> io.Output:
    return PushesType.Output(
        display_name="pushes",
        tooltip="For more_pushes of Bad-Version Guider or Patch, or of another node like this one.",
    )


class BadVersionAnotherPush(io.ComfyNode):
    """``→ BadVersionPush``: away from a second weak model, or from a second negative prompt."""

    NAME = "Another Push"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionAnotherPush",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Adds one more push to a Bad-Version Guider or Patch: away from a second "
            "weak model, or from a second negative prompt, with a scale of its own.",
            inputs=[
                _scale_input(
                    1.5,
                    "How hard to push away from this bad version. 1 is off and costs nothing. "
                    "Pushes add up, so 1.2 to 2 is usual beside others; below 1 pulls towards it.",
                ),
                advanced(
                    io.Int.Input(
                        "every",
                        default=1,
                        min=1,
                        max=MOST_STEPS,
                        tooltip="Runs the bad version every N steps and reuses its push in "
                        "between. 1 is every step; 2 is faster at hardly any loss.",
                    )
                ),
                io.Model.Input(
                    "weak_model",
                    optional=True,
                    tooltip="A weak model to push away from. Not connected: the model itself, with "
                    "the prompt of this node.",
                ),
                io.Conditioning.Input(
                    "prompt",
                    optional=True,
                    tooltip="What the bad version sees: a second negative prompt, for example. Not "
                    "connected: the positive prompt, which needs a weak model here.",
                ),
                *_when_and_how("the scale applies at every step", "all of it, unchanged"),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        scale: float,
        every: int = 1,
        weak_model: ModelPatcher | None = None,
        prompt: Conditioning | None = None,
        schedule: tuple[Schedule, ...] = (),
        shape: tuple[Shape, ...] = (),
        more_pushes: Chain = (),
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        strength = strength_of(cls.NAME, "scale", scale)
        check_steps(cls.NAME, "every", every)
        if weak_model is None and prompt is None:
            raise bad_input(
                cls.NAME,
                "weak_model",
                "nothing, and nothing in 'prompt'",
                "a weak model, or a prompt to push away from, or both",
            )
        push = Push(strength, schedule, shape)
        names = Names.of_own_node(cls.NAME)
        return io.NodeOutput((*more_pushes, AnotherPush(names, push, weak_model, prompt, every)))


class BadVersionHistoryPush(io.ComfyNode):
    """``→ BadVersionPush``: away from the image's own past, at no model pass."""

    NAME = "History Push"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionHistoryPush",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Adds a push away from what the image was in the steps before, to a "
            "Bad-Version Guider or Patch. It needs no weak model and no negative prompt, and no "
            "extra pass: a step takes as long as without it.",
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(history.MODES),
                    default=history.MODES[0],
                    tooltip="What counts as the past. momentum: the direction in which the steps "
                    "have gone (momentum guidance). average: what the image looked like, and only "
                    "its details are pushed (HiGS).",
                ),
                _scale_input(
                    1.5,
                    "How hard to push away from the past. 1 is off. 1.2 to 2 is useful; above 2 "
                    "it does harm.",
                ),
                number(
                    "memory",
                    0.3,
                    0.0,
                    0.95,
                    0.05,
                    "How much of the earlier past stays at each step: 0 is the step before alone. "
                    "0.3 does no harm on models with little to gain; 0.6, as published for "
                    "momentum, pushes further. 0.25 to 0.5 for average.",
                ),
                *_when_and_how(
                    "as published, not at the end of sampling", "all of what the mode leaves"
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        mode: str,
        scale: float,
        memory: float,
        schedule: tuple[Schedule, ...] = (),
        shape: tuple[Shape, ...] = (),
        more_pushes: Chain = (),
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        strength = strength_of(cls.NAME, "scale", scale)
        check(cls, mode=mode, memory=memory)
        for each in shape:
            if each.needs_other_push or each.prompts:
                raise bad_input(
                    cls.NAME,
                    "shape",
                    f"{each.node}, which compares with what a model predicts, and for this push "
                    "no model predicts anything",
                    "another shape",
                )
        past = history.History(mode, memory)
        push = Push(strength, schedule or past.schedules, (*past.shapes, *shape))
        names = Names.of_own_node(cls.NAME)
        return io.NodeOutput((*more_pushes, HistoryPush(names, push, past)))


NODES: list[type[io.ComfyNode]] = [BadVersionAnotherPush, BadVersionHistoryPush]
