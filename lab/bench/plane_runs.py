"""The runs of the comparison in two dimensions: what is drawn, how it is measured.

Needs no ComfyUI.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from comfyui.install import ROOT
from support.without_comfyui import module_without_comfyui

from . import insides
from .records import Records

POINTS = 4000  # Of each run.
# So many are paired at a time for Wasserstein's distance. The fewer, the more of it is chance; but
# twice as many at a time take about four times as long, and the whole comparison half an hour.
PAIRED = 1000
# Seeds of the noise: to choose with, and to report. The second ones have served for nothing before.
TUNING, REPORTED = (0, 1, 2), (10, 11, 12)
# Seeds of true points: to pair with, and to see how much of a coverage is chance.
PAIRING_SEED, TRUTH_SEEDS = 1000, tuple(range(2000, 2020))


@dataclass(frozen=True)
class Way:
    """One way to guide.

    Attributes:
        method: the name of its function in ``playground.methods``.
        scales: of the sweep, rising; without 1, which is off.
        weak: which of the models in ``playground.training.RECIPES`` is the bad version.
        interval: noise levels between which it is on, the lower one first; None for all of them.
    """

    method: str
    scales: tuple[float, ...]
    weak: str = "weak"
    interval: tuple[float, float] | None = None


UNGUIDED, CLASSIFIER_FREE, INTERVAL = "no guidance", "classifier-free", "interval"
BAD_VERSION = "bad version, less of both"
_WEAK_SCALES = (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
WAYS = {
    UNGUIDED: Way("unguided", (1.0,)),
    CLASSIFIER_FREE: Way("classifier_free", (1.1, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0)),
    # The chosen one of INTERVALS is put in.
    INTERVAL: Way("classifier_free", (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)),
    "negative": Way("negative", (1.05, 1.1, 1.25, 1.5)),
    "dynamic negative": Way("dynamic_negative", (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)),
    BAD_VERSION: Way("bad_version", _WEAK_SCALES),
    "bad version, less capacity": Way("bad_version", _WEAK_SCALES, "small"),
    "bad version, less training": Way("bad_version", _WEAK_SCALES, "short"),
}
INTERVALS = (
    *((0.002, 0.02), (0.005, 0.05), (0.01, 0.1), (0.02, 0.2), (0.05, 0.5), (0.1, 1.0)),
    (0.01, 0.5),
)
SETTINGS = {
    "points": POINTS,
    "paired": PAIRED,
    "seeds": str((TUNING, REPORTED, PAIRING_SEED, TRUTH_SEEDS)),
    "ways": str(WAYS),
    "intervals": str(INTERVALS),
    "weights": hashlib.sha256(
        (ROOT / "playground" / "weights.safetensors").read_bytes()
    ).hexdigest(),
}


@dataclass(frozen=True)
class Run:
    """How good the points of one run are.

    Attributes:
        outliers: share of them outside of the area of the truth, 0 to 1.
        coverage: share of that area that they reach, about 1 for true points.
        divergence: Kullback and Leibler's, of the points from the truth, in nats.
        distance: Wasserstein's (W₁) from true points; None where it was not measured.
        passes: through a model, for each one that no guidance makes.
        cost: the same, with a pass of the bad version counted by its number of weights over the
            main model's.
    """

    outliers: float
    coverage: float
    divergence: float
    distance: float | None = None
    passes: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        interval: that was chosen for ``INTERVAL``.
        best: scale of each way with the least divergence, with the seeds to choose with.
        runs: by way and scale, one for each reported seed.
        truth: true points in the place of drawn ones, one for each of ``TRUTH_SEEDS``.
    """

    interval: tuple[float, float]
    best: dict[str, float]
    runs: dict[str, dict[float, list[Run]]]
    truth: list[Run]


