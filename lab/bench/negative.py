"""Remove one digit from what a model draws, by three ways of negative guidance, and compare them.

    make bench-negative
    make lab RUN="bench.negative --digit 3 --pictures 100"

The model draws digits of any kind (an empty prompt), and is pushed away from one of them: by a
negative prompt of constant scale, by the rule of safe latent diffusion, and by dynamic negative
guidance, each of them over a sweep of scales, all from the same noise and through ComfyUI's own
sampler. What comes out is read by a classifier that knows nothing of the model.

Written as it goes on to build/bench/negative.json, from where an interrupted run continues; plots
beside it. It also runs the comparison of calibrated.py. To miss a target is no failure here, but it
is told.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from comfyui.install import ROOT, SetupError, comfyui_path
from digits.classifier import picture_features, read_digits
from tiny.comfyui import start_comfyui

from .frechet import frechet_distance, real_features
from .records import Records

if TYPE_CHECKING:
    from .drawing import Drawing

OUT = ROOT / "build" / "bench"
REMAINING = 0.02  # At this share of the digit that was to go, the ways are compared.

NO_PUSH = "no push"
NEGATIVE_PROMPT = "negative prompt"
SAFE_LATENT = "safe latent diffusion"
DYNAMIC = "dynamic negative guidance"

# cfg of each way; 1 is off. The least and the greatest remove too little and more than enough.
SCALES = {
    NO_PUSH: (1.0,),
    NEGATIVE_PROMPT: (1.1, 1.2, 1.35, 1.6),
    SAFE_LATENT: (1.25, 1.5, 2.0),
    DYNAMIC: (4.0, 6.0, 10.0),
}
# One digit in ten is the one to go. The offset was chosen with other noise than that of the bench.
# It is greater than the node's, which is for prompts that may have nothing to do with an image.
DYNAMIC_SETTINGS = {"prior": 0.1, "offset": 0.5}


@dataclass(frozen=True)
class Outcome:
    """What has become of the images of one run.

    Attributes:
        remaining: share of them that is read as the digit that was to go.
        imbalance: Kullback-Leibler divergence of the other nine digits to equal shares, in nats.
        distance: Fréchet distance to the real digits without that one.
    """

    remaining: float
    imbalance: float
    distance: float


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digit", action="append", type=int, choices=range(10), help="only this")
    parser.add_argument("--pictures", type=int, default=200, help="of each run")
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args(arguments)
    try:
        comfyui_path()
    except SetupError as error:
        return str(error)
    start_comfyui()
    from comfyui.library import load_nodes

    from . import calibrated
    from .drawing import Drawing

    nodes = load_nodes(comfyui_path())
    drawing = Drawing(nodes, options.pictures)
    settings = {"pictures": options.pictures, "dynamic": str(pushes(DYNAMIC, drawing))}
    # Less is enough where every digit is drawn, and not one of them the rarest thing to count.
    fewer = options.pictures // 2
    try:
        removal = measure(
            drawing,
            Records(OUT / "negative.json", settings, options.afresh),
            options.digit or range(10),
        )
        calibration = calibrated.measure(
            Drawing(nodes, fewer),
            Records(OUT / "calibrated.json", {"pictures": fewer}, options.afresh),
        )
    except KeyboardInterrupt:
        return "Interrupted. Run it again to go on; what was measured is kept."
    print(report(removal))
    print()
    print(calibrated.report(calibration))
    from .plots import plot_calibration, plot_removal

    plot_removal(removal, OUT / "negative.png")
    plot_calibration(calibration, OUT / "calibrated.png")
    print(f"\nwritten to {OUT.relative_to(ROOT)}: negative.json, calibrated.json, plots of both")
    return None


def measure(
    drawing: Drawing, records: Records, digits: Sequence[int]
) -> dict[tuple[str, float], list[Outcome]]:
    """Measure every way at each of its scales, one outcome per digit."""
    outcomes: dict[tuple[str, float], list[Outcome]] = {}
    runs = [(way, scale, digit) for digit in digits for way in SCALES for scale in SCALES[way]]
    for done, (way, scale, digit) in enumerate(runs):
        name = f"remove {digit}, {way}, {scale:g}"
        run = partial(_remove, drawing, way, scale, digit)
        figures = records.get(name, run, f"{done + 1}/{len(runs)}")
        outcomes.setdefault((way, scale), []).append(Outcome(**figures))
    return outcomes


def _remove(drawing: Drawing, way: str, scale: float, digit: int) -> dict[str, float]:
    pictures = drawing.without(digit, scale, **pushes(way, drawing))
    return vars(outcome(pictures, digit))


def pushes(way: str, drawing: Drawing) -> dict[str, Any]:
    """The inputs of Bad-Version Patch that make one way of guidance."""
    if way == DYNAMIC:
        return {"negative_schedule": drawing.node("BadVersionDynamicNegative", **DYNAMIC_SETTINGS)}
    if way == SAFE_LATENT:
        from .safe_latent import SafeLatent

        return {"negative_shape": (SafeLatent(),)}
    return {}


def outcome(pictures: Tensor, digit: int) -> Outcome:
    """Read images [n, 64, 64, 3] from which a digit was to be removed."""
    counts = np.bincount(read_digits(pictures), minlength=10)
    others = np.delete(counts, digit)
    return Outcome(
        remaining=float(counts[digit] / counts.sum()),
        imbalance=divergence_to_uniform(others / others.sum()),
        distance=frechet_distance(picture_features(pictures), real_features(without=digit)),
    )


def divergence_to_uniform(shares: np.ndarray) -> float:
    """Kullback-Leibler divergence of shares that add up to 1 to equal ones, in nats."""
    there = shares[shares > 0]
    return float((there * np.log(there * len(shares))).sum())


def means(outcomes: dict[tuple[str, float], list[Outcome]], way: str) -> list[Outcome]:
    """The mean over the digits at each scale of a way, by rising scale."""
    return [
        Outcome(*np.mean([[o.remaining, o.imbalance, o.distance] for o in outcomes[key]], axis=0))
        for key in sorted(outcomes)
        if key[0] == way
    ]


def at_remaining(curve: Sequence[Outcome], share: float = REMAINING) -> Outcome | None:
    """The point of a sweep where a share remains, between the two scales around it.

    None where the sweep does not come there. Between scales all figures go evenly with the
    logarithm of the share.
    """
    for before, after in itertools.pairwise(curve):
        if before.remaining > share >= after.remaining:
            # A share of nothing has no logarithm; half an image of a thousand stands for it.
            top, middle, end = (
                math.log(max(each, 5e-4)) for each in (before.remaining, share, after.remaining)
            )
            part = (top - middle) / (top - end)
            return Outcome(
                share,
                before.imbalance + part * (after.imbalance - before.imbalance),
                before.distance + part * (after.distance - before.distance),
            )
    return None


def report(outcomes: dict[tuple[str, float], list[Outcome]]) -> str:
    """The table, and whether dynamic negative guidance keeps more than a negative prompt."""
    digits = len(next(iter(outcomes.values())))
    lines = [
        f"One digit removed at a time; means over {digits} digits",
        "",
        f"{'way':28}{'cfg':>6}{'remaining':>12}{'imbalance':>12}{'distance':>11}",
    ]
    for way in SCALES:
        for scale, mean in zip(SCALES[way], means(outcomes, way), strict=True):
            lines.append(
                f"{way:28}{scale:>6g}{mean.remaining:>12.2%}{mean.imbalance:>12.4f}"
                f"{mean.distance:>11.4f}"
            )
    lines += ["", f"With {REMAINING:.0%} remaining, between the scales around it:"]
    there = {
        way: at_remaining([*means(outcomes, NO_PUSH), *means(outcomes, way)]) for way in SCALES
    }
    for way in list(SCALES)[1:]:
        point = there[way]
        if point is None:
            lines.append(f"{way:34}this sweep does not come there")
        else:
            lines.append(f"{way:34}{'':12}{point.imbalance:>12.4f}{point.distance:>11.4f}")
    lines += ["", verdict(there[DYNAMIC], there[NEGATIVE_PROMPT])]
    return "\n".join(lines)


def verdict(dynamic: Outcome | None, prompt: Outcome | None) -> str:
    """Whether the target is met: better than the negative prompt in both respects."""
    if dynamic is None or prompt is None:
        return "target not met: no way to compare"
    met = dynamic.imbalance < prompt.imbalance and dynamic.distance < prompt.distance
    return (
        f"target {'met' if met else 'not met'}: dynamic negative guidance over negative prompt, "
        f"imbalance {dynamic.imbalance / prompt.imbalance:.2f}, "
        f"distance {dynamic.distance / prompt.distance:.2f}, both to be below 1"
    )


if __name__ == "__main__":
    sys.exit(main())
