"""Compare ways to guide on drawn images: all of them at all settings, then each at its best.

    make lab RUN="bench.pictures digits"

Every way draws the same classes from the same noise. Its setting is chosen by the Fréchet distance
in the classifier's features, on noise of one seed and fewer images; what is reported is measured
afterwards on three other seeds, with at least as many images as there are real ones.

Written as it goes on to build/bench, from where an interrupted run continues.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from comfyui.install import ROOT, SetupError, comfyui_path
from tiny.comfyui import start_comfyui

from .measures import Outcome
from .records import Records

OUT = ROOT / "build" / "bench"

CHOOSING_SEED = 1
SEEDS = (2, 3, 4)


@dataclass(frozen=True)
class Row:
    """What one way to guide came to, at its best setting.

    Attributes:
        name: of the way.
        group: of the tables.
        setting: the best one, by the names of its parts.
        outcomes: one of each reported seed; none where only the choosing seed was measured.
        passes: what a step costs, in passes of the main model.
        tried: distance at each setting that it was chosen from.
    """

    name: str
    group: str
    setting: dict[str, Any]
    outcomes: list[Outcome]
    passes: float
    tried: list[tuple[dict[str, Any], float]]

    def values(self, measure: str) -> list[float]:
        """One measure of each seed."""
        return [getattr(outcome, measure) for outcome in self.outcomes]

    def mean(self, measure: str) -> float:
        """One measure, over the seeds."""
        return statistics.fmean(self.values(measure))

    @property
    def promised(self) -> float:
        """The least distance on the choosing seed."""
        return min(distance for _, distance in self.tried)


def most_promising(rows: Iterable[Row]) -> Row:
    """The way that had the least distance on the choosing seed."""
    return min(rows, key=lambda row: row.promised)


@dataclass(frozen=True)
class Report:
    """What was measured on one kind of images.

    Attributes:
        kind: name of the kind.
        rows: one for each way.
        halves: Fréchet distances between two halves of the real images, features and pixels.
        real: how many real images there are.
        count: how many were drawn in each reported run.
        fewer: how many in those by which settings were chosen.
    """

    kind: str
    rows: list[Row]
    halves: tuple[float, float]
    real: int
    count: int
    fewer: int

    def row(self, name: str) -> Row:
        """The one of this name."""
        return next(row for row in self.rows if row.name == name)

    def best(self, *groups: str) -> Row:
        """The way of some groups of the tables that had the least distance on the choosing seed."""
        return most_promising(row for row in self.rows if row.group in groups)


@dataclass(frozen=True)
class Run:
    """One way to guide, at one setting.

    Attributes:
        way: its name.
        setting: inputs of its own.
        count: how many images are drawn.
        seed: of their noise; None where nothing is drawn but the work of a step is counted.
        chooses: whether it only helps to choose the setting.
    """

    way: str
    setting: dict[str, Any]
    count: int
    seed: int | None
    chooses: bool = False

    @property
    def name(self) -> str:
        """By which its figures are recorded."""
        from .methods import words

        if self.seed is None:
            what = "passes"
        else:
            what = f"seed {self.seed}" + ("" if self.chooses else f"; {self.count} images")
        return f"{self.way}; {words(self.setting)}; {what}"


# Makes some runs and writes their figures into the records, unless they are there.
Runner = Callable[[Records, Sequence[Run]], None]


def measure(
    kind: Any,
    records: Records,
    ways: Sequence[Any],
    make: Runner,
    plan: Any = None,
) -> Report:
    """Measure all ways on one kind of images.

    Args:
        kind: of ``kinds``.
        records: of this kind; what is in them is not measured again.
        ways: of ``methods``.
        make: makes the runs that are asked for.
        plan: of ``plans``, with numbers of images of its own, and a choice of what is reported.
    """
    count = (plan and plan.count) or kind.count
    fewer = (plan and plan.fewer) or kind.fewer
    choosing = {
        way.name: [Run(way.name, dict(each), fewer, CHOOSING_SEED, True) for each in way.settings()]
        for way in ways
    }
    make(records, [run for runs in choosing.values() for run in runs])
    tried = {
        name: [(run.setting, records[run.name]["distance"]) for run in runs]
        for name, runs in choosing.items()
    }
    best = {name: min(each, key=lambda one: one[1])[0] for name, each in tried.items()}
    passes = {name: Run(name, setting, 1, None) for name, setting in best.items()}
    make(records, list(passes.values()))
    rows = [
        Row(
            way.name,
            way.group,
            best[way.name],
            [],
            records[passes[way.name].name]["passes"],
            tried[way.name],
        )
        for way in ways
    ]
    chosen = plan.reported(rows) if plan and plan.reported else {row.name for row in rows}
    reported = {
        name: [Run(name, best[name], count, seed) for seed in SEEDS]
        for name in best
        if name in chosen
    }
    make(records, [run for runs in reported.values() for run in runs])
    rows = [
        replace(row, outcomes=[Outcome(**records[run.name]) for run in reported.get(row.name, [])])
        for row in rows
    ]
    return Report(kind.name, rows, kind.ruler.halves(), len(kind.real[0]), count, fewer)


@dataclass(frozen=True)
class Bench:
    """What one kind of images is measured with; ComfyUI has been started.

    Attributes:
        kind: of ``kinds``.
        plan: of ``plans``.
        ways: to guide, by name.
        studio: which draws.
        settings: what the figures depend on.
    """

    kind: Any
    plan: Any
    ways: Mapping[str, Any]
    studio: Any
    settings: dict[str, Any]

    @classmethod
    @cache
    def of(cls, name: str, plan: str = "") -> Bench:
        """That for the kind and the plan of these names."""
        import comfy.utils

        from comfyui.library import load_nodes

        from . import kinds, plans, studio

        comfy.utils.PROGRESS_BAR_ENABLED = False  # There are hundreds of runs.
        kind, planned = kinds.KINDS[name], plans.PLANS[plan]
        taken_for = kind.ruler.taken_for(kind.real[1])
        settings = {
            "steps": planned.steps,
            "sampler": planned.sampler,
            "fewer": planned.fewer or kind.fewer,
            "count": planned.count or kind.count,
            "models": kind.fingerprint,
        }
        nodes = load_nodes(comfyui_path())
        drawing = studio.Studio(nodes, kind.files, taken_for, planned.sampler, planned.steps)
        return cls(kind, planned, {way.name: way for way in planned.ways(kind)}, drawing, settings)

    def figures(self, run: Run) -> dict[str, float]:
        """Make one run."""
        inputs = self.ways[run.way].inputs(**run.setting)
        if run.seed is None:
            return {"passes": self.studio.passes(inputs)}
        return asdict(self.kind.ruler.outcome(*self.studio.draw(inputs, run.count, run.seed)))

    def records(self, afresh: bool = False) -> Records:
        """Where the figures of this kind and plan are kept."""
        name = "_".join(filter(None, (self.kind.name, self.plan.name)))
        return Records(OUT / f"{name}.json", self.settings, afresh)


def report(name: str, pool: Executor, afresh: bool = False, plan: str = "") -> Report:
    """Measure the kind of this name, side by side in the processes of a pool."""
    bench = Bench.of(name, plan)

    def make(records: Records, runs: Sequence[Run]) -> None:
        missing = [run for run in runs if run.name not in records]
        made = {pool.submit(_figures, name, bench.plan.name, run): run for run in missing}
        for done, future in enumerate(as_completed(made)):
            run = made[future]
            print(f"{name} {bench.plan.name} {done + 1}/{len(missing)} {run.name}", flush=True)
            records[run.name] = future.result()

    ways = list(bench.ways.values())
    return measure(bench.kind, bench.records(afresh), ways, make, bench.plan)


@contextmanager
def workers() -> Iterator[Executor]:
    """Processes that can make runs, one for each core, with one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(os.cpu_count(), context, initializer=_start)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    # An interruption is for the parent, which keeps what has been measured.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_comfyui()


def _figures(name: str, plan: str, run: Run) -> dict[str, float]:
    return Bench.of(name, plan).figures(run)


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
        with workers() as pool:
            measured = report(options.kind, pool, options.afresh)
    except KeyboardInterrupt:
        return "Interrupted. Run it again to go on; what was measured is kept."
    from .pictures_report import section

    print(section(measured, "."))
    return None


if __name__ == "__main__":
    sys.exit(main())
