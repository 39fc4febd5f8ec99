"""Plots of the ways to guide on images, and a sheet of what they draw."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from PIL import Image

from sheet import DIM_TEXT, Label, SheetRow, draw_sheet
from tiny.pictures import as_image

from .methods import (
    BOTH,
    CHEAP,
    CLASSIFIER_FREE,
    INTERVAL,
    NEGATIVE,
    ONE,
    ONE_SHAPED,
    REFERENCE,
    SHAPED,
    UNGUIDED,
    WEAK,
    words,
)
from .pictures import SEEDS, Bench, Report, Row
from .plane_plots import STYLE

SIZE, DPI = (12.0, 6.6), 110
# Okabe and Ito's colours, which colour-blind people can tell apart; a marker for each as well.
LOOKS = {
    REFERENCE: ("#d55e00", "s"),
    WEAK: ("#0072b2", "o"),
    ONE: ("#009e73", "^"),
    ONE_SHAPED: ("#009e73", "+"),
    BOTH: ("#cc79a7", "D"),
    SHAPED: ("#7a7a7a", "x"),
    CHEAP: ("#e69f00", "v"),
}
# Times the distance without guidance: what the plots have room for.
MOST_OF_SCALES, MOST_OF_COST = 1.7, 1.3
# On the sheet: images of each class, and the size at which the longest name fits.
EACH, NAME = 2, 18


def plot(report: Report, path: Path) -> None:
    """Distance over the scale, as the settings were chosen by it, and over what a step costs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        scales, frontier = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _over_scale(scales, report)
        _over_passes(frontier, report)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _over_scale(axes: Axes, report: Report) -> None:
    """One line for each way that has nothing but a scale to choose."""
    unguided = report.row(UNGUIDED).tried[0][1]
    axes.axhline(unguided, color="#999999", linestyle=":", label=UNGUIDED)
    ways = [row for row in report.rows if row.group in (REFERENCE, WEAK) and _is_sweep(row)]
    for i, row in enumerate(ways):
        colour, _ = LOOKS[row.group]
        style = ("-", "--", "-.", ":")[i % 4]
        scales = [next(iter(setting.values())) for setting, _ in row.tried]
        distances = [distance for _, distance in row.tried]
        axes.plot(scales, distances, style, color=colour, marker=".", label=row.name)
    axes.set_xscale("log")
    axes.set_xticks([1, 1.5, 2, 3, 4, 8])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, MOST_OF_SCALES * unguided)
    axes.set_xlabel("scale")
    axes.set_title("Fréchet distance over the scale")
    _legend(axes)


def _is_sweep(row: Row) -> bool:
    return all(len(setting) == 1 for setting, _ in row.tried)


def _over_passes(axes: Axes, report: Report) -> None:
    for group, (colour, marker) in LOOKS.items():
        rows = [row for row in report.rows if row.group == group]
        axes.errorbar(
            [row.passes for row in rows],
            [row.mean("distance") for row in rows],
            [statistics.stdev(row.values("distance")) for row in rows],
            linestyle="none",
            marker=marker,
            color=colour,
            label=group,
        )
    best = frontier(report.rows)
    axes.step(
        [row.passes for row in best],
        [row.mean("distance") for row in best],
        where="post",
        color="#000000",
        alpha=0.35,
    )
    top = MOST_OF_COST * report.row(UNGUIDED).mean("distance")
    _name_best(axes, best, top)
    for row in report.rows:
        if row.mean("distance") > top:
            text = f"{row.name}: {row.mean('distance'):.2f} ↑"
            place = (row.passes, 0.97)
            axes.annotate(text, place, xycoords=axes.get_xaxis_transform(), fontsize=9)
    axes.set_ylim(0, top)
    axes.set_xlim(right=max(row.passes for row in report.rows) + 0.5)
    axes.set_xlabel("passes of the main model a step")
    axes.set_title("Fréchet distance over cost; the line joins the best at each cost")
    _legend(axes)


def _name_best(axes: Axes, best: Sequence[Row], top: float) -> None:
    """Names below the points, where nothing else lies.

    The first is the lowest, so that no line crosses another one's name.
    """
    leader = {"arrowstyle": "-", "color": "#00000060", "relpos": (0, 1), "shrinkA": 0, "shrinkB": 4}
    step = min(0.05, (best[-1].mean("distance") / top - 0.06) / len(best))
    for i, row in enumerate(best):
        axes.annotate(
            row.name,
            (row.passes, row.mean("distance")),
            xytext=(row.passes, 0.02 + i * step),
            textcoords=axes.get_xaxis_transform(),
            arrowprops=leader,
            fontsize=9,
        )


def _legend(axes: Axes) -> None:
    """Below the axes, where it hides nothing."""
    place = (0.5, -0.14)
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=place, ncols=2, frameon=False)


def frontier(rows: Sequence[Row]) -> list[Row]:
    """The ways than which none is as good at less cost, by rising cost."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.passes, row.mean("distance"))):
        if not best or row.mean("distance") < best[-1].mean("distance"):
            best.append(row)
    return best


def shown(report: Report) -> list[Row]:
    """The ways that are worth looking at."""
    names = (UNGUIDED, CLASSIFIER_FREE, INTERVAL, NEGATIVE)
    groups = (ONE, WEAK, BOTH)
    return [*(report.row(name) for name in names), *(report.best(group) for group in groups)]


def draw_shown(report: Report, bench: Bench) -> Image.Image:
    """A sheet of some ways at their best settings, from the same noise.

    Args:
        report: with the settings.
        bench: of the same kind of images.
    """
    kind, rows = bench.kind, []
    for row in shown(report):
        inputs = bench.ways[row.name].inputs(**row.setting)
        pictures, labels = bench.studio.draw(inputs, EACH * len(kind.classes), SEEDS[0])
        written = [Label(row.name, NAME), Label(f"distance {row.mean('distance'):.3f}")]
        if row.setting:
            written.insert(1, Label(words(row.setting), colour=DIM_TEXT))
        of_class = [pictures[labels == label] for label in range(len(kind.classes))]
        rows.append(SheetRow(written, [list(map(as_image, each)) for each in of_class]))
    return draw_sheet(kind.classes, rows, (kind.credit, "the same noise in every row"))
