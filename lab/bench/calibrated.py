"""Does one share of the distance serve where each bad version wants a scale of its own?

Every digit is drawn with pushes away from several bad versions, each at a row of scales and, with
Distance-Calibrated Scale, at a row of shares ρ. Any push makes digits easier to read and, if it is
too hard, less like real ones. So "how hard" is compared where the Fréchet distance to the real
digits has doubled: the less the numbers that lead there differ between bad versions, the better one
number serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from digits.classifier import picture_features, read_digits

from .frechet import frechet_distance, real_features
from .records import Records

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .drawing import Drawing

SCALE, SHARE = "scale less 1", "share ρ"
STRENGTHS = {SCALE: (0.1, 0.25, 0.5, 1.0, 2.0), SHARE: (0.03, 0.06, 0.12, 0.25, 0.5)}
TIMES_THE_DISTANCE = 2.0
DRAWN_SHARE = 0.12  # Of which the plot shows the scales it has chosen.

WEAK_MODELS: dict[str, Callable[[Drawing], ModelPatcher]] = {
    "smaller checkpoint": lambda drawing: drawing.models.weak,
    "without a block": lambda drawing: drawing.node(
        "BadVersionWeakenBySkippingBlocks", model=drawing.models.main
    ),
    "blurred attention": lambda drawing: drawing.node(
        "BadVersionWeakenAttention", model=drawing.models.main, blocks="all"
    ),
}
EMPTY_PROMPT = "empty prompt"
NEGATIVE_PROMPTS: dict[str, Callable[[int], str]] = {
    EMPTY_PROMPT: lambda digit: "none",
    "prompt of the next digit": lambda digit: str((digit + 1) % 10),
}
BAD_VERSIONS = (*WEAK_MODELS, *NEGATIVE_PROMPTS)


@dataclass(frozen=True)
class Reading:
    """Images of all digits with one push.

    Attributes:
        right: share that is read as the digit asked for.
        distance: Fréchet distance to the real digits.
        trace: sigma and scale less 1 at each step, where a share has chosen the scale; the mean
            over the images.
    """

    right: float
    distance: float
    trace: list[tuple[float, float]]


@dataclass(frozen=True)
class Calibration:
    """All that was measured: unguided, and by bad version, kind of strength and strength."""

    unguided: Reading
    guided: dict[tuple[str, str, float], Reading]

    def strength_at(self, bad_version: str, kind: str) -> float | None:
        """How hard a push is that takes the distance to twice the unguided one.

        Between two strengths by the logarithms; None where the row does not come there.
        """
        limit = TIMES_THE_DISTANCE * self.unguided.distance
        row = [(s, self.guided[bad_version, kind, s].distance) for s in STRENGTHS[kind]]
        for (weaker, nearer), (harder, farther) in pairwise(row):
            if nearer < limit <= farther:
                part = math.log(limit / nearer) / math.log(farther / nearer)
                return weaker * (harder / weaker) ** part
        return None

    def spread(self, kind: str) -> float | None:
        """The greatest over the least of these strengths; None where one is missing."""
        found = [self.strength_at(bad_version, kind) for bad_version in BAD_VERSIONS]
        return None if None in found else max(found) / min(found)


def measure(drawing: Drawing, records: Records) -> Calibration:
    """Draw all of it, or read from the records what was drawn before."""
    unguided = records.get(
        "calibrate, unguided", lambda: _reading(drawing.each(drawing.models.main), [])
    )
    runs = [(b, kind, s) for b in BAD_VERSIONS for kind in STRENGTHS for s in STRENGTHS[kind]]
    guided = {}
    for done, (bad_version, kind, strength) in enumerate(runs):
        run = partial(_push, drawing, bad_version, kind, strength)
        name = f"calibrate, {bad_version}, {kind} {strength:g}"
        guided[bad_version, kind, strength] = records.get(name, run, f"{done + 1}/{len(runs)}")
    return Calibration(Reading(**unguided), {key: Reading(**f) for key, f in guided.items()})


def report(calibration: Calibration) -> str:
    """The table, and how far the strengths lie apart."""
    base = calibration.unguided
    lines = [
        "How hard to push away from different bad versions",
        "",
        f"{'':40}{'read right':>11}{'distance':>10}",
        f"{'unguided':40}{base.right:>11.1%}{base.distance:>10.3f}",
    ]
    for (bad_version, kind, strength), reading in calibration.guided.items():
        what = f"{bad_version}, {kind} {strength:g}"
        lines.append(f"{what:44}{reading.right:>7.1%}{reading.distance:>10.3f}")
    lines += ["", f"Where the distance is {TIMES_THE_DISTANCE:g} times the unguided one:"]
    lines.append(f"{'':28}" + "".join(f"{kind:>16}" for kind in STRENGTHS))
    for bad_version in BAD_VERSIONS:
        found = [calibration.strength_at(bad_version, kind) for kind in STRENGTHS]
        lines.append(f"{bad_version:28}" + "".join(f"{_number(each):>16}" for each in found))
    spreads = [calibration.spread(kind) for kind in STRENGTHS]
    lines.append(f"{'greatest over least':28}" + "".join(f"{_number(s):>16}" for s in spreads))
    met = None not in spreads and spreads[1] < spreads[0]
    lines += ["", f"target {'met' if met else 'not met'}: shares lie closer together than scales"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.3g}"


def _push(drawing: Drawing, bad_version: str, kind: str, strength: float) -> dict[str, Any]:
    from .watched import Watched

    schedule = None
    if kind == SHARE:
        (calibrated,) = drawing.node("BadVersionDistanceCalibrated", share=strength, cap=100.0)
        schedule = Watched(calibrated)
    push = {} if schedule is None else {"schedule": (schedule,)}
    pictures = drawing.each(*_guided(drawing, bad_version, 1.0 + strength, **push))
    return _reading(pictures, [] if schedule is None else mean_trace(schedule.trace))


def _guided(
    drawing: Drawing, bad_version: str, scale: float, **push: Any
) -> tuple[ModelPatcher, float, Callable[[int], str]]:
    """The model, its cfg, and the negative prompt of each digit."""
    main = drawing.models.main
    if bad_version in NEGATIVE_PROMPTS:
        inputs = {f"negative_{name}": value for name, value in push.items()}
        off = {"weak_scale": 1.0, **inputs}
        model = drawing.node("BadVersionPatch", model=main, **off) if push else main
        return model, scale, NEGATIVE_PROMPTS[bad_version]
    inputs = {f"weak_{name}": value for name, value in push.items()}
    weak = WEAK_MODELS[bad_version](drawing)
    model = drawing.node("BadVersionPatch", model=main, weak_model=weak, weak_scale=scale, **inputs)
    return model, 1.0, NEGATIVE_PROMPTS[EMPTY_PROMPT]


def _reading(pictures: Tensor, trace: list[tuple[float, float]]) -> dict[str, Any]:
    asked_for = np.repeat(np.arange(10), len(pictures) // 10)
    right = float((read_digits(pictures) == asked_for).mean())
    distance = frechet_distance(picture_features(pictures), real_features())
    return vars(Reading(right, distance, trace))


def mean_trace(trace: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean over several runs that went through the same sigmas, by falling sigma."""
    by_sigma: dict[float, list[float]] = {}
    for sigma, factor in trace:
        by_sigma.setdefault(sigma, []).append(factor)
    return [(s, float(np.mean(by_sigma[s]))) for s in sorted(by_sigma, reverse=True)]
