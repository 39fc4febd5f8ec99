"""What the sections of the report share: targets, spreads, and places along a curve."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Target(NamedTuple):
    """What was to be reached.

    Attributes:
        what: in words.
        came: what came of it, in words.
        reached: whether it is.
    """

    what: str
    came: str
    reached: bool


def mean_sd(values: Sequence[float], digits: int, percent: bool = False) -> str:
    """The mean and the standard deviation, ``0.90 ± 0.01``; of one value, it alone.

    Args:
        values: one for each seed, say.
        digits: behind the point.
        percent: whether to write shares as percentages, with the sign.
    """
    factor, unit = (100, " %") if percent else (1, "")
    text = f"{factor * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {factor * statistics.stdev(values):.{digits}f}"
    return text + unit


def listing(parts: Sequence[object]) -> str:
    """Some things in a sentence: ``1, 2 and 3``."""
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last


def first_at(along: Sequence[float], values: Sequence[float], place: float) -> float | None:
    """What a curve has where it first comes to a place, straight between its points.

    A curve that turns back comes to some places twice. The first time is what a reader would take
    who turns a scale up until it is enough.

    Args:
        along: where the curve is at each of its points, in their order.
        values: what it has there.
        place: where to look.

    Returns:
        None where the curve does not come there.
    """
    for (a, x), (b, y) in itertools.pairwise(zip(along, values, strict=True)):
        if min(a, b) <= place <= max(a, b):
            return x if a == b else x + (y - x) * (place - a) / (b - a)
    return None
