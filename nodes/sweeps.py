"""Every combination of some settings, and where the image of each belongs on a sheet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """One value of a setting, and what to call it on a sheet."""

    value: Any
    caption: str


@dataclass(frozen=True)
class Sweep:
    """How the images of a sweep lie on a sheet, in reading order.

    Attributes:
        columns: what sets the images of each column apart.
        rows: what sets the images of each row apart.
        common: what all images have in common.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    common: str


def arranged(settings: Mapping[str, Sequence[Choice]], columns: str) -> tuple[list[Any], Sweep]:
    """Combine all choices of all settings.

    Args:
        settings: at least one choice of each, by name; a later one changes faster from row to row.
        columns: name of the one that changes from left to right.

    Returns:
        The value of each setting for each image, in reading order and by name; the sweep.
    """
    fixed = {n: each[0] for n, each in settings.items() if n != columns and len(each) == 1}
    varied = {n: each for n, each in settings.items() if n != columns and n not in fixed}
    rows = [dict(zip(varied, row, strict=True)) for row in itertools.product(*varied.values())]
    images = [
        {name: choice.value for name, choice in {**fixed, **row, columns: column}.items()}
        for row in rows
        for column in settings[columns]
    ]
    sweep = Sweep(
        columns=tuple(choice.caption for choice in settings[columns]),
        rows=tuple("\n".join(choice.caption for choice in row.values()) for row in rows),
        common=", ".join(choice.caption for choice in fixed.values() if choice.caption),
    )
    return images, sweep
