"""The part of the report on two dimensions: its tables, and what they say of the paper's claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tabular import markdown_table

from .plane_claim import Comparison, Point, compare, worst
from .plane_runs import (
    BAD_VERSION,
    CLASSIFIER_FREE,
    INTERVAL,
    INTERVALS,
    PAIRED,
    POINTS,
    REPORTED,
    TUNING,
    UNGUIDED,
    WAYS,
    Results,
    Run,
)
from .tables import Target, listing, mean_sd

# A loss of coverage is compared where it is so many times what chance makes of none.
SURE = 2.0
HALF = 0.5  # The bad version is to lose at most so much of what an empty prompt loses.
# What is compared with classifier-free guidance at as many outliers.
COMPARED = [name for name, way in WAYS.items() if way.method == "bad_version"] + [INTERVAL]


def curve(results: Results, name: str, seed: int | None = None) -> list[Point]:
    """No guidance, and then a way at its rising scales.

    Args:
        results: of which the runs are taken.
        name: of the way.
        seed: the number of the reported one, from 0; None for the mean over all of them.
    """
    points = []
    for scale, runs in {**results.runs[UNGUIDED], **results.runs[name]}.items():
        runs = runs if seed is None else [runs[seed]]
        outliers = statistics.fmean(run.outliers for run in runs)
        points.append(Point(scale, outliers, statistics.fmean(run.coverage for run in runs)))
    return points


def chance(results: Results) -> float:
    """The standard deviation of a loss of coverage that is none: between two draws of the truth."""
    return math.sqrt(2) * statistics.stdev(run.coverage for run in results.truth)


def compared(results: Results, name: str, seed: int | None = None) -> list[Comparison]:
    """A way against classifier-free guidance; as :func:`curve` takes its arguments."""
    return compare(
        curve(results, CLASSIFIER_FREE, seed), curve(results, name, seed), SURE * chance(results)
    )


def targets(results: Results) -> list[Target]:
    """What was to be reached by the bad version, what came, and whether it is reached.

    Judged by the mean over the seeds; the worst single seed is told.
    """
    comparisons = compared(results, BAD_VERSION)
    alone = [compared(results, BAD_VERSION, seed) for seed in range(len(REPORTED))]
    wanted = {
        "ratio": "at every share of outliers that classifier-free guidance reaches, the bad "
        f"version loses at most {HALF:g} times as much coverage",
        "fewer": "at equal coverage, the bad version has fewer outliers",
    }
    found = []
    for name, what in wanted.items():
        most = worst([getattr(each, name) for each in comparisons])
        single = worst([getattr(each, name) for seed in alone for each in seed])
        came = f"{_ratio(most)} times at most, {_ratio(single)} in a single seed"
        reached = most is not None and (most <= HALF if name == "ratio" else most < 1)
        found.append(Target(f"Two dimensions: {what}", came, reached))
    return found


def section(results: Results, pictures: str) -> str:
    """The part of the report on two dimensions, in Markdown.

    Args:
        results: as :func:`measure` gives them.
        pictures: the folder of the plot, as seen from the report.
    """
    low, high = results.interval
    reported, sure = listing(REPORTED), SURE * chance(results)
    return f"""\
## Two dimensions

The world of *Guidance Playground*: a tree of thin branches, whose density is known in closed
form, and small models of it, trained as in the paper's example. The bad version has less
capacity, less training, or less of both. Every run draws {POINTS} points of the tree.

- *Outliers* lie where the true density is lower than at 99 % of the true points. *Coverage* is
  the share of the tree's area with a point nearby; it is about 1 for true points.
- *W₁* is Wasserstein's distance to true points, by the exact best pairing, {PAIRED} at a time.
  *KL* is KL(truth ‖ points) in nats, estimated from nearest neighbours: it is large where a part
  of the truth is missing. By chance neither is 0 for true points, as the last row of the table
  shows.
- *Passes* are passes through a model, for each one without guidance. In brackets, a pass of the
  bad version counts by its number of weights.
- The sweeps and the rules were fixed before this run, after a trial with another seed. The scale
  of each way is the one with the lowest KL on the seeds {listing(TUNING)}. So is the interval:
  sigma from {high:g} down to {low:g}, out of {len(INTERVALS)}. All figures are from other seeds,
  {reported}, as mean ± standard deviation.
- KL decides, because W₁ measures how far points are from where they belong. Outliers are close
  to a branch, and hardly count there.

{_best(results)}

{_remark(results)}

### Away from a bad version, or from an empty prompt

