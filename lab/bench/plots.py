"""Plots of the benchmarks, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from . import calibrated, negative

SIZE, DPI = (11.0, 4.4), 120
# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v")

mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False})
mpl.rcParams.update({"axes.spines.right": False, "legend.frameon": False})


def plot_removal(
    outcomes: Mapping[tuple[str, float], Sequence[negative.Outcome]], path: Path
) -> None:
    """What each way keeps of the other digits, over what it leaves of the one that was to go."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    none, *ways = negative.SCALES
    for axis, name, title in (
        (axes[0], "imbalance", "imbalance of the other digits (KL, nats)"),
        (axes[1], "distance", "Fréchet distance to the real ones"),
    ):
        for way, colour, marker in zip(ways, COLOURS, MARKERS, strict=False):
            curve = [*negative.means(outcomes, none), *negative.means(outcomes, way)]
            axis.plot(
                [100 * each.remaining for each in curve],
                [getattr(each, name) for each in curve],
                color=colour,
                marker=marker,
                label=way,
            )
        axis.axvline(100 * negative.REMAINING, color="#777777", linestyle=":")
        axis.set_xlabel("remaining of the removed digit (%)")
        axis.set_title(title)
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def plot_calibration(calibration: calibrated.Calibration, path: Path) -> None:
    """The distance over scale and over share, and what scale a share has chosen at each step."""
    figure = Figure(figsize=(SIZE[0] * 1.3, SIZE[1]), dpi=DPI, layout="constrained")
    *sweeps, traces = figure.subplots(1, 3)
    limit = calibrated.TIMES_THE_DISTANCE * calibration.unguided.distance
    for axis, (kind, strengths) in zip(sweeps, calibrated.STRENGTHS.items(), strict=True):
        for bad_version, colour, marker in zip(
            calibrated.BAD_VERSIONS, COLOURS, MARKERS, strict=True
        ):
            distances = [calibration.guided[bad_version, kind, s].distance for s in strengths]
            axis.plot(strengths, distances, color=colour, marker=marker, label=bad_version)
        axis.axhline(limit, color="#777777", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=kind, title="Fréchet distance to real digits")
        axis.set_xticks(strengths, [f"{each:g}" for each in strengths], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        _with_plain_numbers(axis)
    sweeps[0].legend()
    share = calibrated.DRAWN_SHARE
    for bad_version, colour, marker in zip(calibrated.BAD_VERSIONS, COLOURS, MARKERS, strict=True):
        trace = calibration.guided[bad_version, calibrated.SHARE, share].trace
        sigmas, scales = zip(*trace, strict=True)
        traces.plot(sigmas, scales, color=colour, marker=marker, markersize=4, label=bad_version)
    traces.set(xlabel="sigma", yscale="log", title=f"scale less 1 that a share of {share:g} chose")
    traces.invert_xaxis()
    _with_plain_numbers(traces)
    figure.savefig(path)


def _with_plain_numbers(axis: Axes) -> None:
    """Write 0.2 rather than 2·10⁻¹ beside a logarithmic axis."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
