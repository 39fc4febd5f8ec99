"""The plot of the ways to guide in two dimensions, as PNG."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .plane_report import curve
from .plane_runs import BAD_VERSION, CLASSIFIER_FREE, INTERVAL, UNGUIDED, Results, Run

SIZE, DPI = (12.0, 7.2), 110
STYLE = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 11,
}
# Okabe and Ito's colours, which colour-blind people can tell apart; a marker for each as well.
LOOKS = (
    ("#d55e00", "s"),
    ("#e69f00", "D"),
    ("#cc79a7", "v"),
    ("#7a7a7a", "P"),
    ("#0072b2", "o"),
    ("#56b4e9", "^"),
    ("#009e73", "<"),
)
# Where the curves can be told apart; a constant negative prompt soon leaves this part.
MOST_OUTLIERS, MOST_LOST = 0.115, 0.36
# The curves and scales that are named beside their points, and which way, in points.
NAMED = {
    CLASSIFIER_FREE: ((1.25, 1.5, 1.75, 2.0, 2.5, 3.0), (8, 2)),
    INTERVAL: ((5.0,), (8, 2)),
    BAD_VERSION: ((1.75, 2.0, 2.5, 3.0, 4.0), (-9, -3)),
}


def plot_plane(results: Results, path: Path) -> None:
    """Coverage lost over outliers for every way, and divergence and distance over the scale."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        panels = figure.subplot_mosaic(
            [["losses", "divergence"], ["losses", "distance"]], width_ratios=(1.35, 1)
        )
        _losses(panels["losses"], results)
        _over_scale(panels["divergence"], results, lambda run: run.divergence)
        panels["divergence"].set_title("KL divergence from the truth (nats)")
        _over_scale(panels["distance"], results, lambda run: run.distance)
        panels["distance"].set_title("Wasserstein's distance to the truth")
        panels["distance"].set_xlabel("scale")
        figure.legend(
            *panels["losses"].get_legend_handles_labels(), loc="outside lower center", ncols=4
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _ways(results: Results) -> zip[tuple[str, tuple[str, str]]]:
    return zip((name for name in results.runs if name != UNGUIDED), LOOKS, strict=True)


def _losses(axis: Axes, results: Results) -> None:
    for name, (colour, marker) in _ways(results):
        points = curve(results, name)
        unguided = points[0]
        places = {
            p.scale: (100 * p.outliers, 100 * (unguided.coverage - p.coverage)) for p in points
        }
        axis.plot(*zip(*places.values(), strict=True), color=colour, marker=marker, label=name)
        scales, offset = NAMED.get(name, ((), (0, 0)))
        for scale in scales:
            if scale in places:
                axis.annotate(
                    f"{scale:g}",
                    places[scale],
                    offset,
                    textcoords="offset points",
                    color=colour,
                    fontsize=10,
                    ha="left" if offset[0] > 0 else "right",
                )
    # Wide where it begins: most ways lose little there, and that is what is to be told apart.
    axis.set_yscale("function", functions=(_root, _square))
    axis.plot([100 * unguided.outliers], [0], color="black", marker="*", markersize=13, zorder=5)
    axis.annotate(
        UNGUIDED, (100 * unguided.outliers, 0), (6, -4), textcoords="offset points", va="top"
    )
    axis.set(
        xlim=(0, 100 * MOST_OUTLIERS),
        yticks=(0, 1, 2, 5, 10, 20, 30),
        ylim=(-0.1, 100 * MOST_LOST),
        xlabel="outliers (%)",
        title="coverage lost (%), over outliers; some scales beside their points",
    )


def _root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * values**2


def _over_scale(axis: Axes, results: Results, figure: Callable[[Run], float]) -> None:
    def mean(runs: Sequence[Run]) -> float:
        return statistics.fmean(map(figure, runs))

    (unguided,) = results.runs[UNGUIDED].values()
    for name, (colour, marker) in _ways(results):
        values = {1.0: unguided, **results.runs[name]}
        means = [mean(runs) for runs in values.values()]
        axis.plot(list(values), means, color=colour, marker=marker, markersize=4)
    axis.axhline(mean(results.truth), color="black", linestyle=":")
    axis.text(6, mean(results.truth), "true points", ha="right", va="bottom")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
