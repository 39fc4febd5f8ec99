"""Category "bad version/schedule": how hard to push, at each step and for each image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..guiders.errors import bad_input
from ..guiders.models import noise_of
from ..guiders.push import schedules
from ..guiders.push.schedules import Schedule
from .drawing.style import LANGUAGES
from .plots import plot_schedule
from .widgets import advanced, check, language_input, number

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

CATEGORY = "bad version/schedule"

ScheduleType = io.Custom("BadVersionSchedule")

Chain = tuple[Schedule, ...]

_UNITS = ["percent", "sigma"]
_MOST_SIGMA = 10000.0

# How a curve is typed.
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_MOST_STRENGTH = 100.0


def _chain_input() -> io.Input:
    return ScheduleType.Input(
        "schedule",
        optional=True,
        tooltip="Another schedule to combine with: the two are multiplied. Where one of them is 0, "
        "the push is off and costs nothing.",
    )


def _output() -> io.Output:
    return ScheduleType.Output(
        display_name="schedule",
        tooltip="For weak_schedule or negative_schedule of Bad-Version Guider or Patch, for the "
        "schedule of Another Push or History Push, or for another schedule.",
    )


def _unit_input(of: str) -> io.Combo.Input:
    return io.Combo.Input(
        "unit",
        options=_UNITS,
        default="percent",
        tooltip=f"Unit of {of}: 'percent' is the share of sampling that is done, from 0 to 1, and "
        "fits every model; 'sigma' is the noise level, which falls during sampling.",
    )


def _percents(node: type[io.ComfyNode], **values: float) -> None:
    for name, value in values.items():
        if value > 1:
            raise bad_input(
                node.NAME, name, f"{value:g}", "a share of sampling from 0 to 1, or unit 'sigma'"
            )


class BadVersionGuidanceInterval(io.ComfyNode):
    """``→ BadVersionSchedule``: on between two points; off, at no cost, outside."""

    NAME = "Guidance Interval"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceInterval",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Pushes only during a part of sampling, and costs nothing outside of it. "
            "No push at the start keeps images varied; no push at the end saves time.",
            inputs=[
                _unit_input("start and end"),
                number(
                    "start",
                    0.2,
                    0.0,
                    _MOST_SIGMA,
                    0.01,
                    "Where the push starts. As a percent, 0.1 to 0.3 leaves the composition alone "
                    "and keeps images varied; 0 pushes from the first step. As a sigma, it is the "
                    "greater of the two, for example 5.4 for SDXL.",
                ),
                number(
                    "end",
                    0.9,
                    0.0,
                    _MOST_SIGMA,
                    0.01,
                    "Where the push stops. As a percent, 0.7 to 1 is useful, as the last steps "
                    "change little. As a sigma, it is the smaller of the two, for example 0.28 for "
                    "SDXL.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, unit: str, start: float, end: float, schedule: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for an empty interval."""
        check(cls, unit=unit, start=start, end=end)
        by_sigma = unit == "sigma"
        if not by_sigma:
            _percents(cls, start=start, end=end)
        if start == end or (start < end) == by_sigma:
            order = "below 'start', as sigma falls" if by_sigma else "above 'start'"
            raise bad_input(
                cls.NAME, "end", f"{end:g} for a start at {start:g}", f"a number {order}"
            )
        return io.NodeOutput((*schedule, schedules.Interval(start, end, by_sigma)))


