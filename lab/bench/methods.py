"""The ways to guide that are compared on images, each with the settings it may choose from.

Every one of them is inputs of Bad-Version Guider and of the nodes that connect to it, so that an
artist can set the same. Where a way has several settings, all of their combinations are tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node_pack import conditioning

from .coarse import coarse_version
from .studio import Conditioning, Inputs, Studio

REFERENCE = "without a bad version"
WEAK = "another checkpoint"
ONE = "one checkpoint"
ONE_SHAPED = "one checkpoint, with a schedule or a shape"
BOTH = "two pushes"
SHAPED = "schedules and shapes"
CHEAP = "at less cost"
UNGUIDED, CLASSIFIER_FREE = "no guidance", "classifier-free"
INTERVAL, NEGATIVE = "interval", "negative prompt"
SKIPPING, LOW_RANK = "weakened: by skipping blocks", "weakened: with low rank"

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One way to guide.

    Attributes:
        name: as the tables have it.
        group: of the tables.
        inputs: from a setting to inputs of the guider.
        choices: what each part of a setting may be.
    """

    name: str
    group: str
    inputs: Callable[..., Inputs]
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def settings(self) -> list[Setting]:
        """All combinations."""
        names, values = list(self.choices), self.choices.values()
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]


@dataclass(frozen=True)
class Scales:
    """What the ways choose from.

    Attributes:
        cfg: scales of classifier-free guidance.
        negative: those of a negative prompt.
        dynamic: those of a dynamic negative prompt.
        weak: scales of the push away from a weak model.
        one: those of the push away from the main model itself, weakened.
        few: less of them, where something else is chosen as well.
        little: of classifier-free guidance, beside another push.
        firm: likewise, of a push that is made at some of the steps.
        share: of the distance, for Distance-Calibrated Scale.
        mild: those of classifier-free guidance in another shape.
        during: intervals, as shares of sampling.
        late: those that end with it.
        quarters: intervals of a quarter of the steps.
    """

    cfg: Sequence[float] = (1.1, 1.25, 1.5, 2.0, 3.0)
    negative: Sequence[float] = (1.05, 1.1, 1.25, 1.5, 2.0)
    dynamic: Sequence[float] = (2.0, 4.0, 8.0)
    weak: Sequence[float] = (1.5, 2.0, 2.5, 3.0, 4.0)
    one: Sequence[float] = (1.25, 1.5, 1.75, 2.0, 3.0)
    few: Sequence[float] = (1.5, 2.0, 3.0, 4.0)
    firm: Sequence[float] = (2.0, 3.0, 4.0, 6.0)
    share: Sequence[float] = (0.06, 0.12, 0.25, 0.5)
    little: Sequence[float] = (1.1, 1.25, 1.5)
    mild: Sequence[float] = (1.25, 1.5, 2.0)
    during: Sequence[tuple[float, float]] = ((0.1, 0.6), (0.1, 0.9), (0.3, 0.6), (0.3, 0.9))
    late: Sequence[tuple[float, float]] = ((0.3, 1.0), (0.5, 1.0), (0.7, 1.0))
    quarters: Sequence[tuple[float, float]] = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75))


def words(setting: Setting) -> str:
    """A setting as the tables have it."""
    return ", ".join(_word(name, value) for name, value in setting.items())


