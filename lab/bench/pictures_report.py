"""What the comparison on drawn images says, as a section of docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence

from tabular import markdown_table

from .methods import (
    BOTH,
    CHEAP,
    CLASSIFIER_FREE,
    INTERVAL,
    LOW_RANK,
    ONE,
    ONE_SHAPED,
    REFERENCE,
    SHAPED,
    SKIPPING,
    UNGUIDED,
    WEAK,
    words,
)
from .pictures import CHOOSING_SEED, SEEDS, Report, Row, most_promising
from .tables import Target, listing, mean_sd

GROUPS = (REFERENCE, WEAK, ONE, ONE_SHAPED, CHEAP, BOTH, SHAPED)
# Of the main model's distance, how often that between two halves of the real images.
UNDERFITTING = 5.0
# What a step may cost that is called cheap, in passes.
CHEAP_PASSES = 1.25


def section(report: Report, pictures: str, credit: str = "") -> str:
    """The tables and plots of one kind of images, in Markdown.

    Args:
        pictures: folder of the plots, from the page.
        credit: of what the images show.
    """
    parts = [_intro(report), _plots(report, pictures)]
    if credit:
        parts.append(f"*{credit}*")
    for group in GROUPS:
        rows = [row for row in report.rows if row.group == group]
        if rows:
            parts.append(f"### {report.kind.capitalize()}: {group}\n\n{table(rows)}")
        if rows and group == BOTH:
            parts.append(_together(report))
    return "\n\n".join(parts)


def summary(reports: Sequence[Report]) -> str:
    """The plain ways, on all kinds of images: the table that the README has as well."""
    first, *_ = reports
    plain = [row.name for row in first.rows if row.group in (REFERENCE, WEAK, BOTH)]
    ways = [*plain, SKIPPING, LOW_RANK]
    measures = ("distance", "coverage", "passes")
    header = ["way"] + [f"{report.kind}: {each}" for report in reports for each in measures]
    lines = [
        [name, *(cell for report in reports for cell in _summed_up(report.row(name)))]
        for name in ways
    ]
    return markdown_table(header, lines, words=1)


def _summed_up(row: Row) -> list[str]:
    return [
        mean_sd(row.values("distance"), 2),
        mean_sd(row.values("coverage"), 2),
        f"{row.passes:.2f}",
    ]


def table(rows: Sequence[Row]) -> str:
    """Ways by their distance, the best first."""
    header = [
        "way",
        "setting",
        "distance",
        "in pixels",
        "precision",
        "recall",
        "density",
        "coverage",
        "right",
        "passes",
    ]
    shares = ("precision", "recall", "density", "coverage")
    lines = [
        [
            row.name,
            words(row.setting) or "–",
            mean_sd(row.values("distance"), 3),
            mean_sd(row.values("pixels"), 3),
            *(mean_sd(row.values(share), 2) for share in shares),
            mean_sd(row.values("right"), 1, percent=True),
            f"{row.passes:.2f}",
        ]
        for row in sorted(rows, key=lambda row: row.mean("distance"))
    ]
    return markdown_table(header, lines, words=2)


def _intro(report: Report) -> str:
    unguided = report.row(UNGUIDED)
    features, pixels = (
        unguided.mean(measure) / half
        for measure, half in zip(("distance", "pixels"), report.halves, strict=True)
    )
    return (
        f"Each run makes {report.count:,} images from the same noise, measured against "
        f"{report.real:,} real ones. Figures are means of the seeds {listing(SEEDS)} ± one "
        f"standard deviation. The setting of each way was chosen by the distance on seed "
        f"{CHOOSING_SEED} with {report.fewer} images; so was the best of several ways. Two halves "
        f"of the real images are {report.halves[0]:.3f} apart, in pixels {report.halves[1]:.4f}; "
        f"the main model without guidance is at {features:.1f} and {pixels:.1f} times that. A half "
        "has fewer images than a run, which by itself makes the distance of halves greater, so "
        "less than 1 time is possible."
    )


def _together(report: Report) -> str:
    """What two pushes come to, over the best that one of them does."""
    both, weak = report.best(BOTH), report.best(WEAK)
    alone = [report.row(CLASSIFIER_FREE), report.row(INTERVAL), weak]
    ratios = [f"{_ratio(both, row):.2f} of that of {row.name}" for row in alone]
    return f"The distance of both together is {listing(ratios)}."


def _plots(report: Report, pictures: str) -> str:
    kind = report.kind
    return "\n\n".join(
        f"![{alt}]({pictures}/{kind}_{name}.{ending})"
        for alt, name, ending in (
            (f"{kind}: what each way makes", "sheet", "jpg"),
            (f"{kind}: distance over scale, and over passes", "plots", "png"),
        )
    )


def targets(report: Report) -> list[Target]:
    """What the project set out to reach on images, and whether this kind reaches it."""
    unguided, free, interval = (report.row(name) for name in (UNGUIDED, CLASSIFIER_FREE, INTERVAL))
    weak = report.best(WEAK)
    one, shaped = report.best(ONE), report.best(ONE_SHAPED)
    # The interval is its schedule.
    free_shaped = most_promising(
        row for row in report.rows if row.name.startswith((f"{CLASSIFIER_FREE},", INTERVAL))
    )
    covered = weak.mean("coverage") >= unguided.mean("coverage")
    coverage = (
        f"coverage {weak.mean('coverage'):.2f}, without guidance {unguided.mean('coverage'):.2f}"
    )
    return [
        _at_most("best weak checkpoint over classifier-free", weak, free, 0.60),
        _at_most("best weak checkpoint over interval", weak, interval, 0.80),
        Target(
            "coverage of the best weak checkpoint, at least that without guidance",
            coverage,
            covered,
        ),
        _at_most("one checkpoint over classifier-free", one, free, 0.80),
        _at_most("the same, both with a schedule or a shape", shaped, free_shaped, 0.80),
        _cheap(report, unguided),
        Target(
            f"the main model without guidance, at least {UNDERFITTING:g} times two halves of the "
            "real",
            f"{unguided.mean('distance') / report.halves[0]:.1f} times",
            unguided.mean("distance") >= UNDERFITTING * report.halves[0],
        ),
    ]


def _at_most(what: str, row: Row, other: Row, most: float) -> Target:
    ratio = _ratio(row, other)
    each = [a / b for a, b in zip(row.values("distance"), other.values("distance"), strict=True)]
    by_seed = listing([f"{one:.2f}" for one in each])
    return Target(
        f"distance, {what}, at most {most:.2f}",
        f"{ratio:.2f} ({row.name} over {other.name}; by seed {by_seed})",
        ratio <= most,
    )


def _ratio(row: Row, other: Row) -> float:
    return row.mean("distance") / other.mean("distance")


def _cheap(report: Report, unguided: Row) -> Target:
    full = report.best(WEAK)
    cheap = [
        row for row in report.rows if row.group in (WEAK, CHEAP) and row.passes <= CHEAP_PASSES
    ]
    what = (
        f"gain at {CHEAP_PASSES:g} passes a step, at least 90 % of the gain of the best weak "
        "checkpoint"
    )
    if not cheap:
        return Target(what, "no way is so cheap", False)
    best = most_promising(cheap)
    share = gain(best, unguided) / gain(full, unguided)
    return Target(what, f"{share:.0%} ({best.name}, {best.passes:.2f} passes)", share >= 0.9)


def gain(row: Row, unguided: Row) -> float:
    """How much nearer to the real images a way comes than no guidance."""
    return unguided.mean("distance") - row.mean("distance")