def measure(records: Records) -> Results:
    """Choose with some seeds, then measure with others; nothing that is recorded is done again."""
    candidates = {each: replace(WAYS[INTERVAL], interval=each) for each in INTERVALS}
    tried = {
        interval: _sweep(records, f"tune, interval {interval}", way, TUNING, False)
        for interval, way in candidates.items()
    }
    interval = min(tried, key=lambda each: min(map(_divergence, tried[each].values())))
    ways = {**WAYS, INTERVAL: candidates[interval]}
    tuned = {
        name: _sweep(records, f"tune, {name}", way, TUNING, False)
        for name, way in ways.items()
        if name != INTERVAL
    }
    tuned[INTERVAL] = tried[interval]
    best = {
        name: min(tuned[name], key=lambda scale, runs=tuned[name]: _divergence(runs[scale]))
        for name in ways
    }
    runs = {
        name: _sweep(records, name if name != INTERVAL else f"{name} {interval}", way, REPORTED)
        for name, way in ways.items()
    }
    truth = [
        Run(**records.get(f"truth, seed {seed}", partial(_measured, _truth(seed, POINTS), True)))
        for seed in TRUTH_SEEDS
    ]
    return Results(interval, best, runs, truth)


def _sweep(
    records: Records, name: str, way: Way, seeds: Sequence[int], distance: bool = True
) -> dict[float, list[Run]]:
    sweep: dict[float, list[Run]] = {}
    for done, (scale, seed) in enumerate(itertools.product(way.scales, seeds)):
        draw = partial(_draw, way, scale, seed, distance)
        progress = f"{done + 1}/{len(way.scales) * len(seeds)}"
        figures = records.get(f"{name}, {scale:g}, seed {seed}", draw, progress)
        sweep.setdefault(scale, []).append(Run(**figures))
    return sweep


def _divergence(runs: Sequence[Run]) -> float:
    return statistics.fmean(run.divergence for run in runs)


def _draw(way: Way, scale: float, seed: int, distance: bool) -> dict[str, Any]:
    methods = module_without_comfyui("playground.methods")
    sampling = module_without_comfyui("playground.sampling")
    models = methods.models(way.weak)
    main, weak = _Counted(models.main), _Counted(models.weak)
    schedules = ()
    if way.interval is not None:
        low, high = way.interval
        schedules = (module_without_comfyui(insides.SCHEDULES).Interval(high, low, by_sigma=True),)
    settings = methods.Settings(scale, scale, schedules)
    bad_versions = getattr(methods, way.method)(methods.Models(main, weak), settings)
    points = sampling.sample(main, methods.WANTED, bad_versions, POINTS, seed).ends
    alone = 2 * sampling.STEPS - 1  # Heun's method takes two for a step, and one for the last.
    of_weights = weak.weights / main.weights
    return {
        **_measured(points, distance),
        "passes": (main.passes + weak.passes) / alone,
        "cost": (main.passes + weak.passes * of_weights) / alone,
    }


class _Counted:
    """A model that counts its passes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.passes = 0
        self.weights = sum(each.numel() for each in model.parameters())

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.passes += 1
        return self._model(*inputs)


def _measured(points: Tensor, distance: bool) -> dict[str, Any]:
    ruler = module_without_comfyui("playground.scenes").ruler()
    return asdict(
        Run(
            ruler.outliers(points),
            ruler.coverage(points),
            ruler.divergence(points),
            wasserstein(points, _truth(PAIRING_SEED, len(points))) if distance else None,
        )
    )


def wasserstein(points: Tensor, truth: Tensor) -> float:
    """Wasserstein's distance (W₁) between points ``[n, 2]`` and as many true ones.

    The mean length of the ways between them, in the pairing that makes it least, ``PAIRED`` at a
    time; the mean over these parts.
    """
    parts = []
    for drawn, true in zip(points.double().split(PAIRED), truth.split(PAIRED), strict=True):
        ways = torch.cdist(drawn, true).numpy()
        parts.append(float(ways[linear_sum_assignment(ways)].mean()))
    return statistics.fmean(parts)


@cache
def _truth(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    world = module_without_comfyui("playground.distribution").world()
    return world.sample(count, module_without_comfyui("playground.methods").WANTED, generator)
