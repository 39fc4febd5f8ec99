"""A line of text about the push, while sampling goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ..push import formulas

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.formulas import Strength

# To read the device's numbers it has to be waited for, and nobody reads faster than this.
_SECONDS = 0.2


class LiveText:
    """Says now and then what guidance does.

    Args:
        show: is given each new text.
        weak: the weak models in words.
    """

    def __init__(self, show: Callable[[str], None], weak: Sequence[str] = ()) -> None:
        self._show = show
        self._weak = weak
        self._next = 0.0
        self._last: tuple[Tensor, Tensor, Tensor, Mapping[str, Strength]] | None = None

    def call(
        self, sigma: Tensor, C: Tensor, guided: Tensor, strengths: Mapping[str, Strength]
    ) -> None:
        """Take note of a model call, and show it if the last text is old enough.

        Args:
            sigma: ``[batch]``.
            C: the model's prediction for the positive conditioning.
            guided: what the sampler gets.
            strengths: in use, by the name that the artist knows the scale by.
        """
        self._last = (sigma, C, guided, strengths)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS
            self.finish()

    def finish(self) -> None:
        """Show the last model call."""
        if self._last is None:
            return
        sigma, C, guided, strengths = self._last
        self._last = None
        # What rounding leaves of no push is none.
        push = (100 * formulas.norm(guided - C) / formulas.norm(C)).round(decimals=1)
        parts = [f"sigma {float(sigma.max()):.3g}"]
        parts += [f"{name} {_range(1.0 + strength)}" for name, strength in strengths.items()]
        parts.append(f"push {_range(push)} %")
        parts += [f"away from {' and '.join(self._weak)}"] if self._weak else []
        self._show(" · ".join(parts))


def _range(value: float | Tensor) -> str:
    """A number, or the least and the greatest one of a batch."""
    ends = torch.aminmax(value) if isinstance(value, torch.Tensor) else (value, value)
    least, most = (f"{float(end):.3g}" for end in ends)
    return least if least == most else f"{least}–{most}"
