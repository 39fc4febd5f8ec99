"""Does guidance away from a bad version make better images, and at what cost?

    make bench-quality

Three parts: points in two dimensions, where the truth is known; handwritten digits; and emoji. Each
compares all ways to guide, at settings that were chosen on other seeds than those reported. Written
as it goes on to build/bench, from where an interrupted run continues; at the end to
docs/results.md, with plots beside it. Then images once more: which way is best for the same
passes, in docs/passes.md. To miss a target is no failure here, but it is told.

As many runs are made side by side as there are cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import digits.train
import emoji.train
from comfyui.install import ROOT, SetupError, comfyui_path
from tabular import markdown_table
from tiny.comfyui import start_comfyui

from . import plane
from .records import Records
from .tables import Target

PAGE = ROOT / "docs" / "results.md"
PASSES_PAGE = PAGE.with_name("passes.md")
PICTURES = PAGE.parent / "results"
KINDS = ("digits", "emoji")
PROMISED = "digits"  # Of which something was to be reached.

INTRO = """\
# Results

Does a push away from a bad version make better images, and at what cost? `make bench-quality`
writes this page with all figures and plots; only the words around them are written by hand.

**Setup.** Guidance can only help a model that is not fully trained. So the training of the main
models of digits and emoji was stopped early: for digits, where the distance to real ones was at
least five times the distance between two halves of the real ones. Their bad versions are the
same network after a part of the training (*earlier*), a smaller network after the same training
(*smaller*), and a smaller network after that part of it:

{families}

The training data is varied: every original is rotated, stretched, shifted and recoloured each
time, digits also in the width of their strokes, and a part of the originals is held out. Before
this was fixed, short trials used noise of other seeds than those below: main models of digits
with less and with more training, bad versions of emoji with less and with more of it. Some
things were decided later, after a look at the seed that chooses the settings: more strengths for
the nodes that weaken the model itself, higher scales where the highest had been best, skipped
blocks with a schedule or a shape, the range of the emoji's scales, and which model of emoji, the
smaller one, is tried with savings, schedules and shapes. By then, most of the digits' figures
below were known; their plain ways did not change.

**What is compared.** The pack's own nodes and ComfyUI's own sampler (`euler`, {steps} steps)
make all images, the same classes from the same noise for each way to guide. The negative prompt
of a class is the class whose real images are most similar. *Distance* is the Fréchet distance to
the real images in the features of a classifier that knows nothing of the models, *in pixels* the
same for the images reduced to 8×8 pixels. Precision and recall follow Kynkäänniemi et al. 2019,
density and coverage Naeem et al. 2020. *Passes* are what a step costs, counted in
multiplications and additions; a pass of the main model is 1."""

IN_SHORT = """\
The tiny models of digits and emoji, each way at its own best setting. A lower distance means
that images are closer to real ones. A higher coverage, from 0 to 1, means that more kinds of
real images appear. Passes are what a step costs."""

TAKEN = """\
- With no weak model, *Bad-Version Guider* skips some blocks of a transformer. Of the nodes
  that weaken the digits' model itself, this one is best. For emoji, low rank is better, but it
  needs a second copy of the weights and costlier passes. So the guider uses low rank only where
  blocks cannot be skipped. It no longer uses noise on the weights, which brings next to nothing.
- With `weak_every` 2, neither digits nor emoji lose more than the difference between seeds. Its
  default is still 1, since a sampler with fewer steps has more to lose.
- The guider has no option for a coarser latent in the weak model: a model that has not learned
  such latents is no bad version of itself there.
- The default share of *Distance-Calibrated Scale* is between the best ones and none.
- U-Nets are not measured here. The guider weakens the attention in their middle."""

LEARNT = """\
- **At no pass at all**, *History Push* brings emoji closer to real ones, and digits hardly: as the
  node comes, or at its best setting. A memory of 0.6, as published, brings emoji more and costs
  digits a little.
- **What of it is a better solver.** With `euler` at 8 steps the gain is large everywhere; with more
  steps, or with `dpmpp_2m`, it shrinks. For digits with no guidance nothing is left of it then:
  all of it was the solver. For emoji, and beside classifier-free guidance, a part is left even
  with `dpmpp_2m` at 32 steps: that part is real.
- **Beside classifier-free guidance** it is worth most. It gives back the recall that guidance
  takes, so that a higher cfg pays. With history, cfg in the second half of the steps alone comes
  closer to real images than plain cfg at every step, at three quarters of its passes; for emoji
  it is better there than at every step.
- **Beside a weak model alone** it does harm, at every number of passes. Beside both pushes it
  helps again, a little.
- **At two passes or less**, emoji are best with cfg in the second half and history, digits with a
  weak checkpoint, which has to run at every fourth step only. So the README names both.
- **Two weak models** are worth a little more than one, and a negative prompt beside the empty one
  next to nothing.
