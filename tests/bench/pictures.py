"""Compare ways to guide on drawn pictures: all of them at all settings, then each at its best.

    cd tests && ../build/venv/bin/python -m bench.pictures digits

Every way draws the same classes from the same noise. Its setting is chosen by the Fréchet distance
in the classifier's features, on noise of one seed and fewer pictures; what is reported is measured
afterwards on three other seeds, with at least as many pictures as there are real ones.

Written as it goes on to build/bench, from where an interrupted run continues.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from engine.install import ROOT, SetupError, comfyui_path
from tiny.comfyui import start_comfyui

from .records import Records

OUT = ROOT / "build" / "bench"

CHOOSING_SEED = 1
SEEDS = (2, 3, 4)
FEWER = 400


@dataclass(frozen=True)
class Row:
    """What one way to guide came to, at its best setting.

    Attributes:
        name: of the way.
        group: of the tables.
        setting: the best one, in words.
        outcomes: one of each reported seed.
        passes: what a step costs, in passes of the main model.
        tried: distance at each setting that it was chosen from.
    """

    name: str
    group: str
    setting: dict[str, Any]
    outcomes: list[Any]
    passes: float
    tried: list[tuple[dict[str, Any], float]]

    def values(self, measure: str) -> list[float]:
        """One measure of each seed."""
        return [getattr(outcome, measure) for outcome in self.outcomes]

    def mean(self, measure: str) -> float:
        """One measure, over the seeds."""
        return statistics.fmean(self.values(measure))


@dataclass(frozen=True)
class Report:
    """What was measured on one kind of pictures.

    Attributes:
        kind: name of the kind.
        rows: one for each way.
        halves: Fréchet distances between two halves of the real pictures, features and pixels.
        real: how many real pictures there are.
        count: how many were drawn in each reported run.
    """

    kind: str
    rows: list[Row]
    halves: tuple[float, float]
    real: int
    count: int

    def row(self, name: str) -> Row:
        """The one of this name."""
        return next(row for row in self.rows if row.name == name)

    def best(self, *groups: str, measure: str = "distance") -> Row:
        """The way with the least distance in some groups of the table."""
        return min(
            (row for row in self.rows if row.group in groups), key=lambda row: row.mean(measure)
        )


def measure(kind: Any, records: Records, ways: Sequence[Any], studio: Any) -> Report:
    """Measure all ways on one kind of pictures.

    Args:
        kind: of ``kinds``.
        records: of this kind; what is in them is not measured again.
        ways: of ``methods``.
        studio: of this kind.
    """
    from .measures import Outcome
    from .methods import words

    def run(inputs: Any, count: int, seed: int) -> dict[str, float]:
        return asdict(kind.ruler.outcome(*studio.draw(inputs, count, seed)))

    rows = []
    for done, way in enumerate(ways):
        progress = f"{kind.name} {done + 1}/{len(ways)}"
        tried = []
        for setting in way.settings():
            inputs = way.inputs(**setting)
            name = f"{way.name}; {words(setting)}; seed {CHOOSING_SEED}"
            figures = records.get(name, partial(run, inputs, FEWER, CHOOSING_SEED), progress)
            tried.append((setting, figures["distance"]))
        setting = min(tried, key=lambda each: each[1])[0]
        inputs = way.inputs(**setting)
        outcomes = []
        for seed in SEEDS:
            name = f"{way.name}; {words(setting)}; seed {seed}; {kind.count} pictures"
            figures = records.get(name, partial(run, inputs, kind.count, seed), progress)
            outcomes.append(Outcome(**figures))
        name = f"{way.name}; {words(setting)}; passes"
        passes = records.get(name, lambda inputs=inputs: {"passes": studio.passes(inputs)})
        rows.append(Row(way.name, way.group, setting, outcomes, passes["passes"], tried))
    return Report(kind.name, rows, kind.ruler.halves(), len(kind.real[0]), kind.count)


def prepare(name: str, afresh: bool = False) -> tuple[Any, Records, list[Any], Any]:
    """Arguments of `measure` for the kind of this name; ComfyUI has been started."""
    import comfy.utils

    from engine.library import load_nodes

    from . import kinds, methods, studio

    comfy.utils.PROGRESS_BAR_ENABLED = False  # There are hundreds of runs.
    kind = kinds.KINDS[name]
    ways = methods.methods(kind.weak, kind.best, kind.weakest, kind.scales)
    settings = {
        "steps": studio.STEPS,
        "sampler": studio.SAMPLER,
        "fewer": FEWER,
        "count": kind.count,
        "models": kind.fingerprint,
    }
    records = Records(OUT / f"{name}.json", settings, afresh)
    taken_for = kind.ruler.taken_for(kind.real[1])
    return kind, records, ways, studio.Studio(load_nodes(comfyui_path()), kind.files, taken_for)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("digits", "emoji"))
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args(arguments)
    try:
        comfyui_path()
    except SetupError as error:
        return str(error)
    start_comfyui()
    try:
        report = measure(*prepare(options.kind, options.afresh))
    except KeyboardInterrupt:
        return "Interrupted. Run it again to go on; what was measured is kept."
    from .pictures_report import section

    print(section(report, "."))
    return None


if __name__ == "__main__":
    sys.exit(main())