def _word(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return "from {:.0%} to {:.0%}".format(*value)
    written = value if isinstance(value, str) else f"{value:g}"
    return written if name == "mode" else f"{name.replace('_', ' ')} {written}"


def _unguided() -> Inputs:
    return lambda studio, label: {"weak_scale": 1.0}


def _away_from(
    prompt: Callable[[Studio, int], Conditioning], **parts: Callable[[Studio], Any]
) -> Callable[..., Inputs]:
    """Away from a prompt for each class; ``parts`` connect to the guider."""

    def inputs(cfg: float) -> Inputs:
        return lambda studio, label: {
            "negative": prompt(studio, label),
            "cfg": cfg,
            "weak_scale": 1.0,
            **_connected(studio, parts),
        }

    return inputs


def classifier_free(**parts: Callable[[Studio], Any]) -> Callable[..., Inputs]:
    """Away from the empty prompt."""
    return _away_from(lambda studio, label: studio.empty(), **parts)


def _negative(**parts: Callable[[Studio], Any]) -> Callable[..., Inputs]:
    """Away from what the class is most easily taken for."""
    return _away_from(lambda studio, label: studio.negative(label), **parts)


def _during(start: float, end: float) -> Callable[[Studio], Any]:
    return made_by("BadVersionGuidanceInterval", start=start, end=end)


def in_interval(cfg: float, during: tuple[float, float]) -> Inputs:
    return classifier_free(negative_schedule=_during(*during))(cfg)


def away_from_weak(name: str, **parts: Callable[[Studio], Any]) -> Callable[..., Inputs]:
    """Away from another checkpoint."""

    def inputs(weak_scale: float, weak_every: int = 1) -> Inputs:
        return lambda studio, label: {
            "weak_model": studio.weak(name),
            "weak_scale": weak_scale,
            "weak_every": weak_every,
            **_connected(studio, parts),
        }

    return inputs


def _weak_interval(name: str) -> Callable[..., Inputs]:
    def inputs(weak_scale: float, during: tuple[float, float]) -> Inputs:
        return away_from_weak(name, weak_schedule=_during(*during))(weak_scale)

    return inputs


def _calibrated(name: str) -> Callable[..., Inputs]:
    def inputs(share: float) -> Inputs:
        make = made_by("BadVersionDistanceCalibrated", share=share)
        return away_from_weak(name, weak_schedule=make)(weak_scale=2.0)  # Any but 1, which is off.

    return inputs


def _coarse(name: str) -> Callable[..., Inputs]:
    def inputs(weak_scale: float) -> Inputs:
        return lambda studio, label: {
            "weak_model": studio.once(("coarse", name), lambda: coarse_version(studio.weak(name))),
            "weak_scale": weak_scale,
            # What is finer than the coarse latent it has not predicted.
            "weak_shape": studio.node("BadVersionFrequencyShape", low=1.0, high=0.0),
        }

    return inputs


def away_from_both(name: str) -> Callable[..., Inputs]:
    def inputs(weak_scale: float, cfg: float) -> Inputs:
        return lambda studio, label: {
            "weak_model": studio.weak(name),
            "weak_scale": weak_scale,
            "negative": studio.empty(),
            "cfg": cfg,
        }

    return inputs


def away_from_weakened(node_id: str, **parts: Callable[[Studio], Any]) -> Callable[..., Inputs]:
    """Away from the main model as a Weaken node makes it; ``parts`` connect to the guider."""

    def inputs(weak_scale: float, **strength: Any) -> Inputs:
        return lambda studio, label: {
            "weak_model": studio.weakened(node_id, **strength),
            "weak_scale": weak_scale,
            **_connected(studio, parts),
        }

    return inputs


def _skipping_blocks(weak_scale: float, during: tuple[float, float]) -> Inputs:
    return away_from_weakened("BadVersionWeakenBySkippingBlocks", weak_schedule=_during(*during))(
        weak_scale
    )


def _weakened_prompt(weak_scale: float, amount: float, mode: str) -> Inputs:
    return lambda studio, label: {
        "weak_positive": studio.node(
            "BadVersionWeakenPrompt", conditioning=conditioning(label), amount=amount, mode=mode
        ),
        "weak_scale": weak_scale,
    }


def _connected(studio: Studio, parts: Mapping[str, Callable[[Studio], Any]]) -> dict[str, Any]:
    return {name: make(studio) for name, make in parts.items()}


def made_by(node_id: str, **inputs: Any) -> Callable[[Studio], Any]:
    return lambda studio: studio.node(node_id, **inputs)


# The nodes that weaken a model, with strengths around those that the tooltips call useful.
_WEAKENING: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "weakened: with noise": ("BadVersionWeakenWithNoise", {"amount": (0.1, 0.3)}),
    "weakened: with fewer bits": ("BadVersionWeakenWithFewerBits", {"bits": (3, 4)}),
    LOW_RANK: ("BadVersionWeakenWithLowRank", {"keep": (0.1, 0.25, 0.5)}),
    "weakened: with dropout": ("BadVersionWeakenWithDropout", {"rate": (0.1, 0.2)}),
    "weakened: attention": (
        "BadVersionWeakenAttention",
        {"mode": ("identity", "blur", "window"), "blocks": ("auto", "all")},
    ),
    SKIPPING: ("BadVersionWeakenBySkippingBlocks", {"blocks": ("0", "1")}),
    "weakened: tokens": ("BadVersionWeakenTokens", {"strength": (0.5, 1.0)}),
}


