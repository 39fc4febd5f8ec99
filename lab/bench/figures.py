"""Figures with their targets, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIB = 2**20


@dataclass(frozen=True)
class Target:
    """What a figure should be: ``at most`` or ``exactly`` a value."""

    relation: str
    value: float

    def is_met_by(self, value: float) -> bool:
        """Whether a figure is what it should be."""
        return value <= self.value if self.relation == "at most" else value == self.value


def at_most(value: float | None) -> Target | None:
    """A target, or none for a case that is there for comparison."""
    return None if value is None else Target("at most", value)


@dataclass(frozen=True)
class Figure:
    """One number that was measured.

    Attributes:
        name: what it is, in words.
        value: the number; the median, where there are several samples.
        unit: ``x`` (a ratio), ``s``, ``ms``, ``MiB`` or nothing (a count).
        target: what it should be; None for a figure that is there to compare with.
        quartiles: half of the samples lie between these two.
        extremes: all of them do between these.
        samples: how many there were.
    """

    name: str
    value: float
    unit: str = ""
    target: Target | None = None
    quartiles: tuple[float, float] | None = None
    extremes: tuple[float, float] | None = None
    samples: int = 1

    @classmethod
    def of(
        cls, name: str, samples: Sequence[float], unit: str = "x", target: Target | None = None
    ) -> Figure:
        """The median of some samples, and how far they spread."""
        if len(samples) == 1:
            return cls(name, samples[0], unit, target)
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(
            name,
            statistics.median(samples),
            unit,
            target,
            (low, high),
            (min(samples), max(samples)),
            len(samples),
        )

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.is_met_by(self.value)

    def as_json(self) -> dict[str, Any]:
        """For the file, and for another process."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Figure:
        """What :meth:`as_json` has made."""
        fields = {name: value for name, value in stored.items() if name != "met"}
        target = fields["target"]
        return cls(**{**fields, "target": None if target is None else Target(**target)})

    def row(self) -> tuple[str, str, str, str, str]:
        """Name, value, spread, target and verdict, as the table shows them."""
        spread = (
            f"{self._text(self.quartiles[0])} – {self._text(self.quartiles[1])}"
            if self.quartiles
            else ""
        )
        target = f"{self.target.relation} {self.target.value:g}" if self.target else ""
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return self.name, f"{self._text(self.value)} {self.unit}".strip(), spread, target, verdict

    def _text(self, value: float) -> str:
        digits = {"x": 3, "s": 3, "ms": 2, "MiB": 1}.get(self.unit)
        return f"{value:g}" if digits is None else f"{value:.{digits}f}"


def table(cases: Iterable[tuple[str, Sequence[Figure]]]) -> str:
    """All figures, below the titles of their cases."""
    sections = [(title, [figure.row() for figure in figures]) for title, figures in cases]
    header = ("", "median", "half of them", "target", "")
    rows = [header, *(row for _, section in sections for row in section)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        name, value, *rest = row
        cells = [name.ljust(widths[0]), value.rjust(widths[1])]
        cells += [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        return "  ".join(["", *cells]).rstrip()

    lines = [line(header)]
    for title, section in sections:
        lines += ["", title, *map(line, section)]
    return "\n".join(lines)