Each scale of classifier-free guidance, down to its fewest outliers, is compared with the other
ways at the same share of outliers, interpolated linearly between two of their scales. The
coverage lost is the coverage without guidance minus that of the way. A loss is compared if it is
{sure:.4f} or more, {SURE:g} times the loss that chance makes in {len(results.truth)} draws of
true points. {_left_out(results)} The last columns are the loss of the other ways, divided by the
loss of classifier-free guidance; below 0 nothing is lost.

{_by_cfg(results)}

In short: at how many of these scales a way reaches as few outliers, with the median and the
greatest of its ratios, and the greatest in any single seed. And at how many it reaches as little
coverage within its sweep, with the greatest ratio of its outliers there to those of
classifier-free guidance.

{_summary(results)}

{_verdicts(results)}

![Coverage lost over outliers for every way, and KL and W₁ over the scale]({pictures}/plane.png)
"""


def _best(results: Results) -> str:
    rows = []
    for name, scale in results.best.items():
        runs = results.runs[name][scale]
        passes, cost = runs[0].passes, runs[0].cost
        cells = _cells(runs)
        rows.append(
            [name, "" if name == UNGUIDED else f"{scale:g}", *cells, f"{passes:.2f} ({cost:.2f})"]
        )
    rows.append(["true points", "", *_cells(results.truth), ""])
    header = ("way", "scale", "outliers", "coverage", "KL", "W₁", "passes")
    return markdown_table(header, rows, words=1)


def _cells(runs: Sequence[Run]) -> list[str]:
    return [
        mean_sd([run.outliers for run in runs], 1, percent=True),
        mean_sd([run.coverage for run in runs], 3),
        mean_sd([run.divergence for run in runs], 3),
        mean_sd([run.distance for run in runs], 4),
    ]


def _remark(results: Results) -> str:
    """What has the least KL, and what W₁ says of the same runs."""
    at_best = {name: results.runs[name][scale] for name, scale in results.best.items()}

    def mean(figure: str) -> dict[str, float]:
        return {
            name: statistics.fmean(getattr(run, figure) for run in runs)
            for name, runs in at_best.items()
        }

    divergence, distance = mean("divergence"), mean("distance")
    first, second = sorted(divergence, key=divergence.__getitem__)[:2]
    nearer = [name for name in distance if distance[name] < distance[UNGUIDED]]
    least = f"Lowest KL: {first}, then {second}."
    if not nearer:
        return f"{least} By W₁, none of them is closer to the truth than no guidance."
    return f"{least} Closer to the truth than no guidance by W₁: {listing(nearer)}."


def _left_out(results: Results) -> str:
    """Which scales are not compared, by either rule."""
    kept = {each.cfg for each in compared(results, BAD_VERSION)}
    without = [f"{scale:g}" for scale in results.runs[CLASSIFIER_FREE] if scale not in kept]
    return f"Left out: cfg {listing(without)}." if without else "No cfg is left out."


def _by_cfg(results: Results) -> str:
    columns = {name: compared(results, name) for name in COMPARED}
    rows = [
        [
            f"{each.cfg:g}",
            f"{100 * each.outliers:.1f} %",
            f"{each.lost:.3f}",
            *(_ratio(columns[name][row].ratio) for name in COMPARED),
        ]
        for row, each in enumerate(columns[BAD_VERSION])
    ]
    return markdown_table(("cfg", "outliers", "coverage lost", *COMPARED), rows, words=1)


def _summary(results: Results) -> str:
    rows = []
    for name in COMPARED:
        mean = compared(results, name)
        alone = [each for seed in range(len(REPORTED)) for each in compared(results, name, seed)]
        ratios = [each.ratio for each in mean if each.ratio is not None]
        fewer = [each.fewer for each in mean if each.fewer is not None]
        rows.append(
            [
                name,
                f"{len(ratios)} of {len(mean)}",
                _ratio(statistics.median(ratios) if ratios else None),
                _ratio(max(ratios, default=None)),
                _ratio(max((e.ratio for e in alone if e.ratio is not None), default=None)),
                f"{len(fewer)} of {len(mean)}",
                _ratio(max(fewer, default=None)),
            ]
        )
    header = (
        "way",
        "as few outliers",
        "loss: median",
        "greatest",
        "in one seed",
        "as little coverage",
        "outliers: greatest",
    )
    return markdown_table(header, rows, words=1)


def _verdicts(results: Results) -> str:
    return "\n".join(
        f"- {what.partition(': ')[2].capitalize()}: {came}. **{'Reached' if ok else 'Missed'}.**"
        for what, came, ok in targets(results)
    )


def _ratio(value: float | None) -> str:
    # Rounded first, for a loss of next to nothing is not to be written as -0.00.
    return "not reached" if value is None else f"{round(value, 2) + 0.0:.2f}"