class BadVersionGuidanceRamp(io.ComfyNode):
    """``→ BadVersionSchedule``: from one strength to another over the steps."""

    NAME = "Guidance Ramp"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceRamp",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Lets the push rise, fall, or rise and fall again during sampling. Rising "
            "keeps images varied; falling steers the composition and leaves details alone.",
            inputs=[
                io.Combo.Input(
                    "direction",
                    options=list(schedules.RAMP_DIRECTIONS),
                    default="rising",
                    tooltip="How the push changes: 'rising' goes from low to high and keeps images "
                    "varied, 'falling' goes from high to low, 'peak' is high half way and low at "
                    "both ends.",
                ),
                io.Combo.Input(
                    "curve",
                    options=list(schedules.RAMP_CURVES),
                    default="cosine",
                    tooltip="How the change runs: 'linear' is even, 'cosine' is gentle at both "
                    "ends, 'power' follows the exponent in power.",
                ),
                number(
                    "low",
                    0.0,
                    -10.0,
                    10.0,
                    0.05,
                    "The weakest push, as a multiple of what the scale asks for. 0 is off, 0.5 is "
                    "half, below 0 pulls towards the bad version. 0 to 0.5 is useful.",
                ),
                number(
                    "high",
                    1.5,
                    -10.0,
                    10.0,
                    0.05,
                    "The strongest push, as a multiple of what the scale asks for: 1 is exactly "
                    "that. 1 to 2 is useful, as a ramp pushes less overall than a constant scale.",
                ),
                advanced(
                    number(
                        "start",
                        0.0,
                        0.0,
                        1.0,
                        0.01,
                        "Where the change begins, as the share of sampling that is done; 0 is the "
                        "first step.",
                    )
                ),
                advanced(
                    number(
                        "end",
                        1.0,
                        0.0,
                        1.0,
                        0.01,
                        "Where the change is complete, as the share of sampling that is done; 1 "
                        "is the last step. After it, the push stays as it is.",
                    )
                ),
                advanced(
                    number(
                        "power",
                        2.0,
                        0.1,
                        10.0,
                        0.1,
                        "Exponent of the 'power' curve; no effect on the others. 1 is linear, 2 "
                        "or 3 stays near low for longer, 0.5 stays near high for longer.",
                    )
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        direction: str,
        curve: str,
        low: float,
        high: float,
        start: float,
        end: float,
        power: float,
        schedule: Chain = (),
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(
            cls,
            direction=direction,
            curve=curve,
            low=low,
            high=high,
            start=start,
            end=end,
            power=power,
        )
        if start >= end:
            raise bad_input(
                cls.NAME, "end", f"{end:g} for a start at {start:g}", "a number above 'start'"
            )
        ramp = schedules.Ramp(direction, curve, low, high, start, end, power)
        return io.NodeOutput((*schedule, ramp))


class BadVersionGuidanceCurve(io.ComfyNode):
    """``STRING → BadVersionSchedule``: through typed points."""

    NAME = "Guidance Curve"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceCurve",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Sets how hard to push in the course of sampling, through points that you "
            "type.",
            inputs=[
                io.String.Input(
                    "points",
                    default="0: 0, 0.2: 1, 0.8: 1, 1: 0.5",
                    tooltip="Pairs of 'position: strength', separated by commas. Positions are in "
                    "the unit below. Strength is a multiple of what the scale asks for: 1 is all "
                    "of it, 0 is off, 2 is twice as much.",
                ),
                _unit_input("the positions"),
                io.Combo.Input(
                    "interpolation",
                    options=list(schedules.INTERPOLATIONS),
                    default="linear",
                    tooltip="What lies between two points: 'linear' is a straight line, 'smooth' "
                    "is a soft curve, 'steps' keeps the strength of the point before.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls, points: str, unit: str, interpolation: str, schedule: Chain = ()
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for points that cannot be read."""
        check(cls, unit=unit, interpolation=interpolation)
        by_sigma = unit == "sigma"
        read = cls._read(points, by_sigma)
        return io.NodeOutput((*schedule, schedules.Curve(read, by_sigma, interpolation)))

    @classmethod
    def _read(cls, points: str, by_sigma: bool) -> tuple[tuple[float, float], ...]:
        read: dict[float, float] = {}
        # Chinese keyboards type full-width punctuation.
        for part in filter(None, map(str.strip, re.split("[\n,;，；]", points))):
            numbers = re.fullmatch(
                rf"({_NUMBER})\s*[:：]\s*({_NUMBER})|({_NUMBER})\s+({_NUMBER})", part
            )
            if numbers is None:
                raise cls._unreadable(repr(part), "position and strength, such as '0.2: 1'")
            position, strength = (float(each) for each in numbers.groups() if each is not None)
            if not 0 <= position <= (_MOST_SIGMA if by_sigma else 1):
                expected = "a share of sampling from 0 to 1"
                if by_sigma:
                    expected = f"a sigma from 0 to {_MOST_SIGMA:g}"
                raise cls._unreadable(f"the position {position:g}", expected)
            if not -_MOST_STRENGTH <= strength <= _MOST_STRENGTH:
                raise cls._unreadable(
                    f"the strength {strength:g}",
                    f"a number from {-_MOST_STRENGTH:g} to {_MOST_STRENGTH:g}",
                )
            if position in read:
                raise cls._unreadable(f"the position {position:g} twice", "each position once")
            read[position] = strength
        if not read:
            raise cls._unreadable("nothing", "at least one point, such as '0: 1'")
        return tuple(sorted(read.items()))

    @classmethod
    def _unreadable(cls, came: str, expected: str) -> Exception:
        return bad_input(cls.NAME, "points", came, expected)


class BadVersionDynamicNegative(io.ComfyNode):
    """``→ BadVersionSchedule``: dynamic negative guidance."""

    NAME = "Dynamic Negative"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionDynamicNegative",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Pushes only as hard as each image drifts towards the negative prompt. "
            "Every image of a batch is judged on its own, and one that has nothing to do with the "
            "prompt is left alone. Needs a higher cfg than usual: 4 to 11.",
            inputs=[
                number(
                    "prior",
                    0.02,
                    0.001,
                    0.9,
                    0.01,
                    "How likely an image is to show what you do not want, before the first step. "
                    "0.01 to 0.05 leaves other images alone; go up to 0.2 for what comes up that "
                    "often.",
                ),
                number(
                    "temperature",
                    1.0,
                    0.0,
                    1000.0,
                    0.05,
                    "How fast the push reacts to what the steps show. 0.2 to 2 is useful. Too low "
                    "and it stays at what prior says; too high and it jumps between off and full.",
                ),
                advanced(
                    io.Boolean.Input(
                        "per_dimension",
                        default=True,
                        tooltip="Counts temperature and offset per 1000 numbers of a latent, so "
                        "that the same values fit every image size. Off: the values are those of "
                        "the paper.",
                    )
                ),
                advanced(
                    number(
                        "offset",
                        0.25,
                        -1000.0,
                        1000.0,
                        0.001,
                        "Evidence for the negative prompt that is added at every step, so that "
                        "the push does not die out too early. 0 to 0.5 is useful; it counts most "
                        "in the last steps.",
                    )
                ),
                advanced(
                    number(
                        "floor",
                        0.000001,
                        0.000001,
                        0.5,
                        0.000001,
                        "The lowest probability. The smaller it is, the longer a push that has "
                        "died out takes to come back. 0.000001 to 0.001 is useful.",
                    )
                ),
                number(
                    "ceiling",
                    0.8,
                    0.01,
                    0.99,
                    0.01,
                    "The highest probability, which sets the strongest push: at 0.8 it is 4 times "
                    "what the scale asks for, at 0.5 exactly that.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        prior: float,
        temperature: float,
        per_dimension: bool,
        offset: float,
        floor: float,
        ceiling: float,
        schedule: Chain = (),
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(
            cls, prior=prior, temperature=temperature, offset=offset, floor=floor, ceiling=ceiling
        )
        if floor >= ceiling:
            raise bad_input(
                cls.NAME, "ceiling", f"{ceiling:g}", f"a number above 'floor' {floor:g}"
            )
        if not floor <= prior <= ceiling:
            expected = f"a number from 'floor' {floor:g} to 'ceiling' {ceiling:g}"
            raise bad_input(cls.NAME, "prior", f"{prior:g}", expected)
        dynamic = schedules.DynamicNegative(
            prior, temperature, per_dimension, offset, floor, ceiling
        )
        return io.NodeOutput((*schedule, dynamic))


class BadVersionStopWhenSettled(io.ComfyNode):
    """``→ BadVersionSchedule``: off for good, with its pass, when there is nothing left to push."""

    NAME = "Stop When Settled"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionStopWhenSettled",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Drops a push for the rest of sampling, and its model pass, once the bad "
            "version predicts nearly the same as the model. Each image stops by itself. The log "
            "says how many passes it saved.",
            inputs=[
                number(
                    "cosine",
                    0.999,
                    0.9,
                    1.0,
                    0.001,
                    "How alike the two predictions must be: the cosine between them. 0.999 changes "
                    "hardly anything in the image; 0.99 stops earlier and saves more; 1 never "
                    "stops.",
                ),
                number(
                    "start",
                    0.3,
                    0.0,
                    1.0,
                    0.01,
                    "Share of sampling before which the push goes on in any case, since at the "
                    "very start all predictions are blurred and may look alike.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, cosine: float, start: float, schedule: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, cosine=cosine, start=start)
        return io.NodeOutput((*schedule, schedules.StopWhenSettled(cosine, start)))


class BadVersionDistanceCalibrated(io.ComfyNode):
    """``→ BadVersionSchedule``: a scale set from two distances."""

    NAME = "Distance-Calibrated Scale"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionDistanceCalibrated",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Sets the scale by itself at every step, so that the push is a share of "
            "the distance from the image to the average of all that it could still become. The "
            "same share fits prompts and models that would each need a scale of their own.",
            inputs=[
                number(
                    "share",
                    0.2,
                    0.0,
                    10.0,
                    0.01,
                    "How far to push, as a share of the image's distance from that average. 0.1 to "
                    "0.5 is useful. It replaces the number on the guider, where 1 is still off and "
                    "below 1 still pulls.",
                ),
                number(
                    "cap",
                    10.0,
                    0.0,
                    1000.0,
                    0.5,
                    "The most that a difference is multiplied by. It limits the push where the two "
                    "predictions hardly differ; 5 to 20 is useful.",
                ),
                advanced(
                    number(
                        "deviation",
                        0.0,
                        0.0,
                        100.0,
                        0.05,
                        "Standard deviation of the model's latents. 0 uses that of its latent "
                        "format, which is 1 for nearly all models.",
                    )
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls, share: float, cap: float, deviation: float, schedule: Chain = ()
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, share=share, cap=cap, deviation=deviation)
        return io.NodeOutput((*schedule, schedules.DistanceCalibrated(share, cap, deviation)))


class BadVersionGuidanceSchedulePreview(io.ComfyNode):
    """``BadVersionSchedule, SIGMAS → IMAGE``: what a chain of schedules does in a run."""

    NAME = "Schedule Preview"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceSchedulePreview",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Draws how hard a schedule, or a chain of them, pushes at each step of "
            "your sampler, before you sample.",
            inputs=[
                ScheduleType.Input(
                    "schedule",
                    tooltip="The schedule to draw, with all schedules before it.",
                ),
                io.Model.Input(
                    "model",
                    tooltip="The model to sample with. It decides which sigma a percent stands "
                    "for.",
                ),
                io.Sigmas.Input(
                    "sigmas", tooltip="The steps, from a scheduler such as BasicScheduler."
                ),
                number(
                    "scale",
                    2.0,
                    0.0,
                    100.0,
                    0.05,
                    "The scale on the guider, weak_scale or cfg. The curve is drawn for it.",
                ),
                language_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="The drawing, also shown on the node: the scale at each step. A band "
                    "shows the range of a schedule that depends on the image.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        schedule: Chain,
        model: ModelPatcher,
        sigmas: Tensor,
        scale: float,
        language: str,
    ) -> io.NodeOutput:
        """Draw the chain; raise ``GuidanceError`` where there are no steps."""
        check(cls, scale=scale, language=language)
        if len(sigmas) < 2:
            raise bad_input(
                cls.NAME, "sigmas", f"{len(sigmas)} sigmas", "at least 2, which make one step"
            )
        levels = sigmas.tolist()
        image = plot_schedule(schedule, noise_of(model, levels), scale, LANGUAGES[language])
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES: list[type[io.ComfyNode]] = [
    BadVersionGuidanceInterval,
    BadVersionGuidanceRamp,
    BadVersionGuidanceCurve,
    BadVersionDynamicNegative,
    BadVersionDistanceCalibrated,
    BadVersionStopWhenSettled,
    BadVersionGuidanceSchedulePreview,
]
