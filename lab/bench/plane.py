"""Compare ways to guide in the playground's world, where the truth is known.

    make lab RUN="bench.plane"

Draws points by every way, over a sweep of scales, from the same noise, and measures them. The
interval and the scales to compare at are chosen with some seeds, everything reported comes from
others. Then the paper's claim: what a bad version costs in coverage, over what an empty prompt
costs at as many outliers.

Written as it goes on to build/bench/plane.json, from where an interrupted run continues; the plot
beside it. Needs no ComfyUI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from comfyui.install import ROOT

from .plane_plots import plot_plane
from .plane_report import section, targets
from .plane_runs import SETTINGS, Results, measure
from .records import Records

__all__ = ["SETTINGS", "main", "measure", "plot", "section", "targets"]

OUT = ROOT / "build" / "bench"


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args(arguments)
    try:
        results = measure(Records(OUT / "plane.json", SETTINGS, options.afresh))
    except KeyboardInterrupt:
        return "Interrupted. Run it again to go on; what was measured is kept."
    print(section(results, "."))
    for what, came, reached in targets(results):
        print(f"\ntarget {'met' if reached else 'not met'}: {what}: {came}")
    plot(results, OUT)
    print(f"\nwritten to {OUT.relative_to(ROOT)}: plane.json, plane.png")
    return None


def plot(results: Results, folder: Path) -> None:
    """Draw ``plane.png`` into a folder."""
    plot_plane(results, folder / "plane.png")


if __name__ == "__main__":
    sys.exit(main())
