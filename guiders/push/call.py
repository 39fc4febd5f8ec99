"""One model call of a run: what is predicted there, and what one push sees of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import formulas
from .noise import Noise
from .parts import split

if TYPE_CHECKING:
    from .formulas import Strength

# What calls name the pushes; further ones of a kind have a number as well.
WEAK, NEGATIVE, ANOTHER, HISTORY = "weak", "negative", "another", "history"

# A conditioning as nodes pass it on: pairs of a text embedding and a dictionary.
Conditioning = list[list[Any]]


def numbered(kind: str, number: int) -> str:
    """The name of a push of a kind: of the first one, ``number`` 0, the kind's own."""
    return kind if number == 0 else f"{kind}_{number + 1}"


@dataclass(frozen=True)
class Pushed:
    """What one push does at one model call; one that is off has only ``strength``.

    Attributes:
        strength: in use, after schedules; 0 is off. Of a latent in parts, what
            :func:`.parts.join_by_sample` returns, and so is the posterior.
        R: the bad version's prediction.
        delta: the difference ``C − R``, shaped.
        added: what was added to the prediction.
        D: what it was measured from in the place of ``C``, if it was not ``C``.
        posterior: of a schedule that has one, ``[batch]``.
    """

    strength: Strength = 0.0
    R: Tensor | None = None
    delta: Tensor | None = None
    added: Tensor | None = None
    D: Tensor | None = None
    posterior: Tensor | None = None

    def added_to(self, guided: Tensor) -> Tensor:
        """A prediction with this push, which is on, added."""
        return formulas.add_push(guided, self.delta, self.strength)


class Call:
    """One model call: its predictions by name, each made once, and what the pushes do there.

    A name is that of a push, for its bad version's prediction, or that of a prompt for which a
    shape needs the main model's.

    Args:
        x: noisy latent, ``[batch, channels, *spatial]``.
        sigma: its noise level, ``[batch]``.

    Attributes:
        C: the main model's prediction for the positive conditioning, once it is known.
        pushed: what each push does, by its name, once that is known.
    """

    def __init__(self, x: Tensor, sigma: Tensor) -> None:
        self.x = x
        self.sigma = sigma
        self.C: Tensor | None = None
        self.pushed: dict[str, Pushed] = {}
        self._offers: dict[str, Callable[[Call], Tensor]] = {}
        self._predictions: dict[str, Tensor] = {}
        self._differences: dict[str, Tensor] = {}
        self._reused: set[str] = set()
        self._limits: dict[str, Tensor] = {}
        self._level: float | None = None

    @property
    def level(self) -> float:
        """Sigma as a number, for which the device has to be waited for."""
        if self._level is None:
            self._level = float(self.sigma.max())
        return self._level

    def offer(self, name: str, predict: Callable[[Call], Tensor]) -> None:
        """Say what makes a prediction when it is first asked for; it may :meth:`reuse` one."""
        self._offers[name] = predict

    def limit(self, name: str, where: Tensor | None) -> None:
        """Say where a prediction was made at all; elsewhere there is no push.

        Args:
            name: as for :meth:`offer`; "" for ``C``.
            where: true there, like ``x``; None for everywhere.
        """
        if where is not None:
            self._limits[name] = where

    def is_limited(self, name: str) -> bool:
        """Whether a prediction, or ``C``, was not made everywhere."""
        return name in self._limits or "" in self._limits

    def take(self, name: str, prediction: Tensor) -> None:
        """Note a prediction that was made along with others."""
        self.offer(name, lambda _: prediction)

    def reuse(self, name: str, difference: Tensor) -> Tensor:
        """Take a difference from an earlier call; return the prediction that it stands for."""
        self._differences[name] = difference
        self._reused.add(name)
        return self.C - difference

    def is_reused(self, name: str) -> bool:
        """Whether a difference is one from an earlier call."""
        return name in self._reused

    def prediction(self, name: str) -> Tensor:
        """A prediction that was offered or taken; ``C`` where none was made."""
        if name not in self._predictions:
            R = self._offers[name](self)
            for limited in (name, ""):
                if limited in self._limits:
                    R = torch.where(self._limits[limited], R, self.C)
            self._predictions[name] = R
        return self._predictions[name]

    def difference(self, name: str) -> Tensor | None:
        """``C − R`` of a push, computed once; None where there is no such push at this call."""
        if name not in self._offers:
            return None
        R = self.prediction(name)
        if name not in self._differences:
            self._differences[name] = self.C - R
        return self._differences[name]


@dataclass(frozen=True)
class Step:
    """What the schedules and shapes of one push see of a model call.

    Tensors are on the device of ``x``. Of a latent in parts each part has a step of its own.

    Attributes:
        noise: of the run.
        x: noisy latent, ``[batch, channels, *spatial]``.
        sigma: its noise level, ``[batch]``.
        C: the main model's prediction for the positive conditioning.
        R: the prediction of this push's bad version.
        difference: ``C − R``.
        other: the other push's ``C − R``; None where there is no other push, or it is off.
        predict: the main model's prediction for a prompt that a shape of this push has named.
        measure_level: for :attr:`level`.
    """

    noise: Noise
    x: Tensor
    sigma: Tensor
    C: Tensor
    R: Tensor
    difference: Tensor
    other: Callable[[], Tensor | None]
    predict: Callable[[str], Tensor]
    measure_level: Callable[[], float]

    @property
    def level(self) -> float:
        """Sigma as a number, for which the device has to be waited for."""
        return self.measure_level()

    def in_parts(self) -> list[Step]:
        """The same of each part of the latent; this one alone where it has no parts."""
        parts = self.noise.parts
        if not parts:
            return [self]
        rows = [split(row, parts) for row in (self.x, self.C, self.R, self.difference)]

        def part(number: int) -> Step:
            x, C, R, difference = (of_row[number] for of_row in rows)
            return replace(
                self,
                x=x,
                C=C,
                R=R,
                difference=difference,
                other=partial(self._part_of_other, number),
                predict=partial(self._predict_part, number),
            )

        return [part(number) for number in range(len(parts))]

    def _part_of_other(self, number: int) -> Tensor | None:
        other = self.other()
        return None if other is None else split(other, self.noise.parts)[number]

    def _predict_part(self, number: int, name: str) -> Tensor:
        return split(self.predict(name), self.noise.parts)[number]


# One shape during a run: from a difference and the strength to another difference.
RunningShape = Callable[[Tensor, Step, "Strength"], Tensor]

# One schedule during a run: the factor of the strength, of each sample or of all.
RunningSchedule = Callable[[Step], "Strength"]