- **Stop When Settled** at its default leaves the distance nearly as it was. It saves a fifth of the
  negative passes for emoji, and none for digits, where the two predictions settle at the end.
- **Content of the prompt** falls between no guidance and classifier-free guidance here, where a
  prompt is one token and the pooled vector says all of it again.
- **A noisy clock** brings little and **swapped tokens** do harm on these tiny transformers. **A
  block drawn at each step** is better than a fixed one for emoji; in the digits' network of two
  blocks there is nothing to draw.
- Nothing of this became automatic: history changes images that were made without it, and beside
  a weak model, which is what the guider makes by itself, it does harm."""

MISSED = """\
These targets were set for digits. With emoji, a bad version alone misses most of them. The
column *right* shows why: without guidance, the classifier does not read many emoji as what the
prompt asks for. The weak model makes the same mistakes there, or knows no better, so pushing
away from it corrects little of that. Pushing away from an empty prompt, or another one, does.
What a bad version improves instead shows in recall: classifier-free guidance lowers it, a bad
version raises it. So the two add up, and both together are best by far. Tried without better
success: an earlier, a smaller and a smaller earlier version, every schedule and shape of the
tables, and scales up to 6. Not tried: a main model of emoji with less training, which would have
more to gain.

In pixels, which show layout and colour only, hardly any push brings emoji closer to real ones,
and strong pushes move them away: they overdo colours."""


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args(arguments)
    try:
        comfyui_path()
        start_comfyui()
        pages = write_page(options.afresh), write_passes_page(options.afresh)
    except SetupError as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. Run it again to go on; what was measured is kept."
    print(f"\nwritten to {' and '.join(str(page.relative_to(ROOT)) for page in pages)}")
    return None


def write_page(afresh: bool) -> Path:
    """Measure what has not been measured, and write the page and its plots; returns where it is."""
    from . import pictures, pictures_plots, pictures_report, studio

    with pictures.workers() as pool:
        reports = [pictures.report(name, pool, afresh) for name in KINDS]
    points = plane.measure(Records(plane.OUT / "plane.json", plane.SETTINGS, afresh))
    plane.plot(points, PICTURES)
    targets = plane.targets(points)
    sections = []
    for report in reports:
        bench, name = pictures.Bench.of(report.kind), report.kind.capitalize()
        pictures_plots.plot(report, PICTURES / f"{report.kind}_plots.png")
        sheet = pictures_plots.draw_shown(report, bench)
        sheet.save(PICTURES / f"{report.kind}_sheet.jpg", quality=88)
        section = pictures_report.section(report, PICTURES.name, bench.kind.credit)
        found = pictures_report.targets(report)
        if report.kind == PROMISED:
            targets += [each._replace(what=f"{name}: {each.what}") for each in found]
        else:
            section += f"\n\n### {name}: the digits' targets\n\n"
            section += f"{verdicts(found)}\n\n{MISSED}"
        sections.append(f"## {name}\n\n{section}")
    parts = [
        INTRO.format(steps=studio.STEPS, families=families()),
        f"## In short\n\n{IN_SHORT}\n\n{pictures_report.summary(reports)}",
        f"## Targets\n\n{verdicts(targets)}",
        f"## What the pack does because of it\n\n{TAKEN}",
        plane.section(points, PICTURES.name).rstrip(),
        *sections,
    ]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return PAGE


def write_passes_page(afresh: bool) -> Path:
    """Measure which way is best for the same passes, and write the page; returns where it is."""
    from . import passes_report, pictures, plans

    names = [plans.history_plan(each, n) for each in plans.SAMPLERS for n in plans.STEP_COUNTS]
    with pictures.workers() as pool:
        budgets = [pictures.report(kind, pool, afresh, plans.BUDGET) for kind in KINDS]
        histories = {
            kind: {name: pictures.report(kind, pool, afresh, name) for name in names}
            for kind in KINDS
        }
    PASSES_PAGE.write_text(passes_report.page(budgets, histories, LEARNT), encoding="utf-8")
    return PASSES_PAGE


def families() -> str:
    """How large the models of images are, and how long they were trained, as a table."""
    header = ["models", "main", "earlier", "smaller", "smaller and earlier"]
    rows = []
    for name, family in (("digits", digits.train.UNDERFIT), ("emoji", emoji.train.FAMILY)):
        sizes = [
            f"{depth} block{'s' * (depth > 1)}, {steps:,} steps"
            for depth in (family.main.depth, family.smaller_depth)
            for steps in (family.main.steps, family.earlier_steps)
        ]
        rows.append([name, *sizes])
    return markdown_table(header, rows)


def verdicts(targets: Sequence[Target]) -> str:
    """A table of what was to be reached, and what came of it."""
    rows = [[each.what, each.came, "yes" if each.reached else "**no**"] for each in targets]
    return markdown_table(["target", "result", "reached"], rows)


if __name__ == "__main__":
    sys.exit(main())
