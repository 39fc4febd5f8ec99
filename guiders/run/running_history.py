"""One push away from the image's own past, during one sampling run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..push.call import Call, Pushed
from ..push.push import RunningPush

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.noise import Noise
    from .settings import HistoryPush


class RunningHistoryPush:
    """A push away from the image's own past during one run.

    Args:
        name: by which a call knows it.
        settings: of the push.
        noise: of the run.

    Attributes:
        settings: as above.
        push: the arithmetic of it.
    """

    def __init__(self, name: str, settings: HistoryPush, noise: Noise) -> None:
        self.settings = settings
        self.push = RunningPush(name, settings.push, noise)
        self._history = settings.history.start(noise)

    def add_to(self, before: Tensor, call: Call, D: Tensor, *, measured: bool) -> Tensor:
        """Add the push at one call to what the sampler gets, and remember the call.

        Args:
            before: what the sampler gets so far, with other pushes of this kind.
            call: of the run; what was done is noted in it.
            D: what the sampler gets without any push of this kind.
            measured: whether it matters how much was added.
        """
        R = self._history.bad_version(call.x, call.sigma, call.level, D)
        name = self.push.name
        # Measured from D, while the predictions of the run's own call are measured from C.
        own = Call(call.x, call.sigma)
        own.C = D
        call.pushed[name] = Pushed()
        if not self.push.is_on(own) or R is None:
            return before
        own.take(name, R)
        pushed = self.push.at(own)
        guided = pushed.added_to(before)
        pushed = replace(pushed, D=D)
        call.pushed[name] = replace(pushed, added=guided - before) if measured else pushed
        return guided
