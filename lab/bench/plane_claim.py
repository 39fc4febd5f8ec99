"""What a way to guide costs, over what classifier-free guidance costs for the same.

Autoguidance is said to bring fewer outliers at less cost of variety (Karras et al. 2024, arXiv
2406.02507). Scales of different ways cannot be compared, so the curves are that they run along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .tables import first_at


class Point(NamedTuple):
    """What a way leaves at one scale: its outliers, and its coverage."""

    scale: float
    outliers: float
    coverage: float


@dataclass(frozen=True)
class Comparison:
    """A way against classifier-free guidance of one scale.

    Attributes:
        cfg: that scale.
        outliers: that it leaves, 0 to 1.
        lost: of the coverage without guidance, by classifier-free guidance.
        ratio: what the way loses at as many outliers, over ``lost``; None where it does not leave
            as few.
        fewer: the outliers that the way leaves at the same coverage, over ``outliers``; None where
            it does not come down to that coverage.
    """

    cfg: float
    outliers: float
    lost: float
    ratio: float | None
    fewer: float | None


def compare(
    classifier_free: Sequence[Point], way: Sequence[Point], sure: float
) -> list[Comparison]:
    """Compare a way with classifier-free guidance, at as many outliers and at the same coverage.

    Args:
        classifier_free: its curve. It is followed down to the fewest outliers; what comes after
            that is worse in both respects, and would flatter anything.
        way: the curve of the other way.
        sure: the least loss of coverage to compare with.
    """
    fewest = min(range(len(classifier_free)), key=lambda i: classifier_free[i].outliers)
    unguided = classifier_free[0].coverage
    _, outliers, coverages = zip(*way, strict=True)
    comparisons = []
    for cfg, left, coverage in classifier_free[1 : fewest + 1]:
        lost = unguided - coverage
        if lost < sure:
            continue
        kept = first_at(outliers, coverages, left)
        ratio = None if kept is None else (unguided - kept) / lost
        there = first_at(coverages, outliers, coverage)
        comparisons.append(
            Comparison(cfg, left, lost, ratio, None if there is None else there / left)
        )
    return comparisons


def worst(found: Sequence[float | None]) -> float | None:
    """The greatest of some ratios; None where one is missing, or all."""
    return None if None in found or not found else max(found)
