"""What is compared on drawn images, and how they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tiny.sampling import SAMPLER

from . import budget_methods, methods
from .kinds import Kind
from .methods import CLASSIFIER_FREE, UNGUIDED, Method
from .pictures import Row
from .studio import STEPS

# A multistep sampler, as most artists use one; one like the tables' own; one that adds noise.
MULTISTEP = "dpmpp_2m"
SAMPLERS = (SAMPLER, MULTISTEP, "euler_ancestral")
STEP_COUNTS = (8, STEPS, 2 * STEPS)
BUDGET = "budget"


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Attributes:
        name: of it.
        sampler: ComfyUI's name of the sampler.
        steps: of a run.
        ways: from a kind of images to the ways to guide it.
        count: how many images are drawn in each reported run; None for the kind's own number.
        fewer: how many in those by which settings are chosen, likewise.
        reported: chooses names of ways to be measured on the reported seeds; None for all.
    """

    name: str
    sampler: str
    steps: int
    ways: Callable[[Kind], Sequence[Method]]
    count: int | None = None
    fewer: int | None = None
    reported: Callable[[Sequence[Row]], set[str]] | None = None


# So many passes a step may cost, each with what rounding adds.
LEVELS = (1.0, 1.25, 1.5, 2.0, 3.0)
_SLACK = 1.005
_ALWAYS = (
    UNGUIDED,
    CLASSIFIER_FREE,
    budget_methods.HISTORY,
    budget_methods.AS_IT_COMES,
    budget_methods.GUIDED_HISTORY,
)


def affordable(rows: Sequence[Row], level: float) -> list[Row]:
    """Ways that cost at most so many passes a step, the most promising first."""
    found = [row for row in rows if row.passes <= level * _SLACK]
    return sorted(found, key=lambda row: row.promised)


def worth_reporting(rows: Sequence[Row]) -> set[str]:
    """The two most promising ways at each number of passes, and those that they are compared to."""
    known = [row for row in rows if row.group == budget_methods.KNOWN]
    best = [affordable(rows, level)[:2] + affordable(known, level)[:1] for level in LEVELS]
    return {row.name for of_level in best for row in of_level} | set(_ALWAYS)


def _all_ways(kind: Kind) -> list[Method]:
    return methods.methods(kind.weak, kind.best, kind.weakest, kind.scales)


def history_plan(sampler: str, steps: int) -> str:
    """Name of the plan that tries history with a sampler and a number of steps."""
    return f"history {sampler} {steps}"


PLANS = {
    plan.name: plan
    for plan in (
        Plan("", SAMPLER, STEPS, _all_ways),
        Plan(
            BUDGET,
            MULTISTEP,
            STEPS,
            budget_methods.by_passes,
            count=400,
            fewer=200,
            reported=worth_reporting,
        ),
        *(
            Plan(history_plan(each, steps), each, steps, budget_methods.with_history, 200, 200)
            for each in SAMPLERS
            for steps in STEP_COUNTS
        ),
    )
}