def _one_checkpoint(scales: Scales) -> Iterator[Method]:
    for name, (node_id, strengths) in _WEAKENING.items():
        choices = {**strengths, "weak_scale": scales.one}
        yield Method(name, ONE, away_from_weakened(node_id), choices)
    choices = {"weak_scale": scales.one, "amount": (0.5,), "mode": ("drop", "noise", "blur")}
    yield Method("weakened: prompt", ONE, _weakened_prompt, choices)
    # A skipped block tells most at low noise.
    choices = {"weak_scale": scales.few, "during": scales.late}
    yield Method(f"{SKIPPING}, late", ONE_SHAPED, _skipping_blocks, choices)
    for name, parts in (
        ("rising ramp", {"weak_schedule": made_by("BadVersionGuidanceRamp")}),
        ("frequencies", {"weak_shape": made_by("BadVersionFrequencyShape")}),
    ):
        choices = {"weak_scale": scales.one}
        inputs = away_from_weakened("BadVersionWeakenBySkippingBlocks", **parts)
        yield Method(f"{SKIPPING}, {name}", ONE_SHAPED, inputs, choices)


def methods(weak: Iterable[str], best: str, weakest: str, scales: Scales) -> list[Method]:
    """All ways for one kind of images.

    Args:
        weak: names of its bad versions.
        best: the one that schedules, shapes and savings are tried with.
        weakest: the one of least work.
        scales: what they choose from.
    """
    cfg, mild = {"cfg": scales.cfg}, {"cfg": scales.mild}
    push, few, firm = ({"weak_scale": each} for each in (scales.weak, scales.few, scales.firm))
    during, quarters = {"during": scales.during}, {"during": scales.quarters}
    weak_schedule = {
        "rising ramp": made_by("BadVersionGuidanceRamp"),
        "falling ramp": made_by("BadVersionGuidanceRamp", direction="falling"),
    }
    shapes = {
        "projected (APG)": made_by("BadVersionProjectedShape"),
        "rescaled": made_by("BadVersionRescaleShape"),
        "zero-star": made_by("BadVersionZeroStarShape"),
        "frequencies": made_by("BadVersionFrequencyShape"),
    }
    return [
        Method(UNGUIDED, REFERENCE, _unguided),
        Method(CLASSIFIER_FREE, REFERENCE, classifier_free(), cfg),
        Method(INTERVAL, REFERENCE, in_interval, mild | during),
        Method(NEGATIVE, REFERENCE, _negative(), {"cfg": scales.negative}),
        Method(
            "dynamic negative",
            REFERENCE,
            _negative(negative_schedule=made_by("BadVersionDynamicNegative")),
            {"cfg": scales.dynamic},
        ),
        *(Method(f"weak: {name}", WEAK, away_from_weak(name), push) for name in weak),
        *_one_checkpoint(scales),
        *(
            Method(
                f"weak: {name}, every {k} steps",
                CHEAP,
                away_from_weak(name),
                push | {"weak_every": (k,)},
            )
            for name, k in ((best, 2), (best, 4), (weakest, 2))
        ),
        Method("weak, a quarter of the steps", CHEAP, _weak_interval(best), firm | quarters),
        Method("weak, on a coarser latent", CHEAP, _coarse(best), few),
        Method(
            "weak and classifier-free", BOTH, away_from_both(best), few | {"cfg": scales.little}
        ),
        Method("weak, interval", SHAPED, _weak_interval(best), firm | during),
        Method("weak, distance-calibrated", SHAPED, _calibrated(best), {"share": scales.share}),
        *(
            Method(f"weak, {name}", SHAPED, away_from_weak(best, weak_schedule=make), few)
            for name, make in weak_schedule.items()
        ),
        *(
            Method(f"weak, {name}", SHAPED, away_from_weak(best, weak_shape=make), few)
            for name, make in shapes.items()
        ),
        *(
            Method(f"classifier-free, {name}", SHAPED, classifier_free(negative_shape=make), mild)
            for name, make in shapes.items()
        ),
    ]
