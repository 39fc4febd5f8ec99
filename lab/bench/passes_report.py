"""Which way is best for the same passes, and what history brings: docs/passes.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabular import markdown_table

from .budget_methods import AS_IT_COMES, GUIDED_HISTORY, HISTORY, KNOWN
from .methods import CLASSIFIER_FREE, UNGUIDED, words
from .pictures import CHOOSING_SEED, SEEDS, Report, Row
from .plans import LEVELS, MULTISTEP, SAMPLERS, STEP_COUNTS, affordable, history_plan
from .studio import STEPS
from .tables import Target, listing, mean_sd

INTRO = """\
# For the same passes

Which way to guide is best where a step may cost one pass of the model, or one and a quarter, and
so on up to three? `make bench-quality` writes this page with all figures; only the words around
them are written by hand.

The models, classes and measures are those of [the results](results.md), but the sampler is
`{sampler}`, {steps} steps: a multistep sampler, which is nearer to what artists use than the
`euler` of that page. A better sampler alone is worth as much as some guidance, so figures of the
two pages cannot be compared with each other. The setting of each way was chosen by the distance
of {fewer} images on seed {choosing}; the two most promising ways at each number of passes, and a
few that all are compared to, were then measured on the seeds {seeds} with {count} images each. A
*distance* is Fréchet's, in the features of a classifier; lower is better."""

ABOUT_HISTORY = """\
*History Push* with the momentum that is published (scale 1.5, memory 0.6), with no guidance and
with classifier-free guidance, whose cfg was chosen anew in each cell. Means of the seeds {seeds}
with {count} images each; below 1 means that history brought images closer to real ones. What a
coarse sampler gains and a fine one does not is not the push's own: the push then only makes up
for what the solver gets wrong."""


def page(budgets: Sequence[Report], histories: Mapping[str, Mapping[str, Report]], end: str) -> str:
    """The whole page, in Markdown.

    Args:
        budgets: by the plan ``BUDGET``, one for each kind of images.
        histories: by kind, then by the name of a plan of ``history_plan``.
        end: what was learnt, in words.
    """
    first, *_ = budgets
    one_history = next(iter(next(iter(histories.values())).values()))
    intro = INTRO.format(
        sampler=MULTISTEP,
        steps=STEPS,
        fewer=first.fewer,
        choosing=CHOOSING_SEED,
        seeds=listing(SEEDS),
        count=first.count,
    )
    parts = [intro, f"## The best way at each number of passes\n\n{_best(budgets)}"]
    rows = [
        [each.what, each.came, "yes" if each.reached else "**no**"]
        for report in budgets
        for each in targets(report)
    ]
    parts += [
        f"## Targets\n\n{markdown_table(['target', 'result', 'reached'], rows)}",
        f"## What was learnt\n\n{end}",
    ]
    about = ABOUT_HISTORY.format(seeds=listing(SEEDS), count=one_history.count)
    parts.append(f"## History, by sampler and number of steps\n\n{about}")
    parts += [f"### {kind.capitalize()}\n\n{_by_sampler(each)}" for kind, each in histories.items()]
    parts += [f"## All ways: {report.kind}\n\n{_all_ways(report)}" for report in budgets]
    return "\n\n".join(parts) + "\n"


def _best(budgets: Sequence[Report]) -> str:
    """The best way at each level, and the best of those that were known before."""
    header = ["passes", "images", "best way", "setting", "distance", "of the first page's ways"]
    lines = []
    for level in LEVELS:
        for report in budgets:
            best = best_at(report, level)
            known = best_at(report, level, known=True)
            before = "the same" if known is best else f"{known.name}: {_distance(known)}"
            lines.append(
                [
                    f"{level:g}",
                    report.kind,
                    best.name,
                    words(best.setting) or "–",
                    _distance(best),
                    before,
                ]
            )
    return markdown_table(header, lines)


def best_at(report: Report, level: float, known: bool = False) -> Row:
    """The way of at most so many passes that had the least distance on the choosing seed."""
    rows = [row for row in report.rows if not known or row.group == KNOWN]
    best, *_ = affordable(rows, level)
    return best


def _distance(row: Row) -> str:
    if not row.outcomes:
        return f"{row.promised:.3f} (seed {CHOOSING_SEED})"
    return mean_sd(row.values("distance"), 3)


def _by_sampler(reports: Mapping[str, Report]) -> str:
    header = ["sampler", "steps", "none", "history", "ratio", "cfg", "cfg, history", "ratio"]
    lines = []
    for sampler in SAMPLERS:
        for steps in STEP_COUNTS:
            report = reports[history_plan(sampler, steps)]
            cells = [sampler, str(steps)]
            for plain, pushed in ((UNGUIDED, HISTORY), (CLASSIFIER_FREE, GUIDED_HISTORY)):
                one, other = (report.row(name).mean("distance") for name in (plain, pushed))
                cells += [f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}"]
            lines.append(cells)
    return markdown_table(header, lines, words=1)


def _all_ways(report: Report) -> str:
    """Every way at its best setting, by passes and then by distance."""
    header = ["way", "setting", "passes", f"seed {CHOOSING_SEED}", "distance", "recall", "coverage"]
    lines = []
    for row in sorted(report.rows, key=lambda row: (round(row.passes, 2), row.promised)):
        measured = ["–"] * 3
        if row.outcomes:
            shares = (mean_sd(row.values(name), 2) for name in ("recall", "coverage"))
            measured = [_distance(row), *shares]
        setting = words(row.setting) or "–"
        lines.append([row.name, setting, f"{row.passes:.2f}", f"{row.promised:.3f}", *measured])
    return markdown_table(header, lines, words=2)


def targets(report: Report) -> list[Target]:
    """What the new ways were to reach on one kind of images."""
    unguided, free = report.row(UNGUIDED), report.row(CLASSIFIER_FREE)
    history, both = report.row(HISTORY), report.row(GUIDED_HISTORY)
    as_it_comes = report.row(AS_IT_COMES)
    kind = report.kind
    most_alone, most_both = {"emoji": (0.92, 0.85)}.get(kind, (1.0, 1.0))
    found = [
        _at_most(f"{kind}: history over no guidance", history, unguided, most_alone),
        _at_most(
            f"{kind}: history as the node comes over no guidance", as_it_comes, unguided, 1.01
        ),
        _at_most(f"{kind}: cfg with history over cfg", both, free, most_both),
    ]
    for level in (1.0, 2.0):
        best, known = best_at(report, level), best_at(report, level, known=True)
        what = f"{kind}: best at {level:g} pass{'es' * (level > 1)} over the best known before"
        found.append(_at_most(what, best, known, 1.0, below=True))
    return found


def _at_most(what: str, row: Row, other: Row, most: float, below: bool = False) -> Target:
    one, two = (
        each.mean("distance") if row.outcomes and other.outcomes else each.promised
        for each in (row, other)
    )
    ratio = one / two
    limit = f"below {most:g}" if below else f"at most {most:g}"
    came = f"{ratio:.2f}" + (f" ({row.name} over {other.name})" if row is not other else "")
    return Target(f"{what}, {limit}", came, ratio < most if below else ratio <= most)
